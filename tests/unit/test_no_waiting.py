"""Between two steps that log, the host never waits for the device: src/train.py on a device that notes who waits."""

import json
from pathlib import Path

import pytest

from fake_data import write_voc
from zygote import TINY, Zygote

STEPS, EVERY = 22, 10  # steps 10 and 20 log
FIRST = {"progress.py:_refresh"}  # the first loss is shown at once
LOGGING = {
    "progress.py:_refresh",  # the loss shown
    "guard.py:_look",  # the verdicts of ten steps
    "logger_connector.py:log_metrics",  # Lightning, for the loggers
}
WATCHED = "import far_device; far_device.train_there('waits.json')"


def waits(zygote: Zygote, folder: Path, *overrides: str, batches: int = STEPS) -> dict[int, set[str]]:
    """Who waited during and after which batch 1, 2, ... of a run with the default callbacks and loggers."""
    write_voc(folder / "data", n_train=6)
    options = [
        *TINY,
        "trainer.deterministic=false",
        f"trainer.log_every_n_steps={EVERY}",
        f"trainer.max_steps={STEPS}",
        f"trainer.val_every_n_steps={STEPS}",
        f"dataset.root={folder / 'data'}",
        "hydra.run.dir=run",
        *overrides,
    ]
    output = zygote.run(*options, cwd=folder, patch=WATCHED)
    seen = json.loads((folder / "waits.json").read_text())
    assert seen["devices"] == ["far"], output
    assert len(seen["batches"]) == batches - 1  # the last one ends with a validation, and is left out
    return {number: set(places) for number, places in enumerate(seen["batches"], start=1) if places}


def test_the_device_sees_each_way_of_waiting_and_computes_as_the_cpu_does(zygote: Zygote, tmp_path: Path):
    waiting = {
        "float(x.detach().sum())": True,
        "bool(x.isfinite().all())": True,
        "x.tolist()": True,
        "x[x > 0]": True,
        "x.cpu()": True,
        "torch.tensor(1.0, device='far')": True,
        "x.new_tensor(1.0)": True,
        "torch.zeros(3).to('far')": True,
        "torch.zeros(3).to('far', non_blocking=True)": False,
        "torch.full((), 1.0, device='far')": False,
        "x.where(x > 0, 0).sum()": False,
    }
    code = f"""
import torch
from far_device import FarDevice
with FarDevice() as device:
    x = torch.tensor([2.0, -1.0, 3.0], requires_grad=True, device="far")
    (x * x).sum().backward()
    values = x.grad.tolist()
    found = {{}}
    for code in {list(waiting)}:
        device.waits.clear()
        eval(code)
        found[code] = bool(device.waits)
assert values == [4.0, -2.0, 6.0], values
assert found == {waiting}, found
raise SystemExit
"""
    zygote.run(cwd=tmp_path, patch=code)


@pytest.mark.parametrize(
    "overrides", [(), ("loss=ohem", "callbacks.throughput.enabled=true")], ids=["default", "mining and throughput"]
)
def test_the_host_waits_only_at_steps_that_log(zygote: Zygote, tmp_path: Path, overrides: tuple[str, ...]):
    seen = waits(zygote, tmp_path, *overrides)
    assert seen == {1: FIRST, EVERY: LOGGING, 2 * EVERY: LOGGING}


def test_accumulating_clipping_and_class_weights_wait_no_more(zygote: Zygote, tmp_path: Path):
    options = ["trainer.accumulate_grad_batches=2", "trainer.gradient_clip_val=1.0", "loss.reduction=valid_pixels"]
    seen = waits(zygote, tmp_path, *options, f"loss.class_weights={[1] * 21}", batches=2 * STEPS)
    assert seen == {2: FIRST, 2 * EVERY: LOGGING, 4 * EVERY: LOGGING}


def test_skipping_bad_steps_waits_for_the_verdict_of_each(zygote: Zygote, tmp_path: Path):
    seen = waits(zygote, tmp_path, "callbacks.guard.action=skip")
    assert all("guard.py:_keep_or_undo" in seen[number] for number in range(1, STEPS))
    assert set().union(*seen.values()) == {"guard.py:_keep_or_undo"} | FIRST | LOGGING - {"guard.py:_look"}
