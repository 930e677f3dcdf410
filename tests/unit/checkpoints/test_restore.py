"""Checkpoints of all four kinds read in one way; what they say stays data, whatever it says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from emanet.checkpoints.reference import to_reference_state_dict
from emanet.checkpoints.restore import check_classes, read_stored, read_weights, restore
from emanet.common.errors import ConfigError, EMANetError, WeightsError
from emanet.data.datasets import pascal_context, voc
from emanet.model.mmseg import MMSegEMANet
from emanet.model.network import EMANet
from golden.make_mmseg_golden import GOLDEN
from tiny import CLASSES, NAMES, tiny_net

SMALL = {"channels": 8, "K": 3}


def content(**changes: Any) -> dict[str, Any]:
    """What our training writes; ``group__key`` names a setting, ``None`` takes one out."""
    model = {"_target_": "emanet.EMANet", "backbone": "test_resnet", "output_stride": 16, "head": "ema", **SMALL}
    stored: dict[str, Any] = {
        "state_dict": {f"net.{key}": value for key, value in tiny_net().state_dict().items()},
        "hyper_parameters": {"model": {**model, "pretrained": True}, "dataset": {"name": "mine"}},
        "classes": {"names": NAMES, "palette": [[i, 0, 0] for i in range(CLASSES)]},
        "validation": {"val/miou": 0.5, "step": 7},
    }
    for key, value in changes.items():
        place, leaf = stored, key
        if "__" in key:
            group, leaf = key.split("__")
            place = stored["hyper_parameters"].setdefault(group, {})
        if value is None:
            del place[leaf]
        else:
            place[leaf] = value
    return stored


def written(tmp_path: Path, stored: dict[str, Any]) -> Path:
    """A file of it."""
    torch.save(stored, tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


def test_our_checkpoint_gives_network_classes_colors_settings_and_scores(tmp_path: Path):
    path = written(tmp_path, content())
    stored, restored = read_stored(path), restore(path)
    assert (stored.source, stored.num_classes, stored.validation) == (str(path), CLASSES, {"val/miou": 0.5, "step": 7})
    assert (stored.settings["dataset"], stored.description.miou) == ({"name": "mine"}, 0.5)
    assert restored.names == tuple(NAMES)
    assert restored.palette.tolist() == [[i, 0, 0] for i in range(CLASSES)]
    assert not restored.net.training
    assert all(torch.equal(value, tiny_net().state_dict()[key]) for key, value in restored.net.state_dict().items())
    assert restore(path, {"T_eval": 5}).net.head.iterations == 5
    with pytest.raises(ConfigError, match=r"last\.ckpt: no network can be built .*T_eval must be at least 1"):
        restore(path, {"T_eval": 0})


def authors(net: EMANet) -> dict[str, Any]:
    return {"net": to_reference_state_dict(net)}


@pytest.mark.parametrize(
    ("classes", "names", "background"),
    [
        (21, voc.CLASSES, [0, 0, 0]),
        (59, pascal_context.CLASSES, None),
        (60, ("background", *pascal_context.CLASSES), [0, 0, 0]),
        (6, tuple(f"class {label}" for label in range(6)), None),  # not the climate zones of our quickstart
    ],
)
def test_weights_without_names_get_those_of_the_benchmark_with_as_many_classes(
    classes: int, names: tuple[str, ...], background: list[int] | None, tmp_path: Path
):
    net = EMANet(classes, backbone="resnet50s", **SMALL).eval()
    restored = restore(written(tmp_path, authors(net)))
    assert restored.names == names
    assert background in (None, restored.palette[0].tolist())
    assert len(np.unique(restored.palette, axis=0)) == classes
    image = torch.randn(1, 3, 33, 33)
    assert torch.equal(restored.net(image), net(image))


@pytest.mark.parametrize("kind", ["ours", "bare", "folder", "authors", "mmsegmentation"])
def test_weights_alone_come_under_our_names_from_every_kind(kind: str, tmp_path: Path, mmseg_state: dict):
    net = EMANet(5, backbone="resnet50s", **SMALL)
    expected = net.state_dict()
    path = tmp_path / "w.pth"
    if kind == "folder":
        net.save_pretrained(path)
    elif kind == "mmsegmentation":
        torch.save({"state_dict": mmseg_state}, path)
        expected = MMSegEMANet(19).state_dict()
    else:
        given = {"ours": content(state_dict=expected), "bare": dict(expected), "authors": authors(net)}
        torch.save(given[kind], path)
    found = read_weights(path)
    assert found.keys() == expected.keys()
    if kind != "mmsegmentation":
        assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.fixture(scope="module")
def mmseg_state() -> dict[str, Tensor]:
    """The tensors of mmsegmentation's own network, as large as the golden file says."""
    return {name: torch.zeros(shape) for name, shape in json.loads(GOLDEN.read_text())["shapes"].items()}


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (NAMES, None),
        (
            ["d", "c", "b", "a"],
            r"names the classes a, b, c, d; the data d, c, b, a, where d, c, b, a have other numbers",
        ),
        (["a", "c", "x", "y"], "where c have other numbers: give the data's classes in the order of the checkpoint"),
        (["w", "x", "y", "z"], "names its classes otherwise than the data: a as w, b as x, c as y, d as z"),
    ],
)
@pytest.mark.parametrize("kind", ["ours", "folder"])
def test_the_classes_of_a_checkpoint_are_compared_with_the_datas(
    kind: str, names: list[str], told: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    path = written(tmp_path, content())
    if kind == "folder":
        restore(path).net.save_pretrained(path := tmp_path / "out")
    weights = read_weights(path, names)
    assert ("fc2.weight" in weights) == (names == NAMES)
    assert ("the classifier is not taken" in caplog.text) == (names != NAMES)
    if told is not None and "numbers" in told:
        with pytest.raises(WeightsError, match=told):
            check_classes(read_stored(path), names)
        return
    caplog.clear()
    check_classes(read_stored(path), names)
    assert caplog.text == "" if told is None else told in caplog.text


def test_classes_that_a_checkpoint_does_not_name_are_taken_as_the_datas(tmp_path: Path):
    path = written(tmp_path, authors(EMANet(21, backbone="resnet50s", **SMALL)))
    check_classes(read_stored(path), voc.CLASSES[::-1])
    assert "fc2.weight" in read_weights(path, voc.CLASSES[::-1])


@pytest.mark.parametrize("kind", ["ours", "authors", "mmsegmentation", "folder"])
def test_a_checkpoint_with_changed_bytes_is_refused_by_every_reader(kind: str, tmp_path: Path, mmseg_state: dict):
    """Its size, its names and its shapes are right, and it would give other scores without a word."""
    path = weights = tmp_path / "w.ckpt"
    if kind == "folder":
        tiny_net().save_pretrained(path)
        weights = path / "model.safetensors"
    else:
        given = {"ours": content(), "authors": {"emau.mu": torch.zeros(1, 8, 3000)}, "mmsegmentation": mmseg_state}
        torch.save(given[kind], path)
    data = bytearray(weights.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(byte ^ 0x55 for byte in data[middle : middle + 64])
    weights.write_bytes(data)
    for read in (read_stored, read_weights, restore):
        with pytest.raises(WeightsError, match=f"{weights} is damaged: it is not what its checksums say"):
            read(path)


# --- hostile content --------------------------------------------------------------------------------------------------


def traps(tmp_path: Path) -> dict[str, Any]:
    """Settings of a network, each of which would write a file if it were followed; and where it is named."""
    marker, hub = tmp_path / "executed", tmp_path / "hub"
    hub.mkdir()
    (hub / "hubconf.py").write_text(f"import os\nos.mkdir({str(marker)!r})\ndef EMANet(*a, **k): pass\n")
    (tmp_path / "trap.py").write_text(f"import os\nos.mkdir({str(marker)!r})\nHead = Net = None\n")
    system = {"_target_": "os.system", "command": f"touch {marker}"}
    return {
        "command": system,
        "hub": {"_target_": "torch.hub.load", "repo_or_dir": str(hub), "model": "EMANet", "source": "local"},
        "module": {"_target_": "trap.Net"},
        "head": {"_target_": "emanet.EMANet", "head": "trap.Head"},
        "head as a node": {"_target_": "emanet.EMANet", "head": system},
        "an option as a node": {"_target_": "emanet.EMANet", "multi_grid": [1, [system]]},
        "no text": {"_target_": ["os.system"]},
        "lines": {"_target_": "os\n.system"},
        "nothing": {"command": f"touch {marker}"},
    }


@pytest.mark.parametrize(
    ("trap", "asked"),
    [
        ("command", "_target_=os.system"),
        ("hub", "_target_=torch.hub.load"),
        ("module", "_target_=trap.Net"),
        ("head", "head=trap.Head"),
        ("head as a node", "_target_=one inside head"),
        ("an option as a node", "_target_=one inside multi_grid"),
        ("no text", "_target_=list"),
        ("lines", "_target_=os .system"),
        ("nothing", "_target_=NoneType"),
    ],
)
def test_a_checkpoint_that_names_other_code_is_refused_and_runs_none(
    trap: str, asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.syspath_prepend(tmp_path)
    stored = content()
    stored["hyper_parameters"]["model"] = traps(tmp_path)[trap]
    path = written(tmp_path, stored)
    for read in (read_stored, restore):
        with pytest.raises(WeightsError) as caught:
            read(path)
        first, second = str(caught.value).split("\n")
        assert first == f"{path} asks for {asked}, which is none of ours: nothing of it was imported"
        assert "trust=true" in second
    assert not (tmp_path / "executed").exists()


def test_the_traps_would_go_off_where_the_author_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Else the test above could not fail."""
    monkeypatch.syspath_prepend(tmp_path)
    stored = content()
    stored["hyper_parameters"]["model"] = traps(tmp_path)["module"]
    with pytest.raises(EMANetError):  # it is no network
        restore(written(tmp_path, stored), trust=True)
    assert (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"hyper_parameters": 5},
        {"hyper_parameters": {}},
        {"hyper_parameters": {"model": [1]}},
        {"hyper_parameters": {"model": {"_target_": "emanet.EMANet"}, "dataset": "voc"}},
        {"classes": "abcd"},
        {"classes": None},
        {"classes": {"names": NAMES}},
        {"classes": {"names": [1, 2, 3, 4], "palette": None}},
        {"classes": {"names": NAMES, "palette": [["red"]] * 4}},
        {"classes": {"names": NAMES[:2], "palette": None}},
        {"validation": [1]},
        {"validation": {"val/miou": "high"}},
        {"state_dict": {0: torch.zeros(1), "x": 5}},
        {"state_dict": 5},
        {"model__K": "three"},
        {"model__channels": -8},
        {"model__backbone": None},
        {"model__backbone": {"name": "test_resnet"}},
        {"model__multi_grid": "abc"},
        {"model__renormalize": True},
        {"model__num_classes": 10**30},
    ],
    ids=str,
)
def test_ill_typed_content_ends_in_one_weights_error(changes: dict, tmp_path: Path):
    path = written(tmp_path, content(**changes))
    with pytest.raises(WeightsError) as caught:
        restore(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).count("\n") <= 1


def test_no_weights_are_fetched_whatever_the_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("timm.models._builder.load_pretrained", None)
    monkeypatch.setattr("emanet.model.backbone.read_state_dict", None)
    for pretrained in (True, "imagenet.pth"):
        stored = content(model__pretrained=pretrained)
        weights = restore(written(tmp_path, stored)).net.state_dict()
        assert all(torch.equal(weights[key.removeprefix("net.")], value) for key, value in stored["state_dict"].items())
