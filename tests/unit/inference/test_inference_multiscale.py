import weakref
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from emanet import EMANet
from emanet.inference.views import PLAIN, Inference, predict_logits, resize, window_starts

CLASSES = 5
MULTI = (0.5, 1.0, 1.5)


class TinyNet(nn.Module):
    """Logits that depend on the neighborhood and on the whole image, so that padding, windows and scales all show."""

    output_stride = 8
    align_corners = True

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, CLASSES, 5, padding=2)
        self.calls: list[tuple[int, ...]] = []

    def forward(self, image: Tensor, low: bool = False) -> Tensor:  # both at the size of the image
        self.calls.append(tuple(image.shape))
        return self.conv(image) * 3 + self.conv(image).mean((2, 3), keepdim=True)


@pytest.fixture
def net() -> TinyNet:
    return TinyNet().double().eval()


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 3, 37, 52, dtype=torch.float64)


def bilinear(values: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Bilinear interpolation with aligned corners, axis by axis, by numpy."""
    for axis, length in ((-2, size[0]), (-1, size[1])):
        old = values.shape[axis]
        places = np.linspace(0, old - 1, length)
        values = np.apply_along_axis(lambda line, p=places, o=old: np.interp(p, np.arange(o), line), axis, values)
    return values


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def test_one_scale_without_flip_is_plain_inference_to_the_bit():
    net = EMANet(CLASSES, backbone="resnet18", multi_grid=None, channels=16, K=4).eval()
    image = torch.randn(1, 3, 43, 50)
    logits = predict_logits(net, image)
    for inference in (PLAIN, Inference(scales=[1.0]), Inference(window=50), Inference(window=500, stride=7)):
        assert torch.equal(inference.predict(net, image), logits.argmax(1))
        assert torch.equal(inference.probabilities(net, image), logits.softmax(1))
    assert len(logits.argmax(1).unique()) > 1


def test_plain_prediction_does_not_go_through_the_rounding_of_the_softmax():
    logits = torch.tensor([1e-9, 2e-9, -9.0])  # exp rounds both to 1: argmax of the softmax would say class 0
    probabilities = logits.softmax(0)
    assert probabilities[0] == probabilities[1]

    class Constant(TinyNet):
        def forward(self, image: Tensor, low: bool = False) -> Tensor:
            return logits.view(1, 3, 1, 1).expand(-1, -1, *image.shape[-2:])

    assert PLAIN.predict(Constant(), torch.zeros(1, 3, 9, 9)).unique().tolist() == [1]


def test_scales_and_flip_are_the_mean_of_softmax_probabilities_of_resized_logits(net, image):
    height, width = image.shape[-2:]
    expected = np.zeros((2, CLASSES, height, width))
    for scale in MULTI:
        size = (int(height * scale), int(width * scale))
        for mirror in (False, True):
            view = image.numpy()[..., ::-1] if mirror else image.numpy()
            view = torch.from_numpy(bilinear(view, size).copy())
            padded = torch.zeros(2, 3, size[0] + (1 - size[0]) % 8, size[1] + (1 - size[1]) % 8, dtype=torch.float64)
            padded[..., : size[0], : size[1]] = view
            logits = net(padded).detach().numpy()[..., : size[0], : size[1]]
            probabilities = softmax(bilinear(logits, (height, width)))
            expected += (probabilities[..., ::-1] if mirror else probabilities) / (2 * len(MULTI))
    inference = Inference(scales=MULTI, flip=True)
    got = inference.probabilities(net, image)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-9, atol=1e-12)
    assert torch.equal(inference.predict(net, image), got.argmax(1))
    assert not torch.allclose(got, PLAIN.probabilities(net, image), atol=1e-3)  # the views do differ


@pytest.mark.parametrize("window", [None, 16])
def test_a_flipped_image_gives_the_flipped_result_to_the_bit(net, image, window):
    inference = Inference(scales=MULTI, flip=True, window=window)
    straight = inference.probabilities(net, image)
    assert torch.equal(inference.probabilities(net, image.flip(-1)), straight.flip(-1))
    without = Inference(scales=MULTI, window=window)
    assert not torch.allclose(
        without.probabilities(net, image.flip(-1)), without.probabilities(net, image).flip(-1), atol=1e-3
    )


def test_probabilities_sum_to_one_and_are_float32_at_least(net, image):
    for inference in (PLAIN, Inference(scales=MULTI, flip=True, window=20, stride=9)):
        total = inference.probabilities(net, image).sum(1)
        torch.testing.assert_close(total, torch.ones_like(total))
    half = TinyNet().bfloat16().eval()
    assert Inference(flip=True).probabilities(half, image.bfloat16()).dtype == torch.float32


def test_overlapping_windows_average_their_logits(net, image):
    height, width = image.shape[-2:]
    total, count = np.zeros((2, CLASSES, height, width)), np.zeros((height, width))
    for top in (0, 12, 17):  # window 20, stride 12: the last one ends at the border, 37 - 20
        for left in (0, 12, 24, 32):
            rows, columns = slice(top, top + 20), slice(left, left + 20)
            padded = torch.zeros(2, 3, 25, 25, dtype=torch.float64)
            padded[..., :20, :20] = image[..., rows, columns]
            total[..., rows, columns] += net(padded).detach().numpy()[..., :20, :20]
            count[rows, columns] += 1
    assert count.min() >= 1
    got = Inference(window=20, stride=12).windowed(net, image)
    np.testing.assert_allclose(got.numpy(), total / count, rtol=1e-12, atol=1e-14)


def test_windows_of_a_network_without_a_wide_view_change_nothing(image):
    local = nn.Conv2d(3, CLASSES, 1).double()
    local.output_stride, local.align_corners = 8, True
    got = Inference(window=16, stride=5).windowed(local, image)
    torch.testing.assert_close(got, predict_logits(local, image))


@pytest.mark.parametrize(
    ("side", "window", "stride", "starts"),
    [(10, 10, 5, [0]), (8, 10, 5, [0]), (11, 10, 5, [0, 1]), (20, 10, 5, [0, 5, 10]), (23, 10, 10, [0, 10, 13])],
)
def test_windows_start_every_stride_and_end_at_the_border(side, window, stride, starts):
    assert window_starts(side, window, stride) == starts


def test_the_default_stride_is_two_thirds_of_the_window():
    assert list(Inference(window=9).windows(9, 15)) == list(Inference(window=9, stride=6).windows(9, 15))
    assert list(Inference(window=1).windows(1, 2)) == [(slice(0, 1), slice(0, 1)), (slice(0, 1), slice(1, 2))]


def test_a_window_limits_what_the_network_sees_at_every_scale(net, image):
    Inference(scales=(1.0, 3.0), flip=True, window=17).probabilities(net, image)
    assert {shape[-2:] for shape in net.calls} == {(17, 17)}


def test_views_are_summed_as_they_come_and_never_kept(image):
    """At each call of the network no earlier logits may be alive, however many views there are."""
    alive: list[weakref.ref] = []

    class Watched(TinyNet):
        def forward(self, image: Tensor, low: bool = False) -> Tensor:
            assert not [ref for ref in alive if ref() is not None]
            logits = super().forward(image, low)
            alive.append(weakref.ref(logits))
            return logits

    Inference(scales=(0.5, 0.75, 1.25, 1.5), flip=True).probabilities(Watched().double().eval(), image)
    assert len(alive) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": ()}, r"scales must be one or more positive numbers, got \[\]"),
        ({"scales": (1.0, -0.5)}, r"positive numbers, got \[1.0, -0.5\]"),
        ({"window": 0}, "window must be at least 1 pixel, or null for whole images, got 0"),
        ({"window": 10, "stride": 11}, r"stride must lie in 1..window=10 .*, got 11"),
        ({"stride": 5}, "1..window=None"),
    ],
)
def test_senseless_values_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Inference(**options)


class LowNet(nn.Module):
    """Logits at the stride, upsampled unless asked not to."""

    output_stride = 8

    def __init__(self, *, classes: int, align_corners: bool, channels_last: bool) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.conv = nn.Conv2d(3, classes, 3, stride=8, padding=1)
        self.lows: list[bool] = []

    def forward(self, image: Tensor, low: bool = False) -> Tensor:
        self.lows.append(low)
        logits = self.conv(image).contiguous(memory_format=self.format)
        if low:
            return logits
        size = image.shape[-2:]
        return nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=self.align_corners)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("window", [None, 500, 65])
def test_upsampling_in_blocks_changes_no_bit(window: int | None, align_corners: bool, channels_last: bool):
    """Against the same formulas on logits that the network has upsampled at once."""
    net = LowNet(classes=9, align_corners=align_corners, channels_last=channels_last).eval()
    image = torch.randn(2, 3, 137, 180)
    once, views = Inference(window=window), Inference(scales=MULTI, flip=True, window=window)

    def at_once(image: Tensor) -> Tensor:
        return once.windowed(net, image) if once.slides(image) else predict_logits(net, image)

    def look(image: Tensor, scale: float) -> Tensor:
        scaled = resize(image, [int(side * scale) for side in image.shape[-2:]])
        return resize(at_once(scaled), image.shape[-2:]).softmax(1)

    total = sum(look(image, scale) + look(image.flip(-1), scale).flip(-1) for scale in MULTI)
    expected = at_once(image).argmax(1), at_once(image).softmax(1), total / 6
    net.lows.clear()
    got = once.predict(net, image), once.probabilities(net, image), views.probabilities(net, image)
    assert all(map(torch.equal, got, expected))
    assert set(net.lows) == {window != 65}, "windows alone need logits at full size, to average them"
