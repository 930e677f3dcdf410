"""Networks as folders: what was saved comes back, names and statistics with it; nothing in them is executed."""

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from emanet import EMANet
from emanet.checkpoints.restore import read_weights, restore
from emanet.common.errors import WeightsError
from emanet.model.backbone import input_statistics
from emanet.model.mmseg import MMSegEMANet
from emanet.model.stored import Description

SMALL = {"backbone": "resnet18", "channels": 16, "K": 4, "multi_grid": None, "output_stride": 16}
DESCRIBED = Description(
    dataset="voc",
    class_names=["background", "cat", "dog"],
    palette=[[0, 0, 0], [64, 0, 0], [64, 0, 128]],
    miou=0.7852,
    split="val",
)


@pytest.fixture
def net() -> EMANet:
    net = EMANet(3, **SMALL, momentum=0.7, T_eval=2).eval()
    net.description = DESCRIBED
    return net


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request would be an error."""
    monkeypatch.setattr("emanet.model.hub.snapshot_download", None)


def test_what_is_saved_comes_back_with_the_same_logits(net: EMANet, tmp_path: Path):
    image = torch.randn(1, 3, 49, 65)
    net.save_pretrained(tmp_path / "out")
    loaded = EMANet.from_pretrained(tmp_path / "out")
    assert torch.equal(loaded(image), net(image))
    assert not loaded.training
    assert (loaded.head.momentum, loaded.head.T_eval, loaded.output_stride) == (0.7, 2, 16)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.safetensors", "config.json", "README.md"}


def test_the_configuration_holds_classes_colors_and_input_statistics(net: EMANet, tmp_path: Path):
    net.save_pretrained(tmp_path)
    described = json.loads((tmp_path / "config.json").read_text())["description"]
    mean, std = input_statistics("resnet18")
    assert (described["class_names"], described["palette"]) == (DESCRIBED.class_names, DESCRIBED.palette)
    assert (described["mean"], described["std"]) == (list(mean), list(std))
    loaded = EMANet.from_pretrained(tmp_path).description
    assert (loaded.dataset, loaded.miou, loaded.mean) == ("voc", 0.7852, list(mean))
    restored = restore(tmp_path)
    assert (restored.names, restored.palette.tolist()) == (tuple(DESCRIBED.class_names), DESCRIBED.palette)
    assert restored.mean == pytest.approx(mean)
    net.description = Description("mine", ["a", "b", "c"], mean=[0.1, 0.2, 0.3], std=[1.0, 1.0, 1.0])
    net.save_pretrained(tmp_path)
    assert EMANet.from_pretrained(tmp_path).description.mean == [0.1, 0.2, 0.3]


def test_what_was_restored_can_be_saved_again_with_its_names(net: EMANet, tmp_path: Path):
    net.save_pretrained(tmp_path / "a")
    restore(tmp_path / "a").net.save_pretrained(tmp_path / "b")
    first, second = (json.loads((tmp_path / name / "config.json").read_text()) for name in "ab")
    assert first == second


def test_arguments_can_be_overridden_while_loading(net: EMANet, tmp_path: Path):
    net.save_pretrained(tmp_path)
    assert EMANet.from_pretrained(tmp_path, T_eval=7, output_stride=8).head.T_eval == 7


def test_the_ports_network_comes_back_as_itself(tmp_path: Path):
    net = MMSegEMANet(3, **{**SMALL, "backbone": "resnet26"}, aux_weight=0.2).eval()
    net.save_pretrained(tmp_path)
    loaded = EMANet.from_pretrained(tmp_path)
    assert type(loaded) is MMSegEMANet
    assert (loaded.aux_weights, loaded.output_stride, loaded.head.K) == ((0.2,), 16, 4)
    image = torch.randn(1, 3, 33, 33)
    assert torch.equal(loaded(image), net(image))
    EMANet(3, **SMALL).save_pretrained(tmp_path / "plain")
    with pytest.raises(WeightsError, match="holds EMANet, not MMSegEMANet: use EMANet"):
        MMSegEMANet.from_pretrained(tmp_path / "plain")


def test_the_card_states_task_data_score_configuration_and_citation(net: EMANet, tmp_path: Path):
    net.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.pipeline_tag, card.data.datasets, card.data.library_name) == (
        "image-segmentation",
        ["voc"],
        "emanet",
    )
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_split) == ("mean_iou", 0.7852, "val")
    assert "| mIoU | 78.52 % (val) |" in card.text
    assert "background, cat, dog" in card.text
    assert '"momentum": 0.7' in card.text
    assert "@inproceedings{li2019expectation," in card.text


def test_without_a_description_the_card_says_what_is_not_known(tmp_path: Path):
    EMANet(4, **SMALL).save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert "| data | not stated |" in card.text
    assert "| mIoU | not measured |" in card.text
    assert EMANet.from_pretrained(tmp_path).description is None
    assert restore(tmp_path).names == ("class 0", "class 1", "class 2", "class 3")


def test_pretrained_weights_are_not_fetched_again(tmp_path: Path):
    path = tmp_path / "resnet18.safetensors"
    save_file(timm.create_model("resnet18").state_dict(), path)
    EMANet(2, **SMALL, pretrained=str(path)).save_pretrained(tmp_path / "out")
    path.unlink()
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model"]["pretrained"] is False
    EMANet.from_pretrained(tmp_path / "out")


def test_push_to_hub_sends_the_same_three_files(net: EMANet, monkeypatch: pytest.MonkeyPatch):
    sent = {}

    class FakeApi:
        """Stands for the Hub."""

        def __init__(self, token=None): ...

        def create_repo(self, repo_id, **options):
            return type("Repo", (), {"repo_id": repo_id})

        def upload_folder(self, *, repo_id, folder_path, **options):
            sent.update({path.name: path.read_bytes() for path in Path(folder_path).iterdir()}, repo=repo_id)
            return "https://hub/commit"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", FakeApi)
    assert net.push_to_hub("user/emanet") == "https://hub/commit"
    assert set(sent) == {"repo", "model.safetensors", "config.json", "README.md"}
    assert sent["repo"] == "user/emanet"


def test_a_repository_is_read_like_a_folder(net: EMANet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    net.save_pretrained(tmp_path)

    def fetch(repo_id: str, *, allow_patterns: list[str], **options: object) -> str:
        assert (repo_id, allow_patterns, options) == (
            "user/emanet",
            ["model.safetensors", "config.json"],
            {"revision": "v1"},
        )
        return str(tmp_path)

    monkeypatch.setattr("emanet.model.hub.snapshot_download", fetch)
    loaded = EMANet.from_pretrained("user/emanet", revision="v1", T_eval=5)
    image = torch.randn(1, 3, 33, 33)
    assert loaded.head.T_eval == 5
    loaded.head.T_eval = 2
    assert torch.equal(loaded(image), net(image))


def test_a_repository_that_cannot_be_had_is_said_in_one_line():
    with pytest.raises(WeightsError, match=r"^user/none is no folder, and no repository that the Hub gives \(TypeErr"):
        EMANet.from_pretrained("user/none")


def test_folders_that_do_not_fit_are_refused_by_name(net: EMANet, tmp_path: Path):
    with pytest.raises(WeightsError, match=r"holds no config\.json of an EMANet"):
        EMANet.from_pretrained(tmp_path)
    net.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_file({key: value for key, value in state.items() if key != "fc2.bias"}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"model\.safetensors is damaged: .*take weights_sha256 out of config\.json"):
        EMANet.from_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["weights_sha256"]  # as the message says, or of a folder that was written before there was one
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match=r"missing keys: fc2\.bias"):
        EMANet.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"no weights at .*model\.safetensors"):
        EMANet.from_pretrained(tmp_path)


def test_a_save_that_fails_leaves_what_was_there(net: EMANet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    net.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(state: dict, path: Path, **options: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("emanet.model.hub.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        EMANet(3, **SMALL).save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# --- hostile folders ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as it should be."""
    net = EMANet(3, **SMALL)
    net.description = DESCRIBED
    net.save_pretrained(folder := tmp_path_factory.mktemp("saved"))
    return folder


