"""Before anything of ours is imported: shapes are enforced, nothing asks the network, and runs repeat."""

import os
import signal
from collections.abc import Iterator

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

import pytest
import torch
from jaxtyping import install_import_hook

from zygote import Zygote

install_import_hook("emanet", "shapes.checked")
for name, handler in {"SIGINT": signal.default_int_handler, "SIGHUP": signal.SIG_DFL}.items():  # under nohup: ignored
    if hasattr(signal, name):
        signal.signal(getattr(signal, name), handler)


@pytest.fixture(autouse=True)
def repeatable() -> Iterator[None]:
    """Each test starts from the same random state and with the default settings of torch."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # on tiny tensors a second thread only waits, for long where cores are shared
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def zygote() -> Zygote:
    """Runs the scripts without importing everything anew each time."""
    return Zygote()
