"""Context heads: pyramid pooling and ASPP against float64 references written as loops, and what they refuse."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emanet.common.errors import ConfigError
from emanet.model.heads.deeplabv3 import ASPP
from emanet.model.heads.layers import PooledContext
from emanet.model.heads.psp import PyramidPooling

D, H, W = 8, 7, 9


def drawn(head: nn.Module) -> nn.Module:
    """The head in float64 and evaluation, with batch norms that do something."""
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return head.double().eval()


def conv_reference(block: nn.Module, x: np.ndarray, dilation: int = 1) -> np.ndarray:
    """A convolution that keeps the size, batch norm and ReLU of one image (d, h, w): a sum over shifted images."""
    weight = block.conv.weight.detach().numpy()
    reach, (_, h, w) = weight.shape[-1] // 2 * dilation, x.shape
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach)))
    y = np.zeros((weight.shape[0], h, w))
    for i, j in np.ndindex(weight.shape[2:]):
        shifted = padded[:, i * dilation : i * dilation + h, j * dilation : j * dilation + w]
        y += np.einsum("od,dhw->ohw", weight[:, :, i, j], shifted)
    bn = {key: value.detach().numpy()[:, None, None] for key, value in block.bn.state_dict().items() if value.ndim}
    y = (y - bn["running_mean"]) / np.sqrt(bn["running_var"] + 1e-5) * bn["weight"] + bn["bias"]
    return np.maximum(y, 0)


def pooled_reference(context: nn.Module, x: np.ndarray, bins: int) -> np.ndarray:
    """Means of cells (which overlap where a side does not divide), reduced, then interpolated with aligned corners."""
    _, h, w = x.shape
    cells = np.zeros((x.shape[0], bins, bins))
    for i in range(bins):
        for j in range(bins):
            rows = slice(i * h // bins, -(-(i + 1) * h // bins))
            columns = slice(j * w // bins, -(-(j + 1) * w // bins))
            cells[:, i, j] = x[:, rows, columns].mean(axis=(1, 2))
    cells = conv_reference(context.reduce, cells)
    out = np.zeros((cells.shape[0], h, w))
    for row in range(h):
        for column in range(w):
            r, c = row * (bins - 1) / (h - 1), column * (bins - 1) / (w - 1)
            top, left = int(r), int(c)
            for i, share_i in ((top, 1 - r + top), (min(top + 1, bins - 1), r - top)):
                for j, share_j in ((left, 1 - c + left), (min(left + 1, bins - 1), c - left)):
                    out[:, row, column] += share_i * share_j * cells[:, i, j]
    return out


@pytest.mark.parametrize("bins", [(1, 2, 3, 6), (2, 4)])
def test_pyramid_pooling_computes_what_its_description_says(bins: tuple[int, ...]):
    head = drawn(PyramidPooling(D, channels=5, bins=bins))
    x = torch.randn(1, D, H, W, dtype=torch.float64)
    image = x[0].numpy()
    levels = [pooled_reference(level, image, count) for level, count in zip(head.pyramid, bins, strict=True)]
    assert [level.shape[0] for level in levels] == [D // len(bins)] * len(bins)
    expected = conv_reference(head.bottleneck, np.concatenate([image, *levels]))
    torch.testing.assert_close(head(x)[0][0], torch.from_numpy(expected))


@pytest.mark.parametrize(
    ("options", "dilations"),
    [
        ({"output_stride": 8}, (12, 24, 36)),
        ({"output_stride": 16}, (6, 12, 18)),
        ({"output_stride": 32}, (3, 6, 9)),
        ({"dilations": (2, 4)}, (2, 4)),
        ({"dilations": (2, 4), "output_stride": 16}, (1, 2)),
    ],
)
def test_aspp_computes_what_its_description_says(options: dict, dilations: tuple[int, ...]):
    head = drawn(ASPP(D, channels=6, **options))
    x = torch.randn(1, D, 11, 14, dtype=torch.float64)
    image = x[0].numpy()
    parts = [conv_reference(head.branches[0], image)]
    parts += [conv_reference(head.branches[i + 1], image, dilation) for i, dilation in enumerate(dilations)]
    parts.append(pooled_reference(head.branches[-1], image, 1))
    expected = conv_reference(head.project, np.concatenate(parts))
    assert expected.shape[0] == head.out_channels == 3
    torch.testing.assert_close(head(x)[0][0], torch.from_numpy(expected))


def test_one_image_at_a_time_is_refused_in_training_where_a_mean_is_all_that_is_normalized():
    x = torch.randn(1, D, H, W)
    for head in (ASPP(D, channels=6), PyramidPooling(D, channels=5)):
        with pytest.raises(ConfigError, match="at least 2 images at a time on each device, got 1"):
            head.train()(x)
        assert head.eval()(x)[0].shape[0] == 1
        assert head.train()(torch.cat([x, x]))[0].shape[0] == 2
    frozen = PooledContext(D, channels=2, bins=1).train()
    frozen.reduce.bn.eval()
    assert frozen(x).shape == (1, 2, H, W)
    assert PooledContext(D, channels=2, bins=2).train()(x).shape == (1, 2, H, W)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4)])
def test_features_smaller_than_the_pyramid_are_taken(size: tuple[int, int]):
    x: Tensor = torch.randn(2, D, *size)
    assert PyramidPooling(D, channels=5)(x)[0].shape == (2, 5, *size)
    context = PooledContext(D, channels=2, bins=1).eval()
    torch.testing.assert_close(context(x), context.reduce(F.adaptive_avg_pool2d(x, 1)).expand(-1, -1, *size))
