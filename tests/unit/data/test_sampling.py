"""Order, sharding and resume: laws over ranks, workers and epochs."""

from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch

from emanet.common.errors import ConfigError, DatasetError
from emanet.data.datasets.folder import Folder
from emanet.data.sampling import EpochBatchSampler, evaluated, per_device_batch
from fake_data import write_folder


def epoch(sampler: EpochBatchSampler, number: int) -> list[list[int]]:
    sampler.set_epoch(number)
    batches = list(sampler)
    assert all(told == number for batch in batches for told, _ in batch)
    return [[index for _, index in batch] for batch in batches]


def test_an_epoch_shows_each_image_at_most_once_and_leaves_out_less_than_a_step():
    sampler = EpochBatchSampler(23, batch_size=4, seed=0)
    indices = [index for batch in epoch(sampler, 0) for index in batch]
    assert len(indices) == len(set(indices)) == 20 == 4 * len(sampler)


def test_epochs_and_seeds_differ_and_repeat():
    orders = [epoch(EpochBatchSampler(16, batch_size=4, seed=seed), n) for seed in (0, 1, 0) for n in (0, 1, 2)]
    assert len({str(order) for order in orders}) == 6
    assert orders[:3] == orders[6:]


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (1, 2), (2, 2), (4, 1), (1, 4)])
def test_a_step_takes_the_same_images_on_any_number_of_ranks_and_accumulated_batches(world: int, accumulate: int):
    length, batch = 23, 4
    whole = [set(step) for step in epoch(EpochBatchSampler(length, batch_size=batch, seed=5), 3)]
    share = per_device_batch(batch, world=world, accumulate=accumulate)
    ranks = [
        epoch(EpochBatchSampler(length, batch_size=share, seed=5, rank=rank, world=world, accumulate=accumulate), 3)
        for rank in range(world)
    ]
    assert {len(batches) for batches in ranks} == {len(whole) * accumulate}
    steps = []
    for s in range(len(whole)):
        parts = [i for rank in ranks for micro in rank[s * accumulate : (s + 1) * accumulate] for i in micro]
        assert len(parts) == len(set(parts)) == batch
        steps.append(set(parts))
    assert steps == whole


def test_without_drop_last_the_last_step_is_filled_from_the_front():
    batches = epoch(EpochBatchSampler(10, batch_size=4, seed=0, drop_last=False), 0)
    assert [len(batch) for batch in batches] == [4, 4, 4]
    assert {i for batch in batches for i in batch} == set(range(10))
    assert batches[2][2:] == batches[0][:2]


def test_a_resumed_epoch_yields_exactly_the_rest_and_the_next_one_is_whole():
    whole = epoch(EpochBatchSampler(20, batch_size=4, seed=0), 2)
    sampler = EpochBatchSampler(20, batch_size=4, seed=0)
    sampler.skip(2, 3)
    assert epoch(sampler, 2) == whole[3:]
    assert len(sampler) == 5
    assert len(epoch(sampler, 2)) == 5
    sampler.skip(2, 3)
    assert len(epoch(sampler, 3)) == 5


@pytest.mark.parametrize(("length", "world"), [(7, 1), (7, 2), (7, 3), (8, 4), (5, 5)])
def test_evaluation_shows_each_image_exactly_once_over_the_ranks(length: int, world: int):
    shares = [evaluated(length, rank=rank, world=world) for rank in range(world)]
    assert sorted(index for share in shares for index in share) == list(range(length))


def test_fewer_images_than_devices_to_evaluate_are_refused():
    with pytest.raises(DatasetError, match="3 images to evaluate on 4 devices"):
        evaluated(3, rank=0, world=4)


