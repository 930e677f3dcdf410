"""Signals that end a job early: remembered when they come, acted on where a run can be saved."""

import signal
import threading
from enum import IntEnum
from types import FrameType
from typing import Any

from emanet.common.errors import EMANetError


class Request(IntEnum):
    """What a signal asks for; of several, the highest counts."""

    NONE = 0
    STOP = 1  # SIGTERM, or SIGHUP of a terminal that is closed: save and exit
    REQUEUE = 2  # SIGUSR1, SIGUSR2: save, and let the cluster start the job again


ASKED = {"SIGTERM": Request.STOP, "SIGHUP": Request.STOP, "SIGUSR1": Request.REQUEUE, "SIGUSR2": Request.REQUEUE}
REQUESTS = {getattr(signal, name): asked for name, asked in ASKED.items() if hasattr(signal, name)}  # Windows: one


class InterruptedRunError(EMANetError):
    """A run that was told to stop, after it was saved."""

    exit_code = 128 + signal.SIGTERM


class Interrupts:
    """Takes over the signals of a job and remembers the last one; nothing else happens inside a handler.

    A checkpoint written by a handler would wait for devices that are still inside a step (Lightning's own requeueing
    does so, and can wait for ever).
    """

    def __init__(self) -> None:
        self.request = Request.NONE
        self.terminated = False
        self._before: dict[signal.Signals, Any] = {}

    def listen(self) -> None:
        """Take over; does nothing outside the main thread, where Python allows no handlers."""
        if threading.current_thread() is threading.main_thread():
            for number in REQUESTS:
                if signal.getsignal(number) is signal.SIG_IGN:  # nohup
                    continue
                before = signal.signal(number, self._remember)
                self._before.setdefault(number, before)

    def release(self) -> None:
        """Put the earlier handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        self.request = Request.NONE

    def _remember(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number)
        self.request = max(self.request, REQUESTS[name])
        self.terminated |= name == signal.SIGTERM
