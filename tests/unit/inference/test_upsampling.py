"""Upsampling in blocks against upsampling at once: to the last bit, ties and NaN included."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from emanet.inference.upsampling import class_blocks, upsampled_argmax
from emanet.studies.complexity import LiveMemory

LOW = (13, 17)
#: an input row every 8 output rows, and every 16; small; other ratios
SIZES = [(97, 129), (193, 65), (33, 49), (90, 77), (65, 64)]


def at_once(low: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    return F.interpolate(low, size=size, mode="bilinear", align_corners=align_corners)


def logits(classes: int, dtype: torch.dtype, channels_last: bool, ties: bool) -> Tensor:
    """Random logits; with ties, of few values, so that many pixels have several best classes."""
    low = torch.randn(2, classes, *LOW) * 2
    low = (low / 2).round() if ties else low
    return low.to(dtype).contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_decisions_are_those_of_all_logits_to_the_last_bit(dtype: torch.dtype, channels_last: bool, ties: bool):
    for classes in (1, 3, 4, 6, 8, 21):
        low = logits(classes, dtype, channels_last, ties)
        for size in SIZES:
            for align_corners in (True, False):
                full = at_once(low, size, align_corners)
                expected = full.argmax(1)
                assert not ties or classes < 3 or (full == full.amax(1, keepdim=True)).sum(1).max() > 1
                assert torch.equal(upsampled_argmax(low, size, align_corners=align_corners), expected)


@pytest.mark.parametrize("channels_last", [False, True])
def test_nan_and_infinities_count_as_in_argmax(channels_last: bool):
    low = logits(9, torch.float32, channels_last, ties=False)
    low[0, 3, 4, 5] = torch.nan
    low[0, 6, 4, 6] = torch.nan
    low[1, 2, 2, 2] = torch.inf
    low[1, :, 8, 8] = -torch.inf
    expected = at_once(low, (97, 129), True).argmax(1)
    assert {3, 6} <= set(expected[0].unique().tolist())
    assert torch.equal(upsampled_argmax(low, (97, 129), align_corners=True), expected)


@pytest.mark.parametrize("channels_last", [False, True])
def test_autocast_and_the_number_of_threads_change_nothing(channels_last: bool):
    low = logits(21, torch.bfloat16, channels_last, ties=False)
    with torch.autocast("cpu", torch.bfloat16):
        expected = at_once(low, (97, 129), True).argmax(1)
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert torch.equal(upsampled_argmax(low, (97, 129), align_corners=True), expected)


@pytest.mark.parametrize("channels_last", [False, True])
def test_no_logits_of_all_classes_are_held_at_full_size(channels_last: bool):
    low = logits(59, torch.float32, channels_last, ties=False)
    with LiveMemory(low) as live:
        before = live.peak
        decided = upsampled_argmax(low, (257, 385), align_corners=True)
    assert 2 * 257 * 385 * 8 < live.peak - before < 2 * 59 * 257 * 385 * 4 / 3
    assert torch.equal(decided, upsampled_argmax(low.contiguous(), (257, 385), align_corners=True))


@pytest.mark.parametrize("classes", [1, 3, 4, 7, 21, 171])
def test_class_blocks_are_all_classes_in_order_and_never_fewer_than_four(classes: int):
    low = torch.randn(1, classes, 2, 2)
    blocks = class_blocks(low, (100, 100), (300, 300))
    assert torch.equal(torch.cat(blocks, dim=1), low)
    assert min(block.shape[1] for block in blocks) >= min(4, classes)
    assert len(blocks) == max(1, classes // 4)
    assert len(class_blocks(low, (300, 300), (60, 60))) == 1
