"""The guard: a bad step stops a run or leaves no trace, and its images are named."""

import copy
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from emanet.training.callbacks import Guard
from emanet.training.callbacks.guard import BadStepError, finite
from tiny import RecordingTask, fit, tiny_batch, tiny_net


def batches(*, bad: int | None = None, kind: str = "nan") -> list[dict[str, Any]]:
    """Four batches, one of which is spoilt."""
    made = [tiny_batch(2, seed=seed) for seed in range(4)]
    if bad is not None:
        made[bad]["image"][1] = float("nan") if kind == "nan" else 1e200
    return made


class Watch(Callback):
    """Keeps the whole state after each batch."""

    def __init__(self) -> None:
        self.states: list[tuple[dict, dict]] = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.states.append(
            (copy.deepcopy(pl_module.net.state_dict()), copy.deepcopy(trainer.optimizers[0].state_dict()["state"]))
        )


def equal(left: Any, right: Any) -> bool:
    """Whether two nested states are the same to the bit."""
    if isinstance(left, torch.Tensor):
        return torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, tuple):
        return all(map(equal, left, right))
    return left == right


def trained(guard: Guard | None, data: list[dict], *, frozen_bn: bool = False, **options: Any) -> tuple[Any, Watch]:
    watch = Watch()
    task = RecordingTask(tiny_net(bn_momentum=0.1), frozen_bn=frozen_bn)
    task.log = lambda *_, **__: None  # type: ignore[method-assign]
    fit(task, data, callbacks=[watch] + ([guard] if guard else []), **options)
    return task, watch


def test_without_a_guard_one_bad_image_ruins_weights_bases_and_statistics():
    task, _ = trained(None, batches(bad=1))
    state = task.net.state_dict()
    for key in ("fc0.conv.weight", "head.mu", "fc0.bn.running_mean"):
        assert state[key].isnan().any()


@pytest.mark.parametrize(("kind", "loss"), [("nan", "nan"), ("huge", r"1\.\d+e\+\d+")])
def test_stopping_names_step_and_images_and_the_weights_are_those_before(kind, loss):
    watch = Watch()
    task = RecordingTask(tiny_net(), frozen_bn=True)
    with pytest.raises(BadStepError, match=rf"step 3: loss {loss}.* images of rank 0: 2-0, 2-1 \(loss"):
        fit(task, batches(bad=2, kind=kind), callbacks=[watch, Guard()])
    assert len(watch.states) == 2
    assert equal(task.net.state_dict(), watch.states[-1][0])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_skipped_step_leaves_no_trace_and_training_goes_on(accumulate):
    guard = Guard(action="skip")
    _, watch = trained(guard, batches(bad=2), accumulate_grad_batches=accumulate)
    assert guard.skipped == 1
    if accumulate == 1:
        assert equal(watch.states[2], watch.states[1])
        assert not equal(watch.states[3], watch.states[2])
    else:
        assert equal(watch.states[3], watch.states[1]), "the good half of a bad step goes with it"
    for tensor in watch.states[-1][0].values():
        assert tensor.isfinite().all()


def test_a_guard_that_has_nothing_to_do_changes_nothing():
    free, _ = trained(None, batches())
    for action in ("stop", "skip"):
        task, _ = trained(Guard(action=action), batches())
        assert equal(task.net.state_dict(), free.net.state_dict())


def test_an_exploding_loss_is_one_above_the_limit():
    with pytest.raises(BadStepError, match=r"step 1: loss 1\.\d+"):
        fit(RecordingTask(tiny_net()), batches(), callbacks=[Guard(max_loss=1e-3)])
    fit(RecordingTask(tiny_net()), batches(), callbacks=[Guard(max_loss=None)])


def test_a_bad_gradient_counts_although_the_loss_is_finite():
    class Spoil(Callback):
        def on_after_backward(self, trainer, pl_module):
            next(p for p in pl_module.parameters() if p.grad is not None).grad[0] = float("inf")

    with pytest.raises(BadStepError, match="step 1"):
        fit(RecordingTask(tiny_net()), batches(), callbacks=[Spoil(), Guard()])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_value_that_is_no_number_is_found_wherever_it_is(value: float):
    mu, grads = torch.ones(1, 3, 2), [torch.full((40,), -3e38), torch.tensor(2.0), torch.ones(70, 3)]
    assert finite(mu, grads)
    assert finite(mu, [])
    for place in (mu, *grads):
        flat = place.view(-1)
        before, flat[-1] = flat[-1].clone(), value
        assert not finite(mu, grads)
        flat[-1] = before


def test_too_many_skipped_steps_in_a_row_stop_the_run():
    with pytest.raises(BadStepError, match="2 steps in a row were skipped"):
        trained(Guard(action="skip", max_skips=2, max_loss=1e-3), batches())


def test_verdicts_that_are_not_fetched_each_step_are_before_a_checkpoint(monkeypatch):
    guard = Guard(every_n_steps=100)
    real = guard._look
    monkeypatch.setattr(guard, "_look", lambda trainer: None)  # as on a GPU, where no step fetches its verdict
    task, _ = trained(guard, batches(bad=1))
    assert len(guard._pending) == 4
    monkeypatch.setattr(guard, "_look", real)
    with pytest.raises(BadStepError, match="step 2"):
        guard.on_save_checkpoint(task.trainer, task, {})
