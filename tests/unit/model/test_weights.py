"""Weight files: read without running code from them, and refused with a reason."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from emanet.common.errors import WeightsError
from emanet.model.weights import head_prefixes, read_checkpoint, read_state_dict, rename_efficientnet, unwrap_state_dict

STATE = {"a.weight": torch.arange(3.0), "b.bias": torch.ones(2)}


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"net": STATE},
        {"state_dict": STATE, "epoch": 3, "optimizer": {"lr": 0.1}},
        {"model": {f"module.{key}": value for key, value in STATE.items()}},
        STATE | {"epoch": 3},
    ],
    ids=["bare", "net", "state_dict", "model and module", "beside other things"],
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
def test_a_truncated_file_is_refused(suffix: str, tmp_path: Path):
    path = tmp_path / f"w.{suffix}"
    if suffix == "pth":
        torch.save(STATE, path)
    else:
        save_file(STATE, path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(WeightsError, match=rf"w\.{suffix} cannot be read .*truncated"):
        read_checkpoint(path)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_an_empty_file_is_refused(suffix: str, tmp_path: Path):
    (tmp_path / f"w.{suffix}").touch()
    with pytest.raises(WeightsError, match="cannot be read"):
        read_checkpoint(tmp_path / f"w.{suffix}")


class Hostile:
    """Unpickles by making a directory."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("new_format", [True, False])
def test_a_file_that_would_run_code_is_refused_and_runs_none(new_format: bool, tmp_path: Path):
    trap = tmp_path / "trap"
    path = tmp_path / "w.pth"
    torch.save({"net": STATE, "extra": Hostile(trap)}, path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(WeightsError, match=r"w\.pth was refused: .*could run code"):
        read_checkpoint(path)
    assert not trap.exists()


def test_a_plain_pickle_that_would_run_code_runs_none(tmp_path: Path):
    trap = tmp_path / "trap"
    (tmp_path / "w.pth").write_bytes(pickle.dumps(Hostile(trap), protocol=2))
    with pytest.raises(WeightsError):
        read_checkpoint(tmp_path / "w.pth")
    assert not trap.exists()


def test_a_file_without_a_dictionary_is_refused(tmp_path: Path):
    torch.save(torch.zeros(3), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds a Tensor, not a dictionary of tensors"):
        read_checkpoint(tmp_path / "w.pth")


def test_a_file_without_tensors_is_refused():
    with pytest.raises(WeightsError, match=r"w\.pth holds no tensors: expected a state dict"):
        unwrap_state_dict({"epoch": 3}, source="w.pth")


def test_the_last_layer_goes_by_the_models_own_account():
    import timm

    with torch.device("meta"):
        assert head_prefixes(timm.create_model("test_resnet")) == ("fc.",)
        assert head_prefixes(timm.create_model("tf_efficientnet_lite0")) == ("classifier.",)


def test_efficientnet_keys_are_renamed_by_block():
    expected = ["conv_stem.weight", "blocks.0.0.conv_dw.weight", "blocks.1.0.conv_pw.weight", "blocks.1.1.bn3.bias"]
    keys = {
        "_conv_stem.weight": "conv_stem.weight",
        "_bn0.bias": "bn1.bias",
        "_blocks.0._depthwise_conv.weight": "blocks.0.0.conv_dw.weight",
        "_blocks.0._project_conv.weight": "blocks.0.0.conv_pw.weight",
        "_blocks.0._bn2.weight": "blocks.0.0.bn2.weight",
        "_blocks.1._expand_conv.weight": "blocks.1.0.conv_pw.weight",
        "_blocks.1._project_conv.weight": "blocks.1.0.conv_pwl.weight",
        "_blocks.2._expand_conv.weight": "blocks.1.1.conv_pw.weight",
        "_blocks.2._bn2.bias": "blocks.1.1.bn3.bias",
        "_blocks.3._bn2.bias": "_blocks.3._bn2.bias",  # one block too many: stays, to be refused by name
        "_bn1.weight": "bn2.weight",
        "_fc.weight": "classifier.weight",
    }
    renamed = rename_efficientnet({old: torch.tensor(float(i)) for i, old in enumerate(keys)}, expected)
    assert {key: int(value) for key, value in renamed.items()} == {new: i for i, new in enumerate(keys.values())}
