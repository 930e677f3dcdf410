"""Pictures: colors say the class, sizes add up, and nothing is drawn that does not occur."""

import numpy as np
import pytest
from PIL import Image

from emanet.common.visual import (
    IGNORE_COLOUR,
    WRONG_COLOUR,
    SheetRow,
    colorize,
    denormalize,
    error_map,
    fit_size,
    font,
    legend,
    legend_of,
    overlay,
    resize_labels,
    sheet,
    sheet_width,
    shorten,
)

PALETTE = np.array([[10, 20, 30], [200, 100, 0], [0, 0, 255]], np.uint8)
MASK = np.array([[0, 1], [2, 255]])


def colors_of(picture: Image.Image) -> set[tuple[int, ...]]:
    """All colors in a picture."""
    return {tuple(color) for color in np.asarray(picture).reshape(-1, 3).tolist()}


def test_each_pixel_gets_the_color_of_its_class_and_ignored_ones_their_own():
    np.testing.assert_array_equal(
        colorize(MASK, PALETTE), [[[10, 20, 30], [200, 100, 0]], [[0, 0, 255], list(IGNORE_COLOUR)]]
    )


@pytest.mark.parametrize("label", [3, -1])
def test_a_label_outside_the_palette_is_refused_with_its_value(label):
    with pytest.raises(ValueError, match=rf"0\.\.2 or be 255.*got {min(label, 0)}\.\.{max(label, 0)}"):
        colorize(np.array([[0, label]]), PALETTE)


def test_an_overlay_of_a_quarter_mixes_three_parts_image_with_one_part_color():
    image = np.full((2, 2, 3), 100, np.uint8)
    mixed = overlay(image, MASK, PALETTE, alpha=0.25)
    np.testing.assert_array_equal(mixed[0, 1], [125, 100, 75])  # 0.75 * 100 + 0.25 * (200, 100, 0)
    np.testing.assert_array_equal(mixed[1, 1], image[1, 1])  # ignored: the image alone


def test_an_error_map_marks_wrong_pixels_and_leaves_ignored_ones_out():
    image = np.zeros((2, 2, 3), np.uint8)
    picture = error_map(image, MASK, np.array([[0, 2], [2, 1]]))
    assert picture.tolist() == [[[127] * 3, list(WRONG_COLOUR)], [[127] * 3, list(IGNORE_COLOUR)]]


def test_denormalizing_undoes_the_normalization_of_every_8_bit_color():
    colors = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    image = (np.moveaxis(colors / 255, 2, 0) - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    np.testing.assert_array_equal(denormalize(image.astype(np.float32), mean, std), colors)


def test_values_beyond_black_and_white_are_clipped_and_do_not_wrap_around():
    image = np.array([-9.0, 0.0, 9.0], np.float32).reshape(3, 1, 1)
    assert denormalize(image, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)).tolist() == [[[0, 128, 255]]]


@pytest.mark.parametrize(
    ("size", "expected"), [((100, 200), (50, 100)), ((300, 100), (100, 33)), ((1, 1000), (1, 100))]
)
def test_the_longer_side_fits_and_the_shape_stays(size, expected):
    assert fit_size(*size, 100) == expected


def test_resizing_labels_invents_no_label_and_doubling_repeats_each_pixel():
    np.testing.assert_array_equal(resize_labels(MASK, 4, 4), MASK.repeat(2, 0).repeat(2, 1))
    np.testing.assert_array_equal(resize_labels(resize_labels(MASK, 7, 9), 2, 2), MASK)


def test_a_legend_shows_the_classes_that_occur_and_no_others():
    shown = colors_of(legend_of([MASK, np.zeros((3, 3), int)], ["a", "b", "c"], PALETTE))
    assert {(10, 20, 30), (200, 100, 0), (0, 0, 255), IGNORE_COLOUR} <= shown
    without = colors_of(legend_of([np.array([[1]])], ["a", "b", "c"], PALETTE))
    assert (200, 100, 0) in without
    assert not {(10, 20, 30), (0, 0, 255), IGNORE_COLOUR} & without


def test_a_legend_of_171_classes_keeps_its_width_and_a_long_name_does_not_cost_the_columns():
    names = [f"class {i}" for i in range(171)]
    colors = [(i, 0, 0) for i in range(171)]
    picture = legend(names, colors, width=600)
    longer = legend([*names[:-1], "n" * 300], colors, width=600)
    assert picture.width == longer.width == 600
    assert longer.height < 171 * 28 / 1.5  # at least two columns
    assert {(i, 0, 0) for i in range(171)} <= colors_of(longer)


def test_a_text_that_is_too_long_ends_in_an_ellipsis_within_the_room_given():
    face = font(15)
    short = shorten("a very long class name indeed", 80, face)
    assert short.endswith("...")
    assert face.getlength(short) <= 80
    assert shorten("sky", 80, face) == "sky"


def test_a_sheet_holds_every_picture_pixel_by_pixel():
    pictures = [np.full((20, 30, 3), value, np.uint8) for value in (40, 80, 120)]
    tall = [np.full((50, 10, 3), value, np.uint8) for value in (60, 100, 140)]
    drawn = sheet([SheetRow("one", pictures), SheetRow("two", tall)], ["x", "y", "z"], title="t", subtitle="s", cell=60)
    assert drawn.width == sheet_width(3, 60) == 40 + 3 * 60 + 2 * 8
    pixels = np.asarray(drawn)
    for value, count in [(40, 600), (80, 600), (120, 600), (60, 500), (100, 500), (140, 500)]:
        assert (pixels == value).all(axis=2).sum() >= count