NESTED = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "os.system"}, r"asks for _target_=os\.system, which is none of ours: nothing"),
        ({"architecture": "Sequential"}, r"asks for _target_=emanet\.model\.Sequential"),
        ({"model": None}, "holds no config.json of an EMANet: .*TypeError"),
        ({"model": {}}, "holds no config.json of an EMANet: .*KeyError: 'num_classes'"),
        (
            {"model.head": "hostile.Head"},
            r"asks for head=hostile\.Head, which is none of ours: nothing .*\nours: ema, ",
        ),
        ({"model.head": {"_target_": "os.system"}}, "asks for _target_=one inside head"),
        ({"model.K": {"x": [{"_target_": "os.system"}]}}, "asks for _target_=one inside K"),
        ({"model.K": "many"}, "no network can be built from its settings"),
        ({"model.multi_grid": {"a": 1}}, "does not fit|no network can be built"),
        ({"model.backbone": 5}, "no network can be built from its settings"),
        ({"model.backbone": "hf-hub:user/model"}, "no network can be built from its settings .*unknown backbone"),
        ({"model.num_classes": "3"}, "no network can be built from its settings"),
        ({"model.num_classes": 4}, r"other shapes: fc2\.bias"),
        ({"model.surprise": 1}, "no network can be built from its settings .*no option surprise"),
        ({"description": {"surprise": 1}}, "holds no config.json of an EMANet: .*TypeError"),
        ({"description.class_names": [1, 2, 3]}, "holds no config.json of an EMANet"),
        ({"description.palette": [[0, 0, 0]]}, "palette must hold a color of three numbers 0..255 for each of the 3"),
        ({"description.palette": [[0, 0, 256]] * 3}, "palette must hold a color of three numbers"),
        ({"description.mean": [0.5]}, "mean and std must be three numbers each"),
        ({"description.miou": "high"}, "holds no config.json of an EMANet"),
        (NESTED, "holds no config.json of an EMANet: .*RecursionError"),
        (f'{{"architecture": "EMANet", "model": {{"num_classes": 3, "K": {NESTED}}}}}', "RecursionError"),
        ("{", "holds no config.json of an EMANet: .*JSONDecodeError"),
        ("[]", "holds no config.json of an EMANet: .*TypeError"),
    ],
)
def test_odd_content_is_refused_in_one_weights_error(saved: Path, change: dict | str, message: str, tmp_path: Path):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for key, value in change.items() if isinstance(change, dict) else ():
        group, _, leaf = key.partition(".")
        config[group] = config[group] | {leaf: value} if leaf else value
    path.write_text(json.dumps(config) if isinstance(change, dict) else change)
    for read in (EMANet.from_pretrained, restore):
        with pytest.raises(WeightsError, match=message) as caught:
            read(tmp_path)
        assert str(caught.value).count("\n") <= 1


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"version https://git-lfs.github.com/spec", b"\xff\xfe{", "folder"])
def test_files_that_are_none_are_refused_in_one_weights_error(
    saved: Path, name: str, content: bytes | str | None, tmp_path: Path
):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).unlink()
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        (tmp_path / name).mkdir()
    for read in (EMANet.from_pretrained, restore, read_weights):
        with pytest.raises(WeightsError, match=name) as caught:
            read(tmp_path)
        assert str(caught.value).count("\n") == 0


