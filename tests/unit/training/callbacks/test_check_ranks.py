"""The assertion that all devices hold the same network."""

import multiprocessing
import socket

import pytest
import torch
import torch.distributed as dist

from emanet.training.callbacks.check_ranks import checksum, differing_tensors


def compare(rank: int, port: int, answers: "multiprocessing.Queue[list[str]]") -> None:
    """One of two ranks: the same weights, bases that differ in their last bit on rank 1."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    mu = torch.ones(4, 3)
    mu[2, 1] += rank * torch.finfo(torch.float32).eps
    state = {"weight": torch.arange(5, dtype=torch.float64), "mu": mu, "steps": torch.tensor(7)}
    answers.put(differing_tensors(state))
    answers.put(differing_tensors({"weight": state["weight"]}))
    dist.destroy_process_group()


def test_one_bit_on_one_rank_is_named_on_all():
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [context.Process(target=compare, args=(rank, port, answers)) for rank in range(2)]
    for process in processes:
        process.start()
    got = sorted(answers.get(timeout=120) for _ in range(4))
    for process in processes:
        process.join()
    assert got == [[], [], ["mu"], ["mu"]]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_the_checksum_sees_each_element_and_its_place(dtype):
    tensor = torch.tensor([1, 0, 1, 1, 0]).to(dtype)
    seen = {int(checksum(tensor))}
    for place in range(5):
        changed = tensor.clone()
        changed[place] = 1 - changed[place].to(torch.int64)
        seen.add(int(checksum(changed)))
    assert len(seen) == 6
    assert int(checksum(tensor)) != int(checksum(tensor.flip(0)))
