"""last.ckpt: when it is written, and that it is what a run needs to go on."""

from pathlib import Path

import torch

from emanet.training.callbacks import LastCheckpoint
from emanet.training.checkpoint_io import SafeCheckpointIO
from small_run import ColorData, make_task, make_trainer


class Recorder(LastCheckpoint):
    """Remembers the optimizer step of each save."""

    def _save(self, trainer):
        super()._save(trainer)
        self.steps = [*getattr(self, "steps", []), trainer.global_step]


def test_it_is_saved_at_every_multiple_of_optimizer_steps_and_at_the_end(tmp_path: Path):
    last = Recorder(tmp_path, every_n_steps=3)
    make_trainer(tmp_path, [last]).fit(make_task(), ColorData())
    assert last.steps == [3, 6, 8]


def test_accumulated_batches_do_not_save_the_same_step_again(tmp_path: Path):
    last = Recorder(tmp_path, every_n_steps=2)
    trainer = make_trainer(tmp_path, [last], accumulate_grad_batches=2, max_steps=5, val_check_interval=8)
    trainer.fit(make_task(), ColorData())
    assert last.steps == [2, 4, 5]


def test_the_last_checkpoint_holds_the_final_weights_and_a_second_run_goes_on_from_its_step(tmp_path: Path):
    task = make_task()
    make_trainer(tmp_path, [LastCheckpoint(tmp_path)], plugins=[SafeCheckpointIO()]).fit(task, ColorData())
    stored = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert stored["global_step"] == 8
    assert torch.equal(stored["state_dict"]["net.backbone.weight"], task.net.backbone.weight)

    again = Recorder(tmp_path, every_n_steps=4)
    trainer = make_trainer(tmp_path, [again], max_steps=14)
    trainer.fit(make_task(), ColorData(), ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert again.steps == [12, 14]  # step 8 is saved already


def test_the_one_before_the_last_stays_and_a_validation_comes_before_a_save(tmp_path: Path):
    seen = []

    class Validations(LastCheckpoint):
        def _save(self, trainer):
            seen.append((trainer.global_step, trainer.lightning_module.validation.get("step")))
            super()._save(trainer)

    make_trainer(tmp_path, [Validations(tmp_path, every_n_steps=2)], plugins=[SafeCheckpointIO()], max_steps=6).fit(
        make_task(), ColorData()
    )
    assert seen == [(2, None), (4, 4), (6, 6), (6, 6)]  # validations follow steps 4 and 6; the last save is the end's
    steps = {
        path.name: torch.load(path, weights_only=True)["global_step"] for path in tmp_path.glob("checkpoints/*.ckpt")
    }
    assert steps == {"last.ckpt": 6, "previous.ckpt": 4}