@pytest.mark.parametrize("pretrained", [True, "imagenet.pth"])
def test_a_folder_that_asks_for_other_weights_gets_none(
    net: EMANet, pretrained: bool | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    net.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"model": config["model"] | {"pretrained": pretrained}}))
    monkeypatch.setattr("emanet.model.backbone.read_state_dict", None)
    monkeypatch.setattr("timm.models._builder.load_pretrained", None)
    image = torch.randn(1, 3, 33, 33)
    for loaded in (EMANet.from_pretrained(tmp_path), restore(tmp_path).net):
        assert torch.equal(loaded(image), net(image))


def test_a_head_of_the_users_comes_back_where_its_author_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my_heads.py").write_text("import torch\nfrom torch import nn\n" + OWN_HEAD)
    monkeypatch.syspath_prepend(tmp_path)
    net = EMANet(3, **SMALL, head="my_heads.Twice", factor=3.0).eval()
    net.save_pretrained(tmp_path / "out")
    with pytest.raises(WeightsError, match=r"asks for head=my_heads\.Twice, which is none of ours"):
        restore(tmp_path / "out")
    image = torch.randn(1, 3, 33, 33)
    for loaded in (EMANet.from_pretrained(tmp_path / "out", trust=True), restore(tmp_path / "out", trust=True).net):
        assert loaded.head.factor == 3.0
        assert torch.equal(loaded(image), net(image))


OWN_HEAD = """
class Twice(nn.Module):
    def __init__(self, channels: int = 16, *, K: int = 4, factor: float = 2.0) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        return self.factor * x, None
"""
