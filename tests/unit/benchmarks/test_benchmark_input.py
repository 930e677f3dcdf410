"""The ways that the input benchmark compares: each gives the same kind of crop, and equally many of each scale."""

import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from emanet.data.reading import Sample

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))
import input_pipeline
import input_variants

SIZE = 33
MADE = input_variants.available()
CROPPING = [name for name in MADE if name not in ("decoding alone", "ours, left as bytes")]


@pytest.fixture(scope="module", params=["palette", "gray"])
def samples(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    return input_pipeline.write_images(tmp_path_factory.mktemp("input"), 2, 50, 38, request.param)


@pytest.mark.parametrize("name", CROPPING)
def test_each_way_gives_normalized_crops_with_labels_and_padding_about_zero(name: str, samples: list[Sample]):
    way = MADE[name](SIZE)
    padded = 0
    for sample, seed in zip(samples * 7, way.seeds(), strict=False):
        image, mask = way.load(sample, seed)
        assert image.shape == (3, SIZE, SIZE)
        assert image.dtype == torch.float32
        assert mask.shape == (SIZE, SIZE)
        assert mask.dtype == torch.int64
        assert set(mask.unique().tolist()) <= {*range(input_variants.CLASSES), 255}
        assert image.abs().max() < 2.7  # 0..255 by the means and deviations of ImageNet: -2.12 to 2.64
        assert image.abs().max() > 0.1
        assert image[:, mask == 255].abs().sum() < 0.02 * (mask == 255).sum() + 1e-9  # 8-bit padding is not exactly 0
        padded += int((mask == 255).any())
    assert padded >= 2  # half the size is smaller than the crop


@pytest.mark.parametrize("name", ["authors", "torchvision v2", "ours, decoded before"])
def test_ways_with_our_draws_give_our_crop_within_the_rounding_of_interpolation(name: str, samples: list[Sample]):
    if name not in MADE:
        pytest.skip("not installed")
    ours, other = MADE["ours"](SIZE), MADE[name](SIZE)
    for seed in islice(ours.seeds(), 14):
        (image, mask), (theirs, labels) = ours.load(samples[0], seed), other.load(samples[0], seed)
        # torchvision alone scales with centers aligned, not corners: other pixels, the same labels
        if name != "torchvision v2":
            assert (image - theirs).abs().max() < 1.05 / 255 / 0.224
        assert torch.equal(mask, labels)


@pytest.mark.parametrize("name", CROPPING)
def test_seven_images_in_a_row_have_a_scale_of_each_seventh_of_the_range(name: str):
    way = MADE[name](SIZE)
    assert way.draw is not None
    parts = [int(7 * way.draw(seed) + 1e-9) for seed in islice(way.seeds(), 70)]
    assert parts == [*range(7)] * 10
    assert len(set(islice(way.seeds(), 70))) == 70


def test_the_seeds_of_our_ways_have_the_scales_in_turn(samples: list[Sample]):
    crop = input_variants.ScaleCrop(SIZE, input_variants.SCALES)
    seeds = islice(input_variants.ours(SIZE).seeds(), 14)
    drawn = [crop.draw((100, 100), input_variants.random.Random(seed)).scaled[0] for seed in seeds]
    assert Counter(drawn) == {int(100 * scale): 2 for scale in input_variants.SCALES}


def test_the_sources_have_the_bytes_per_pixel_of_photographs(tmp_path: Path):
    (sample,) = input_pipeline.write_images(tmp_path, 1, 500, 375, "palette")
    assert 60_000 < sample.image.stat().st_size < 130_000
    image, mask = input_variants.decoding(SIZE).load(sample, 0)
    assert image.shape == (375, 500, 3)
    assert mask.shape == (375, 500)
    assert np.unique(mask).tolist() == [*range(21)]
