"""A few long tasks on a CPU, each on one thread, in place of many short loops that all threads share.

Every loop that an operator shares among threads ends when the last of them is done. Thousands of short ones are fast on
an idle machine; on cores that other processes use too, data loading for one, they wait for the scheduler thousands of
times, and a hundred milliseconds become seconds. Tasks meet once, at their end.
"""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

Task = TypeVar("Task")
Result = TypeVar("Result")


def in_parallel(function: Callable[[Task], Result], tasks: Sequence[Task], *, device: torch.device) -> list[Result]:
    """Results of the tasks in their order, without gradient; on a CPU on as many threads as PyTorch may use."""
    threads = torch.get_num_threads()
    # these settings are a thread's own
    inference, autocast = torch.is_inference_mode_enabled(), torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type)

    def run(task: Task) -> Result:
        with torch.inference_mode(inference), torch.no_grad(), torch.autocast(device.type, dtype, enabled=autocast):
            return function(task)

    if device.type != "cpu" or threads == 1 or len(tasks) == 1:
        return [run(task) for task in tasks]
    return list(pool(os.getpid(), threads).map(run, tasks))


@cache
def pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads that compute alone; of one process, as they do not survive a fork.

    All of them start here. A thread's number becomes the default of later threads, and its first use of PyTorch takes
    over the default: one that started late would do both at any time.
    """
    together = threading.Barrier(threads)
    executor = ThreadPoolExecutor(threads, "emanet", initializer=compute_alone)
    list(executor.map(lambda _: together.wait(), range(threads)))
    torch.set_num_threads(threads)
    return executor


def compute_alone() -> None:
    """Let this thread share its loops with no other."""
    torch.get_num_threads()  # the first use of a thread sets its number to that of all, and must not come later
    torch.set_num_threads(1)
