"""Two gloo processes with different images each end where one process with all images ends."""

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp

from emanet.training.distributed import SharedStatisticsDDPStrategy
from emanet.training.losses import NLL
from tiny import RecordingTask, assert_same, fit, joined, tiny_batch, tiny_net

WORLD = 2

# Per step and rank: ranks differ in images, in their number, and in how much of them is ignored.
STEPS = [
    (tiny_batch(2, seed=1, ignored=0.7), tiny_batch(1, seed=2, ignored=0.0)),
    (tiny_batch(1, seed=3, ignored=0.2), tiny_batch(3, seed=4, ignored=0.6)),
    (tiny_batch(2, seed=5, ignored=0.1), tiny_batch(2, seed=6, ignored=1.0)),
    (tiny_batch(1, seed=7, ignored=0.5), tiny_batch(2, seed=8, ignored=0.0)),
]
VAL = [tiny_batch(1, seed=seed) for seed in (11, 12, 13)]  # three images for two ranks

CASES: dict[str, dict[str, Any]] = {
    "all_pixels": {"loss": {"reduction": "all_pixels"}},
    "valid_pixels": {"loss": {"reduction": "valid_pixels"}},
    "accumulated": {"loss": {"reduction": "valid_pixels"}, "trainer": {"accumulate_grad_batches": 2}},
    "bases by gradient": {"net": {"maintenance": "backprop", "gradient": "full"}},
    "head without bases": {"net": {"head": "nonlocal"}},
    "validated": {"val": True, "trainer": {"val_check_interval": 2, "max_epochs": 2}},
    "running statistics": {
        "net": {"bn_momentum": 0.5},
        "task": {"frozen_bn": False},
        "trainer": {"accumulate_grad_batches": 2},  # two forwards before the statistics are averaged
        "steps": 2,
    },
}


def build(name: str, *, disturbed: bool = False) -> RecordingTask:
    """A case's task; the same weights in every process unless disturbed."""
    case = CASES[name]
    net = tiny_net(**case.get("net", {}))
    if disturbed:
        with torch.no_grad():
            for tensor in (*net.parameters(), *([net.head.mu] if net.has_bases else [])):
                tensor.add_(1.0)
    return RecordingTask(net, loss=NLL(**case.get("loss", {})), **case.get("task", {}))


def work(rank: int, port: int, folder: str) -> None:
    """One of the two processes: train every case on this rank's batches and save what came out."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(WORLD),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "TORCHELASTIC_RUN_ID": "test",  # tells Lightning that the processes are there already
    }
    torch.set_num_threads(1)
    results = {}
    for name, case in CASES.items():
        task = build(name, disturbed=rank == 1)  # another start than rank 0's, which must be overwritten
        fit(
            task,
            [step[rank] for step in STEPS[: case.get("steps")]],
            val=VAL[rank::WORLD] if case.get("val") else None,
            devices=WORLD,
            strategy=SharedStatisticsDDPStrategy(process_group_backend="gloo"),
            **case.get("trainer", {}),
        )
        results[name] = task.result()
    torch.save(results, Path(folder) / f"{rank}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict]]:
    """Results of both processes, by case."""
    folder = tmp_path_factory.mktemp("ddp")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(work, (port, str(folder)), nprocs=WORLD)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(WORLD)]


def one_process(name: str) -> RecordingTask:
    """The same case with each step's images in one batch."""
    case = CASES[name]
    task = build(name)
    options = {key: value for key, value in case.get("trainer", {}).items() if key != "accumulate_grad_batches"}
    accumulate = case.get("trainer", {}).get("accumulate_grad_batches", 1)
    steps = STEPS[: case.get("steps")]
    batches = [
        joined(*(batch for step in steps[first : first + accumulate] for batch in step))
        for first in range(0, len(steps), accumulate)
    ]
    fit(task, batches, val=VAL if case.get("val") else None, **options)
    return task


@pytest.mark.parametrize(
    "name", ["all_pixels", "valid_pixels", "accumulated", "bases by gradient", "head without bases", "validated"]
)
@pytest.mark.parametrize("rank", range(WORLD))
def test_loss_gradients_and_bases_are_those_of_one_process_with_the_whole_batch(ranks: list, rank: int, name: str):
    whole = one_process(name)
    assert len(whole.losses) >= 2
    assert_same(ranks[rank][name], whole.result())


def test_the_ranks_have_different_images_so_that_rank_0_alone_would_not_do(ranks: list):
    """The oracle can tell: training on rank 0's images alone ends elsewhere."""
    alone = build("all_pixels")
    fit(alone, [step[0] for step in STEPS])
    distance = (alone.net.head.mu - ranks[0]["all_pixels"]["state"]["head.mu"]).abs().max()
    assert distance > 1e-4


def test_three_validation_images_on_two_ranks_count_once_each(ranks: list):
    labeled = sum(int((batch["mask"] != 255).sum()) for batch in VAL)
    for rank in range(WORLD):
        confusion = ranks[rank]["validated"]["confusion"]
        assert int(confusion.sum()) == labeled
        assert torch.equal(confusion, one_process("validated").confusion)


def test_running_statistics_are_the_mean_over_the_ranks_on_every_rank(ranks: list):
    moved = []
    for rank in range(WORLD):
        net = tiny_net(**CASES["running statistics"]["net"]).double().train()
        for step in STEPS[:2]:
            net(step[rank]["image"])
        moved.append(net.state_dict())
    keys = [key for key in moved[0] if key.endswith(("running_mean", "running_var"))]
    assert keys
    for key in keys:
        assert not torch.equal(moved[0][key], moved[1][key])
        for rank in range(WORLD):
            got = ranks[rank]["running statistics"]["state"][key]
            torch.testing.assert_close(got, (moved[0][key] + moved[1][key]) / 2, rtol=1e-9, atol=1e-12)
