"""Networks as folders: what was saved comes back, names and statistics with it; nothing in them is executed."""

import json
from pathlib import Path

import pytest
import timm
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from emanet import EMANet
from emanet.checkpoints.restore import restore
from emanet.common.errors import WeightsError
from emanet.model.backbone import input_statistics
from emanet.model.hub import CITATION, Description
from emanet.model.mmseg import MMSegEMANet

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
    monkeypatch.setattr("emanet.model.hub.hf_hub_download", None)


def test_what_is_saved_comes_back_with_the_same_logits(net: EMANet, tmp_path: Path):
    image = torch.randn(1, 3, 49, 65)
    net.save_pretrained(tmp_path / "out")
    loaded = EMANet.from_pretrained(tmp_path / "out")
    assert torch.equal(loaded(image), net(image))
    assert not loaded.training
    assert (loaded.emau.momentum, loaded.emau.T_eval, loaded.output_stride) == (0.7, 2, 16)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.safetensors", "config.json", "README.md"}


def test_the_configuration_holds_classes_colors_and_input_statistics(net: EMANet, tmp_path: Path):
    net.save_pretrained(tmp_path)
    described = json.loads((tmp_path / "config.json").read_text())["description"]
    mean, std = input_statistics("resnet18")
    assert (described["class_names"], described["palette"]) == (DESCRIBED.class_names, DESCRIBED.palette)
    assert (described["mean"], described["std"]) == (list(mean), list(std))
    loaded = EMANet.from_pretrained(tmp_path).description
    assert (loaded.dataset, loaded.miou, loaded.mean) == ("voc", 0.7852, list(mean))


def test_own_input_statistics_are_kept(net: EMANet, tmp_path: Path):
    net.description = Description("mine", ["a", "b", "c"], mean=[0.1, 0.2, 0.3], std=[1.0, 1.0, 1.0])
    net.save_pretrained(tmp_path)
    assert EMANet.from_pretrained(tmp_path).description.mean == [0.1, 0.2, 0.3]


def test_the_folder_is_all_that_prediction_needs(net: EMANet, tmp_path: Path):
    net.save_pretrained(tmp_path)
    restored = restore(tmp_path)
    assert restored.names == ("background", "cat", "dog")
    assert restored.palette.tolist() == DESCRIBED.palette
    assert restored.mean == pytest.approx(input_statistics("resnet18")[0])
    image = torch.randn(1, 3, 33, 33)
    assert torch.equal(restored.net(image), net(image))


def test_what_was_restored_can_be_saved_again_with_its_names(net: EMANet, tmp_path: Path):
    net.save_pretrained(tmp_path / "a")
    restore(tmp_path / "a").net.save_pretrained(tmp_path / "b")
    first, second = (json.loads((tmp_path / name / "config.json").read_text()) for name in "ab")
    assert first == second


def test_arguments_can_be_overridden_while_loading(net: EMANet, tmp_path: Path):
    net.save_pretrained(tmp_path)
    assert EMANet.from_pretrained(tmp_path, T_eval=7, output_stride=8).emau.T_eval == 7


def test_the_ports_network_comes_back_as_itself(tmp_path: Path):
    net = MMSegEMANet(3, **{**SMALL, "backbone": "resnet26"}, aux_weight=0.2).eval()
    net.save_pretrained(tmp_path)
    loaded = EMANet.from_pretrained(tmp_path)
    assert type(loaded) is MMSegEMANet
    assert (loaded.aux_weights, loaded.output_stride, loaded.emau.K) == ((0.2,), 16, 4)
    image = torch.randn(1, 3, 33, 33)
    assert torch.equal(loaded(image), net(image))
    EMANet(3, **SMALL).save_pretrained(tmp_path / "plain")
    with pytest.raises(WeightsError, match="holds a EMANet, not a MMSegEMANet"):
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
    assert CITATION in card.text


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

    def fetch(repo_id, filename, **options):
        assert repo_id == "user/emanet"
        return str(tmp_path / filename)

    monkeypatch.setattr("emanet.model.hub.hf_hub_download", fetch)
    monkeypatch.setattr(
        "huggingface_hub.hub_mixin.hf_hub_download", lambda repo_id, filename, **o: fetch(repo_id, filename)
    )
    image = torch.randn(1, 3, 33, 33)
    assert torch.equal(EMANet.from_pretrained("user/emanet")(image), net(image))


def test_folders_that_do_not_fit_are_refused_by_name(net: EMANet, tmp_path: Path):
    with pytest.raises(WeightsError, match=r"holds no config\.json of an EMANet"):
        EMANet.from_pretrained(tmp_path)
    net.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_file({key: value for key, value in state.items() if key != "fc2.bias"}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"missing keys: fc2\.bias"):
        EMANet.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"no weights at .*model\.safetensors"):
        EMANet.from_pretrained(tmp_path)


def test_a_configuration_cannot_name_code_to_import(net: EMANet, tmp_path: Path):
    net.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architecture": "os.system"}))
    with pytest.raises(WeightsError, match=r"holds no config\.json of an EMANet"):
        EMANet.from_pretrained(tmp_path)
