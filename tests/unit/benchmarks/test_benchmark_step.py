"""benchmarks/step.py: its steps are Lightning's, its variants compute the same, and its parts are where time goes."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))

import built
import measure
import parts
import step

from tiny import loader, tiny_net

TINY = built.Setting("cpu", "test_resnet", size=33, images=2, classes=4)
ORDER = [
    "loss",  # before the network: what a step begins with
    "backbone",
    "head without the unit",
    "unit",
    "loss, backward",
    "head without the unit, backward",
    "unit, backward",
    "backbone, backward",
    "optimizer and bases",
]


# --- steps ------------------------------------------------------------------------------------------------------------


class Losses(L.Callback):
    """Keeps what each training step returned."""

    def __init__(self) -> None:
        self.found: list[Tensor] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.found.append(outputs["loss"])


def test_steps_are_those_of_lightning_to_the_last_bit():
    overrides = step.VARIANTS["plain"]
    call = built.training(overrides, TINY)
    second, third = call(), call()
    task, batch, losses = (
        built.make_task(built.configure([*TINY.overrides, *overrides]), TINY),
        built.make_batch(TINY),
        Losses(),
    )
    del task.log
    options: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(accelerator="cpu", max_steps=3, callbacks=[losses], enable_model_summary=False, **options)
    trainer.fit(task, loader([batch] * 3))
    assert torch.equal(torch.stack([second, third]), torch.stack(losses.found[1:]))
    assert losses.found[0] != losses.found[1] != losses.found[2]


@pytest.mark.parametrize("name", step.VARIANTS)
def test_every_variant_has_the_loss_of_the_plain_one(name: str):
    expected = [built.training(step.VARIANTS["plain"], TINY)() for _ in range(1)]
    got = [built.training(step.VARIANTS[name], TINY)() for _ in range(1)]
    half = name in ("bfloat16", "fast")
    torch.testing.assert_close(got, expected, rtol=0.05 if half else 1e-4, atol=0)


@pytest.mark.parametrize("look", ["plain", "ms_flip"])
def test_both_evaluations_count_every_labeled_pixel_in_the_same_cell(look: str):
    full, auto = (built.evaluation(upsample, look, TINY)() for upsample in ("full", "auto"))
    assert full.sum() == (built.make_batch(TINY)["mask"] != 255).sum() > 0
    assert torch.equal(full, auto)


def test_loading_gives_the_crops_of_a_batch(tmp_path: Path):
    crops = built.loading(tmp_path, TINY)()
    assert [(image.shape, mask.shape) for image, mask in crops] == 2 * [((3, 33, 33), (33, 33))]


# --- parts ------------------------------------------------------------------------------------------------------------


def test_parts_follow_each_other_as_the_step_does_and_add_up_to_it():
    laps = parts.Laps("cpu")
    call = built.training(step.VARIANTS["plain"], TINY, laps=laps)
    gaps = []
    for _ in range(5):  # a busy machine may stop the process between two clocks
        start = time.perf_counter()
        call()
        whole = time.perf_counter() - start
        gaps.append(1 - sum(laps.seconds.values()) / whole)
    assert list(laps.seconds) == ORDER
    assert 0 <= min(gaps) < 0.02
    rows = parts.part_rows({"of": "plain"}, call, laps, rounds=1)
    assert sum(row["share"] for row in rows) == pytest.approx(1, abs=0.01)


class Slow(torch.autograd.Function):
    """Takes its time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: float, backward: float) -> Tensor:
        ctx.seconds = backward
        time.sleep(forward)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        time.sleep(ctx.seconds)
        return gradients[0], None, None


@pytest.mark.parametrize(
    ("module", "part"),
    [
        ("backbone", "backbone"),
        ("fc0", "head without the unit"),
        ("emau", "unit"),
        ("fc1", "head without the unit"),
    ],
)
def test_what_a_module_costs_is_found_in_its_part(module: str, part: str):
    net, laps, slow = tiny_net().train(), parts.Laps("cpu"), 0.2

    def delay(_: nn.Module, __: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return Slow.apply(output[0], slow, 2 * slow), *output[1:]
        return Slow.apply(output, slow, 2 * slow)

    net.get_submodule(module).register_forward_hook(delay)
    parts.watch(net, laps, before="before")
    laps.start()
    logits = net(torch.randn(2, 3, 33, 33), low=True)
    logits.sum().backward()
    laps.lap("backbone, backward")
    longest = sorted(laps.seconds, key=lambda name: -laps.seconds[name])[:2]
    assert longest == [f"{part}, backward", part], laps.seconds
    assert laps.seconds[part] >= slow


# --- cases ------------------------------------------------------------------------------------------------------------


def test_growth_takes_fewer_large_images_on_a_cpu_and_leaves_the_base_out():
    base = built.Setting("cpu", "resnet50s", size=257, images=2)
    found = step.growth(base, (129, 257, 385, 513), (1, 2, 4))
    assert [(one.size, one.images) for one in found] == [(129, 2), (385, 1), (513, 1), (257, 1), (257, 4)]
    there = step.growth(built.Setting("cuda", "resnet50s", size=257, images=2), (129, 513), ())
    assert [(one.size, one.images) for one in there] == [(129, 2), (513, 2)]


def test_the_command_line_is_completed_for_the_device_and_keeps_what_was_said():
    given = ["--device", "cuda", "--images", "3"]
    options = step.complete(step.parser().parse_args(given))
    assert (options.backbone, options.size, options.images, options.batches) == ("resnet101s", 513, 3, (1, 4, 16))
    options = step.complete(step.parser().parse_args(["--device", "cpu"]))
    assert (options.backbone, options.size, options.images, options.ms_size) == ("resnet50s", 257, 2, 257)


def test_all_cases_of_a_device_are_listed_once():
    options = step.complete(step.parser().parse_args(["--device", "cuda"]))
    base = built.Setting("cuda", options.backbone, options.size, options.images)
    found = [(json.dumps(variant.case), variant.name) for variant in step.variants(options, [base])]
    assert len(found) == len(set(found)) == len(step.VARIANTS | step.ON_CUDA) + 2 * (3 + 2) + 2 * 2 * 2


def test_rows_measured_in_another_way_come_last_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measure, "roof", lambda device, dtypes: measure.Roof(1.0, {"float32": 1.0}))
    options = argparse.Namespace(
        device="cpu", rounds=1, budget=1, no_memory=True, peak=None, output=tmp_path / "x.json"
    )
    case, extra = {"task": "nothing"}, {"variant": "part", "ms": 1.0}
    measure.main("", [measure.Variant(case, "only", lambda: int)], options, also=lambda: [extra])
    rows = json.loads(options.output.read_text())["rows"]
    assert [row["variant"] for row in rows] == ["only", "part"]
    assert rows[1] == extra
