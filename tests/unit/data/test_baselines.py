"""Answers without a network, on pictures that can be counted by hand."""

import numpy as np

from emanet.data.baselines import color_codes, measure_baselines

RED, GREEN, NEW = (255, 0, 0), (0, 255, 0), (9, 9, 200)


def pair(*pixels: tuple[tuple[int, int, int], int]) -> tuple[np.ndarray, np.ndarray]:
    """An image of one row, and its mask."""
    colors, labels = zip(*pixels, strict=True)
    return np.array([colors], np.uint8), np.array([labels], np.uint8)


def test_each_color_answers_its_most_frequent_class_and_a_new_color_the_most_frequent_of_all():
    train = [pair((RED, 0), (RED, 0), (RED, 1), (GREEN, 1)), pair((GREEN, 1), (GREEN, 2), (GREEN, 255), (GREEN, 255))]
    color, _, constant = measure_baselines(train, [pair((RED, 0), (GREEN, 2), (NEW, 1), (RED, 255))], 3)
    np.testing.assert_array_equal(color, [[1, 0, 0], [0, 1, 0], [0, 1, 0]])
    np.testing.assert_array_equal(constant, [[0, 1, 0], [0, 1, 0], [0, 1, 0]])


def test_colors_are_told_apart_by_five_bits_of_each_channel():
    values = np.array([[(0, 0, 0), (7, 7, 7), (8, 0, 0), (0, 8, 0), (0, 0, 8), (255, 255, 255)]], np.uint8)
    assert color_codes(values).tolist() == [[0, 0, 1024, 32, 1, 32767]]


def test_balanced_votes_count_by_one_over_the_root_of_the_class_s_share():
    # 16 pixels of class 0 and 4 of class 1: weights 1/4 and 1/2, so 5 to 3 pixels of red are 1.25 to 1.5 votes.
    train = [pair(*[(RED, 0)] * 5, *[(NEW, 0)] * 11, *[(RED, 1)] * 3, (GREEN, 1))]
    color, balanced, _ = measure_baselines(train, [pair((RED, 1), (NEW, 0))], 2)
    np.testing.assert_array_equal(color, [[1, 0], [1, 0]])
    np.testing.assert_array_equal(balanced, [[1, 0], [0, 1]])
