"""The training task: one optimizer step is one batch, however it was cut; checkpoints; evaluation."""

from functools import partial
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from emanet.common.errors import ConfigError, DatasetError
from emanet.model.mmseg import MMSegEMANet
from emanet.training.losses import blocks as upsampled_loss_blocks
from emanet.training.losses import upsampled as upsampled_loss
from emanet.training.losses.nll import NLL, segmentation_loss
from emanet.training.losses.terms import BatchLoss, WeightedSum
from emanet.training.schedulers import poly
from emanet.training.task import SegmentationTask
from tiny import CLASSES, NAMES, RecordingTask, assert_same, fit, joined, loader, tiny_batch, tiny_net


@pytest.mark.parametrize(
    "options",
    [
        {"reduction": "all_pixels"},
        {"reduction": "valid_pixels"},
        {"reduction": "valid_pixels", "class_weights": [1.0, 0.5, 2.0, 3.0]},
    ],
)
def test_accumulating_unequal_batches_equals_one_big_batch(options: dict):
    steps = [
        (tiny_batch(1, seed=1, ignored=0.8), tiny_batch(3, seed=2)),
        (tiny_batch(2, seed=3), tiny_batch(1, seed=4, ignored=0.5)),
    ]
    whole = RecordingTask(tiny_net(), loss=NLL(**options))
    fit(whole, [joined(*step) for step in steps])
    cut = RecordingTask(tiny_net(), loss=NLL(**options))
    fit(cut, [batch for step in steps for batch in step], accumulate_grad_batches=2)
    assert len(whole.losses) == 2
    assert_same(cut.result(), whole.result())


def test_a_last_incomplete_accumulation_is_weighted_by_what_it_holds():
    batches = [tiny_batch(2, seed=1), tiny_batch(2, seed=2), tiny_batch(1, seed=3)]
    cut, whole = RecordingTask(tiny_net()), RecordingTask(tiny_net())
    fit(cut, batches, accumulate_grad_batches=2)
    fit(whole, [joined(*batches[:2]), batches[2]])
    assert_same(cut.result(), whole.result())


