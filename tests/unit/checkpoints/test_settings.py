"""What evaluation takes from a checkpoint: data. Nothing in it is imported, called, resolved or written to."""

from pathlib import Path
from typing import Any

import pytest
import torch

from emanet.checkpoints.settings import stored_settings
from emanet.common.errors import WeightsError
from tiny import tiny_net

MODEL = {"_target_": "emanet.EMANet", "backbone": "test_resnet", "output_stride": 16, "channels": 8, "K": 3}
DATASET = {"_target_": "emanet.data.Folder", "name": "mine", "root": "/nowhere", "class_names": ["a", "b", "c", "d"]}


def checkpoint(path: Path, **groups: Any) -> str:
    """A checkpoint with these groups in place of harmless ones."""
    content = {"model": MODEL, "dataset": DATASET, "trainer": {"_target_": "emanet.training.TrainerSetup"}} | groups
    classes = {"names": ["a", "b", "c", "d"], "palette": None}
    state = {f"net.{key}": value for key, value in tiny_net().state_dict().items()}
    torch.save({"hyper_parameters": content, "state_dict": state, "classes": classes}, path)
    return str(path)


def test_our_own_settings_come_back_with_defaults_for_what_they_lack(tmp_path: Path):
    stored = stored_settings(checkpoint(tmp_path / "x.ckpt"))
    assert stored["dataset"] == DATASET
    assert (stored["model"]["K"], stored["model"]["T"], stored["model"]["backbone"]) == (3, 3, "test_resnet")
    assert stored["trainer"]["devices"] == 1


def test_what_training_alone_needs_or_would_write_is_left_out(tmp_path: Path):
    hostile = {"_target_": "os.system", "command": "touch x"}
    dataset = DATASET | {"extra_transforms": [hostile], "cache": "/somewhere"}
    trainer = {"_target_": "emanet.training.TrainerSetup", "profiler": {"_target_": "os.abort"}, "precision": "32-true"}
    stored = stored_settings(checkpoint(tmp_path / "x.ckpt", dataset=dataset, trainer=trainer))
    assert stored["dataset"] == DATASET
    assert "profiler" not in stored["trainer"]


@pytest.mark.parametrize(
    ("groups", "place"),
    [
        ({"dataset": {"_target_": "os.system", "command": "touch MARK"}}, "dataset._target_=os.system"),
        ({"dataset": DATASET | {"root": {"_target_": "os.system", "command": "x"}}}, "dataset.root._target_=os.system"),
        ({"dataset": DATASET | {"_target_": "emanet.data.read_image"}}, "dataset._target_=emanet.data.read_image"),
        ({"dataset": DATASET | {"colors": [{"_target_": "os.abort"}]}}, "dataset.colors[0]._target_=os.abort"),
        ({"trainer": {"_target_": "os.abort"}}, "trainer._target_=os.abort"),
        ({"model": MODEL | {"_target_": "torch.hub.load"}}, "_target_=torch.hub.load"),
        ({"model": MODEL | {"head": "antigravity.Head"}}, "head=antigravity.Head"),
        ({"dataset": DATASET | {"root": "${oc.env:HOME}"}}, "dataset.root holds '${oc.env:HOME}'"),
        ({"dataset": "x"}, "holds no settings"),
        ({"model": MODEL | {"multi_grid": {"a": 1}}}, "its settings of the model are of other types than ours"),
    ],
)
def test_what_is_not_ours_is_refused_by_name_before_anything_is_imported(tmp_path: Path, groups: dict, place: str):
    with pytest.raises(WeightsError) as caught:
        stored_settings(checkpoint(tmp_path / "x.ckpt", **groups))
    assert place in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


def test_classes_of_ones_own_are_taken_on_request(tmp_path: Path):
    dataset = DATASET | {"_target_": "my_data.MyData"}
    path = checkpoint(tmp_path / "x.ckpt", dataset=dataset)
    assert stored_settings(path, trust=True)["dataset"]["_target_"] == "my_data.MyData"
