"""Values that are no mistake of the grammar or of a type, and make no sense: refused before anything heavy starts."""

from pathlib import Path

import pytest

from composing import settled
from emanet.cli.arguments import prepare
from emanet.common.errors import ConfigError
from emanet.training.build import build_trainer

FLOAT = "must be a number that float32 holds, got"
NAME = "must be the name of a folder, without / and at most 200 bytes, got"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("optimizer.lr=1e308", f"optimizer.lr {FLOAT} 1e+308"),
        ("optimizer.lr=nan", f"optimizer.lr {FLOAT} nan"),
        ("optimizer.weight_decay=-inf", f"optimizer.weight_decay {FLOAT} -inf"),
        ("optimizer.groups.biases.lr_factor=nan", f"optimizer.groups.biases.lr_factor {FLOAT} nan"),
        ("dataset.scales=[1,nan]", f"dataset.scales[1] {FLOAT} nan"),
        ("callbacks.last.every_n_steps=nan", f"callbacks.last.every_n_steps {FLOAT} nan"),
        ("trainer.max_steps=100000000000000000000", "trainer.max_steps must be a number that int64 holds, got 1"),
        ("dataset.scales=[1e-9]", "dataset.scales must be factors from 0.01 to 100, got [1e-09]"),
        ("dataset.scales=[]", "dataset.scales must be factors from 0.01 to 100, got []"),
        ("model.multi_grid=[-1,2,4]", "model.multi_grid must be null or factors from 1 on, got [-1, 2, 4]"),
        ("model.K=1000000000", "model.K must be from 1 to 65536, got 1000000000"),
        ("model.K=1e9", "model.K must be an integer, got 1000000000.0"),
        ("model.T=1000000000", "model.T must be from 1 to 1000, got 1000000000"),
        ("dataset.crop_size=0", "dataset.crop_size must be from 1 to 65536, got 0"),
        ("dataset.crop_size=1000000000", "dataset.crop_size must be from 1 to 65536, got 1000000000"),
        ("dataset.eval_batch_size=0", "dataset.eval_batch_size must be from 1 to 65536, got 0"),
        ("dataset.num_workers=100000", "dataset.num_workers must be from 0 to 256, got "),
        ("dataset.num_workers=-1", "dataset.num_workers must be from 0 to 256, got "),
        ("dataset.flip=2", "dataset.flip must be from 0 to 1, got 2"),
        ("optimizer.momentum=5", "optimizer.momentum must be from 0 to 1, got 5"),
        ("dataset.extra_transforms=[1]", "dataset.extra_transforms must be a list of BasicTransform or BaseCompose"),
        ("name=../../x", f"name {NAME} '../../x'"),
        ("name=a/b", f"name {NAME} 'a/b'"),
        ("name=.", f"name {NAME} '.'"),
        (f"name={'x' * 201}", f"name {NAME} 'xxx"),
        ("study=../x", "study must be null or the name of a folder, got '../x'"),
        ("trainer.limit_train_batches=0", "limit_train_batches must be null or more than 0, got 0"),
        ("trainer.devices=abc", "devices must be a number from 1 on, a list of numbers, -1 or auto, got 'abc'"),
        ("trainer.devices=0", "devices must be a number from 1 on"),
        ("trainer.devices=[]", "devices must be a number from 1 on"),
        ("trainer.devices=1.5", "trainer.devices must be an integer or a text or a list of an integer, got 1.5"),
        ("trainer.devices=null", "trainer.devices must be an integer or a text or a list of an integer, got None"),
        ("trainer.devices=1000", "cores: each would be a process with a network of its own"),
        ("trainer.accelerator=tpu", "trainer: "),
        ("trainer.accelerator=gpuu", "You selected an invalid accelerator name"),
        ("trainer.strategy=nope", "You selected an invalid strategy name"),
        ("trainer.max_steps=???", "trainer.max_steps=VALUE is missing"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_in_a_few_lines(tmp_path: Path, override: str, told: str):
    with pytest.raises(ConfigError) as caught:
        build_trainer(settled("trainer.accelerator=cpu", override), tmp_path, callbacks=[], loggers=[])
    assert told in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_more_processes_than_cores_are_started_on_request(tmp_path: Path):
    asked = ["trainer.accelerator=cpu", "trainer.devices=1000", "+trainer.oversubscribe=true"]
    _, trainer = build_trainer(settled(*asked), tmp_path, callbacks=[], loggers=[])
    assert trainer.num_devices == 1000


@pytest.mark.parametrize("group", ["model", "dataset", "callbacks", "experiment"])
def test_a_group_without_a_file_is_refused_before_hydra_trips_over_it(group: str):
    with pytest.raises(ConfigError, match=f"{group}=null: give a file of conf/{group}/, or ~{group} to leave"):
        prepare(["train.py", f"{group}=null"])