def test_the_global_batch_must_divide_and_the_error_says_the_numbers():
    assert per_device_batch(16, world=4, accumulate=2) == 2
    with pytest.raises(ConfigError, match=r"got 16 for 3 x 2 = 6; the nearest that fits is 18"):
        per_device_batch(16, world=3, accumulate=2)
    with pytest.raises(ConfigError, match=r"got 0 for 1 x 1"):
        per_device_batch(0, world=1, accumulate=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("own")
    write_folder(root, n_train=11, n_val=3)
    return root


def folder(root: Path, workers: int = 0, **options) -> Folder:
    return Folder(root=root, num_classes=3, batch_size=2, num_workers=workers, crop_size=33, **options)


def stream(loader, epochs=(0, 1)) -> list[tuple[list[str], bytes]]:
    shown = []
    for number in epochs:
        loader.batch_sampler.set_epoch(number)
        shown += [(batch["name"], batch["image"].numpy().tobytes()) for batch in loader]
    return shown


def test_batches_are_the_same_with_any_number_of_workers_and_differ_from_epoch_to_epoch(root: Path):
    alone = stream(folder(root).train_dataloader())
    assert len(alone) == 10
    assert alone == stream(folder(root, 2).train_dataloader())
    assert alone == stream(folder(root, 2, persistent_workers=False).train_dataloader())
    crops = folder(root).train_dataloader().dataset
    assert len({crops[number, 0]["image"].numpy().tobytes() for number in range(3)}) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_resumed_in_the_middle_of_an_epoch_goes_on_with_the_very_next_batch(root: Path, workers: int):
    whole = stream(folder(root).train_dataloader(), [4])
    loader = folder(root, workers).train_dataloader()
    loader.batch_sampler.set_epoch(4)
    iterator = iter(loader)
    for _ in range(2):
        next(iterator)
    state = loader.state_dict()
    assert state == {"epoch": 4, "batches": 2}
    resumed = folder(root, workers).train_dataloader()
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert stream(resumed, [4]) == whole[2:]
    assert stream(resumed, [5]) == stream(folder(root).train_dataloader(), [5])


class Recorder(L.LightningModule):
    """Notes what it is shown; one weight, so that there is something to optimize."""

    def __init__(self):
        super().__init__()
        self.weight, self.shown = torch.nn.Parameter(torch.zeros(())), []

    def training_step(self, batch, _):
        self.shown.append((self.trainer.current_epoch, *batch["name"], float(batch["image"].sum())))
        return self.weight * batch["image"].mean()

    def validation_step(self, batch, _): ...

    def predict_step(self, batch, _):
        return batch["name"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Saver(L.Callback):
    """Saves after each step, as ModelCheckpoint(every_n_train_steps=1) does."""

    def __init__(self, at: Path):
        self.at = at

    def on_train_batch_end(self, trainer, *_):
        path = self.at / f"step={trainer.global_step}.ckpt"
        if not path.exists():  # not again within the same accumulation
            trainer.save_checkpoint(path)


QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}


def fit(root: Path, at: Path, resume: Path | None = None, **options) -> Recorder:
    """Nine steps, validated every third."""
    options |= {"max_epochs": -1, "max_steps": 9, "check_val_every_n_epoch": None, "val_check_interval": 3}
    options |= {"use_distributed_sampler": False, "enable_checkpointing": False, "callbacks": [Saver(at)]}
    module = Recorder()
    L.Trainer(**QUIET, **options).fit(module, datamodule=folder(root), ckpt_path=resume)
    return module


@pytest.mark.filterwarnings("ignore:.*does not have many workers")  # the data are five tiny batches
@pytest.mark.parametrize(
    "options", [{}, {"limit_train_batches": 3}, {"accumulate_grad_batches": 2}], ids=["plain", "limited", "accumulated"]
)
def test_lightning_resumes_at_any_step_with_the_batches_of_an_uninterrupted_run(root: Path, tmp_path: Path, options):
    whole = fit(root, tmp_path, **options).shown
    assert len({entry[0] for entry in whole}) > 1
    per_step = options.get("accumulate_grad_batches", 1)
    for step in (1, 2, 3, 4, 5, 6):
        resumed = fit(root, tmp_path, resume=tmp_path / f"step={step}.ckpt", **options).shown
        assert resumed == whole[step * per_step :], step


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_lightning_predicts_each_image_once_in_order(root: Path):
    shown = L.Trainer(**QUIET).predict(Recorder(), datamodule=folder(root))
    assert shown == [["val0"], ["val1"], ["val2"]]


def test_the_generator_of_the_order_does_not_touch_the_global_one(root: Path):
    torch.manual_seed(0)
    before, numpy_before = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    stream(folder(root).train_dataloader(), [0])
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(np.random.get_state()[1], numpy_before)
