"""Tasks on several threads: order, settings, errors, forks."""

import multiprocessing
import threading

import pytest
import torch

from emanet.common import workers
from emanet.common.workers import in_parallel

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def two_threads() -> None:
    torch.set_num_threads(2)


def test_results_come_in_the_order_of_the_tasks_from_threads_that_compute_alone():
    both = threading.Barrier(2, timeout=60)

    def task(number: int) -> tuple[int, int, str]:
        both.wait()  # the next task must be running too
        return number, torch.get_num_threads(), threading.current_thread().name

    results = in_parallel(task, range(6), device=CPU)
    assert [number for number, _, _ in results] == list(range(6))
    assert {threads for _, threads, _ in results} == {1}
    assert len({name for _, _, name in results}) == 2


def test_the_callers_and_later_threads_keep_their_number_of_threads():
    in_parallel(lambda _: torch.ones(3).sum(), range(4), device=CPU)
    seen = [torch.get_num_threads()]
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [2, 2]


def test_a_thread_that_starts_late_does_not_change_the_number_of_later_threads(monkeypatch: pytest.MonkeyPatch):
    real, slow = workers.compute_alone, threading.Event()

    def start() -> None:  # the second thread only starts when the first could have done everything
        if threading.current_thread().name.endswith("_1"):
            slow.wait(0.5)
        real()

    monkeypatch.setattr(workers, "compute_alone", start)
    workers.pool.cache_clear()
    in_parallel(lambda _: None, range(4), device=CPU)
    slow.set()
    seen: list[int] = []
    for _ in range(20):
        later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        later.start()
        later.join()
    assert set(seen) == {2}


def test_one_task_or_one_thread_needs_no_other():
    name = threading.current_thread().name
    assert in_parallel(lambda _: threading.current_thread().name, [0], device=CPU) == [name]
    torch.set_num_threads(1)
    assert in_parallel(lambda _: threading.current_thread().name, [0, 1], device=CPU) == [name] * 2


@pytest.mark.parametrize("tasks", [1, 3])
def test_tasks_compute_under_the_callers_settings_and_without_gradient(tasks: int):
    def task(_: int) -> tuple[bool, bool, torch.dtype]:
        product = torch.ones(2, 2) @ torch.ones(2, 2)
        return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), product.dtype

    assert set(in_parallel(task, range(tasks), device=CPU)) == {(False, False, torch.float32)}
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert set(in_parallel(task, range(tasks), device=CPU)) == {(False, True, torch.bfloat16)}


def test_an_error_reaches_the_caller():
    def task(number: int) -> None:
        if number == 2:
            raise ValueError("of task 2")

    with pytest.raises(ValueError, match="of task 2"):
        in_parallel(task, range(4), device=CPU)
    assert torch.get_num_threads() == 2


def forked(results: multiprocessing.SimpleQueue) -> None:
    results.put(in_parallel(lambda number: number**2, range(4), device=CPU))


def test_threads_are_started_anew_after_a_fork():
    in_parallel(lambda number: number, range(4), device=CPU)
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    child = context.Process(target=forked, args=(results,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert results.get() == [0, 1, 4, 9]
