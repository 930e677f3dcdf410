"""Weight files: read without running code from them, and refused with a reason."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from emanet.common.errors import WeightsError
from emanet.model.weights import (
    fit,
    load_weights,
    read_checkpoint,
    read_state_dict,
    rename_efficientnet,
    unwrap_state_dict,
)

STATE = {"a.weight": torch.arange(3.0), "b.bias": torch.ones(2)}


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"net": STATE},
        {"state_dict": STATE, "epoch": 3, "optimizer": {"lr": 0.1}},
        {"model": {f"module.{key}": value for key, value in STATE.items()}},
        {"state_dict": {f"net.{key}": value for key, value in STATE.items()}, "hyper_parameters": {}},
        {"state_dict": {f"net._orig_mod.{key}": value for key, value in STATE.items()}},
        {f"module._orig_mod.{key}": value for key, value in STATE.items()},
        STATE | {"epoch": 3},
    ],
    ids=["bare", "net", "state_dict", "module", "our training's", "compiled", "compiled, on GPUs", "beside others"],
)
def test_a_state_dict_is_found_bare_or_wrapped(content: dict, tmp_path: Path):
    torch.save(content, tmp_path / "w.pth")
    state = read_state_dict(tmp_path / "w.pth")
    assert state.keys() == STATE.keys()
    assert all(torch.equal(state[key], value) for key, value in STATE.items())


def test_a_safetensors_file_is_read(tmp_path: Path):
    save_file(STATE, tmp_path / "w.safetensors")
    assert torch.equal(read_state_dict(tmp_path / "w.safetensors")["a.weight"], STATE["a.weight"])


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(STATE, tmp_path / "w.pth")
    assert read_state_dict("~/w.pth").keys() == STATE.keys()


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(WeightsError, match=r"no weights at .*/none\.pth: give the path of an existing file"):
        read_checkpoint(tmp_path / "none.pth")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("cut", [-20, 0], ids=["truncated", "empty"])
def test_a_damaged_file_is_refused(suffix: str, cut: int, tmp_path: Path):
    path = tmp_path / f"w.{suffix}"
    save_file(STATE, path) if suffix == "safetensors" else torch.save(STATE, path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(WeightsError, match=rf"w\.{suffix} cannot be read .*truncated"):
        read_checkpoint(path)


class Hostile:
    """Unpickles by making a directory."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("kind", ["zip", "old", "pickle"])
def test_a_file_that_would_run_code_is_refused_and_runs_none(kind: str, tmp_path: Path):
    trap = tmp_path / "trap"
    path = tmp_path / "w.pth"
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Hostile(trap), protocol=2))
    else:
        torch.save({"net": STATE, "extra": Hostile(trap)}, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(WeightsError, match=r"w\.pth (was refused: .*could run code|cannot be read)"):
        read_checkpoint(path)
    assert not trap.exists()


def test_a_file_without_a_dictionary_is_refused(tmp_path: Path):
    torch.save(torch.zeros(3), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds a Tensor, not a dictionary of tensors"):
        read_checkpoint(tmp_path / "w.pth")


def test_a_file_without_tensors_is_refused():
    with pytest.raises(WeightsError, match=r"w\.pth holds no tensors: expected a state dict"):
        unwrap_state_dict({"epoch": 3}, source="w.pth")


# --- names and shapes -----------------------------------------------------------------------------------------------


def net() -> nn.Sequential:
    """Two layers: ``0`` is to fit, ``1`` may be replaced."""
    return nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 3))


@pytest.mark.parametrize(
    ("change", "optional", "fresh"),
    [
        ({}, None, []),
        ({"0.num_batches_tracked": None}, None, []),  # of old checkpoints
        ({"1.weight": torch.zeros(5, 2), "1.bias": torch.zeros(5)}, "1.", ["1.bias", "1.weight"]),
        ({"1.weight": None}, "1.", ["1.weight"]),
    ],
)
def test_what_fits_is_taken_and_what_keeps_its_start_is_told(change: dict, optional: str | None, fresh: list[str]):
    given = {key: value + 1 for key, value in net().state_dict().items()} | change
    filled, before = net(), {}
    before = {key: value.clone() for key, value in filled.state_dict().items()}
    content = {key: value for key, value in given.items() if value is not None}
    assert load_weights(filled, content, source="w.pth", replaceable=optional) == fresh
    for key, value in filled.state_dict().items():
        assert torch.equal(value, before[key] if key in fresh or key not in content else given[key]), key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"1.bias": None}, r"missing keys: 1\.bias; unexpected keys: none; other shapes: none"),
        ({"b": torch.zeros(1), "a": torch.zeros(1)}, r"missing keys: none; unexpected keys: a, b; other shapes: none"),
        ({"0.bias": torch.zeros(3)}, r"other shapes: 0\.bias \(3,\) instead of \(2,\)\. Mend it"),
    ],
)
def test_everything_that_does_not_fit_is_named_in_one_sentence(change: dict, message: str):
    state = {key: value for key, value in (net().state_dict() | change).items() if value is not None}
    with pytest.raises(WeightsError, match=f"w does not fit: .*{message}"):
        fit(state, net().state_dict(), told="w does not fit", remedy="Mend it")


def test_efficientnet_keys_are_renamed_in_their_order():
    theirs = ["_conv_stem.weight", "_blocks.0._bn1.bias", "_blocks.1._project_conv.weight", "_fc.bias"]
    names = ["conv_stem.weight", "blocks.0.0.bn1.bias", "blocks.1.0.conv_pwl.weight", "classifier.bias"]
    state = {key: torch.tensor(float(i)) for i, key in enumerate(theirs)}
    assert [(key, int(value)) for key, value in rename_efficientnet(state, names).items()] == [
        (name, i) for i, name in enumerate(names)
    ]
    for other in (names[:3], names[::-1]):  # not the same layers, or in another order: stays, to be refused by name
        assert rename_efficientnet(state, other) is state