@pytest.mark.parametrize("reduction", ["all_pixels", "valid_pixels"])
def test_loss_gradients_and_bases_of_a_step_are_those_of_plain_pytorch(reduction: str):
    batch = tiny_batch(2, ignored=0.4)
    task = RecordingTask(tiny_net(), loss=NLL(reduction=reduction))
    fit(task, [batch])

    net = tiny_net().double().eval()  # batch norms frozen, no dropout: evaluation is training here
    start = net.head.mu.clone()
    logits, mu = net(batch["image"], return_bases=True)
    loss = segmentation_loss(logits, batch["mask"], reduction=reduction)
    loss.backward()
    assert task.losses == pytest.approx([loss.item()], rel=1e-12)
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(task.gradients[0][name], parameter.grad, rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(task.net.head.mu, 0.9 * start + 0.1 * mu.mean(0, keepdim=True))


def mmseg_net() -> MMSegEMANet:
    """A network with corners that are not aligned, and an auxiliary head."""
    torch.manual_seed(0)
    return MMSegEMANet(CLASSES, backbone="resnet18", output_stride=16, channels=8, K=3, dropout=0.0)


@pytest.mark.parametrize("build", [tiny_net, mmseg_net])
def test_upsampling_with_the_loss_trains_as_upsampling_first(build, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(upsampled_loss, "SMALL", 0)
    monkeypatch.setattr(upsampled_loss_blocks, "BLOCK", 1000)
    results = []
    for upsample in ("full", "auto"):
        task = RecordingTask(build(), loss=NLL(upsample=upsample))
        fit(task, [tiny_batch(2, ignored=0.3), tiny_batch(1, seed=1)])
        assert len(task.losses) == 2
        results.append(task.result())
    assert_same(*results)


def test_the_schedule_steps_with_the_optimizer():
    task = RecordingTask(tiny_net(), scheduler=partial(poly, max_steps=4, refresh=1, power=1.0), lr=1.0)
    trainer = fit(task, [tiny_batch(1, seed=seed) for seed in range(4)], accumulate_grad_batches=2)
    assert trainer.global_step == 2
    # Two steps are done; the third is iteration 3 of 4, counted from 1.
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1 - 3 / 4)


@pytest.mark.parametrize("reduction", ["all_pixels", "valid_pixels"])
def test_a_step_without_any_labeled_pixel_leaves_finite_weights(reduction: str):
    batch = tiny_batch(2)
    batch["mask"].fill_(255)
    task = RecordingTask(tiny_net(), loss=NLL(reduction=reduction))
    fit(task, [batch])
    assert task.losses == [0.0]
    assert all(value.isfinite().all() for value in task.net.state_dict().values())
    assert all(not gradient.any() for gradient in task.gradients[0].values())


def test_the_checkpoint_holds_bases_and_plain_settings_and_loads_without_executing_code(tmp_path: Path):
    config = {"model": {"K": 3, "T": 3}, "dataset": {"name": "voc", "scales": [0.5, 1.0]}, "seed": 0, "note": None}
    task = RecordingTask(tiny_net(), config=config)
    start = task.net.head.mu.clone()
    trainer = fit(
        task, [tiny_batch(2)], callbacks=[ModelCheckpoint(tmp_path, filename="last")], enable_checkpointing=True
    )
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    checkpoint = torch.load(tmp_path / "own.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"] == config
    assert type(checkpoint["hyper_parameters"]["model"]) is dict
    assert torch.equal(checkpoint["state_dict"]["net.head.mu"], task.net.head.mu)
    assert not torch.equal(task.net.head.mu, start)
    assert not any("metrics" in key or "class_weights" in key for key in checkpoint["state_dict"])


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path):
    batches = [tiny_batch(2, seed=seed) for seed in range(4)]
    whole = RecordingTask(tiny_net(), scheduler=partial(poly, max_steps=8, refresh=1))
    fit(whole, batches, max_epochs=2)
    first = RecordingTask(tiny_net(), scheduler=partial(poly, max_steps=8, refresh=1))
    fit(first, batches, max_epochs=1).save_checkpoint(tmp_path / "half.ckpt")
    second = RecordingTask(tiny_net(), scheduler=partial(poly, max_steps=8, refresh=1))
    trainer = L.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(second, loader(batches), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert trainer.global_step == 8
    for key, value in whole.net.state_dict().items():
        assert torch.equal(second.net.state_dict()[key], value), key


def test_validation_scores_whole_images_at_their_own_size():
    task = SegmentationTask(tiny_net(bn_momentum=1.0), class_names=NAMES)
    val = [tiny_batch(1, seed=5, dtype=torch.float32), tiny_batch(2, seed=6, dtype=torch.float32)]
    val[0]["image"], val[0]["mask"] = val[0]["image"][..., :20, :30], val[0]["mask"][..., :20, :30]
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    (scores,) = trainer.validate(task, loader(val), verbose=False)
    assert set(scores) == {
        "val/miou", "val/pixel_accuracy", "val/mean_accuracy", "val/classes_averaged", *(f"val/iou/{n}" for n in NAMES),
    }  # fmt: skip
    labeled = sum(int((batch["mask"] != 255).sum()) for batch in val)
    assert int(task.metrics.confusion.sum()) == labeled
    hits = int(task.metrics.confusion.diagonal().sum())
    assert scores["val/pixel_accuracy"] == pytest.approx(hits / labeled)
    assert 0 < scores["val/classes_averaged"] <= CLASSES


def test_training_and_validation_call_the_network_itself_which_is_what_gets_compiled():
    """``net.compile()`` compiles ``net(...)``: another method would run as before."""
    task = RecordingTask(tiny_net())
    calls = []
    task.net.register_forward_pre_hook(lambda net, args, kwargs: calls.append(kwargs), with_kwargs=True)
    fit(task, [tiny_batch(1)])
    task.validation_step(tiny_batch(1), 0)
    assert calls == [{"return_bases": True, "low": True}, {"low": True}]


def test_a_batch_norm_with_one_value_per_channel_and_nan_in_the_input_are_said_in_words():
    batch = tiny_batch(1)
    batch["image"], batch["mask"] = batch["image"][..., :8, :8], batch["mask"][..., :8, :8]  # one feature
    task = RecordingTask(tiny_net(), frozen_bn=False)
    with pytest.raises(
        ConfigError, match=r"1 image\(s\) of \(8, 8\) leave a batch norm one value per channel\n.*crop_size"
    ):
        fit(task, [batch])
    broken = tiny_batch(2)
    broken["image"][1, 0, 3, 3] = torch.nan
    with pytest.raises(DatasetError, match=r"the input holds NaN or infinite values: 0-0, 0-1"):
        task.validation_step(broken | {"name": ["0-0", "0-1"]}, 0)


def test_validation_does_not_move_the_network():
    task = RecordingTask(tiny_net(), frozen_bn=False)
    before = {key: value.clone() for key, value in task.net.state_dict().items()}
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.validate(task, loader([tiny_batch(1)]), verbose=False)
    assert all(torch.equal(value, before[key]) for key, value in task.net.state_dict().items())


def mean_square(logits: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """A loss that is no sum over pixels with a label."""
    return logits.square().mean().sqrt()


def test_a_loss_that_is_a_number_for_a_batch_is_averaged_over_the_parts_of_a_step():
    parts = [tiny_batch(2, seed=1), tiny_batch(1, seed=2)]
    task = RecordingTask(tiny_net(), loss=BatchLoss(mean_square))
    fit(task, parts, accumulate_grad_batches=2)
    net = tiny_net().double().eval()
    images = sum(len(part["image"]) for part in parts)
    loss = sum(mean_square(net(part["image"]), part["mask"]) * len(part["image"]) for part in parts) / images
    loss.backward()
    assert task.losses == pytest.approx([loss.item()], rel=1e-6)
    for name, parameter in net.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(task.gradients[0][name], parameter.grad, rtol=1e-5, atol=1e-9)


def test_a_sum_of_pixel_losses_is_exact_however_a_step_is_cut():
    steps = [(tiny_batch(1, seed=1, ignored=0.8), tiny_batch(3, seed=2))]
    results = []
    for batches, accumulate in (([joined(*step) for step in steps], 1), ([b for step in steps for b in step], 2)):
        loss = WeightedSum({"a": 1.0, "b": 0.5}, a=NLL(), b=NLL(class_weights=[1.0, 0.5, 2.0, 3.0]))
        task = RecordingTask(tiny_net(), loss=loss)
        fit(task, batches, accumulate_grad_batches=accumulate)
        results.append(task.result())
    assert_same(*results)


def test_training_counts_in_epochs_where_steps_have_no_limit():
    task = RecordingTask(tiny_net(), scheduler=partial(poly, refresh=1, power=1.0), lr=1.0)
    trainer = fit(task, [tiny_batch(1, seed=seed) for seed in range(3)], max_epochs=2)
    assert trainer.global_step == 6
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0  # behind the 6th step of 6
