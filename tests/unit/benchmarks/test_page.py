"""docs/performance.md: what page.py makes of the committed results; goals are read off rows as by hand."""

from typing import Any

import page
import pytest
from page import GOALS, Goal

CASE = {"task": "training step", "network": "ResNet-50", "images": "2x9x9"}
MS = {"ours": (10.0, 4.0), "ours as mmsegmentation": (20.0, 5.0), "authors": (13.0, 5.0), "mmsegmentation": (25.0, 9.0)}
ROWS: list[dict[str, Any]] = [
    CASE | {"variant": f"{name}; {setting}", "ms": ms, "rounds": 5}
    for name, times in MS.items()
    for setting, ms in zip(("default", "fast"), times, strict=True)
]
ORIGIN = {
    "hardware": {"cpu": "A processor", "cores": 2, "threads": 2, "gpus": []},
    "versions": {"torch": "9.9"},
    "code": {"commit": "0123456789abcdef", "dirty": True},
    "origins": {"authors": "XiaLiPKU/EMANet f00"},
}


def test_the_committed_page_is_what_the_committed_results_make_and_has_at_most_200_lines():
    text = (page.ROOT / "docs" / "performance.md").read_text()
    assert page.page(text, page.load(page.ROOT / "benchmarks" / "results")) == text
    assert len(text.splitlines()) <= 200


@pytest.mark.parametrize(
    ("mine", "least", "expected"),
    [
        ("default", 1.25, "1.25x to 1.30x: reached"),  # 25 / 20 beside ours with its options, 13 / 10 beside ours
        ("default", 1.26, "1.25x to 1.30x: **missed**"),
        ("fast", 3.0, "3.25x to 5.00x: reached"),  # 13 / 4 and 25 / 5
        (None, 1.5, "1.25x to 1.80x: **missed**"),  # each setting beside the same: 25 / 20 to 9 / 5
    ],
)
def test_each_peer_stands_beside_ours_that_computes_the_same_and_the_worst_case_decides(
    mine: str | None, least: float, expected: str
):
    theirs = ("default",) if mine else ("default", "fast")
    goal = Goal("", least, "peers", {"task": "training step"}, mine=mine, theirs=theirs)
    assert page.verdict(goal, ORIGIN | {"rows": ROWS}) == expected


def test_what_was_not_measured_is_not_run():
    assert {page.verdict(goal, None) for goal in GOALS} == {"not run"}
    assert page.verdict(Goal("", 1, "peers", {}), ORIGIN | {"rows": ROWS[:2]}) == "not run"  # without a peer
    text = page.page("<!-- goals -->\nwords of before\n<!-- end -->\n\n<!-- loss -->\n<!-- end -->\n", {})
    assert text.count("not run") == 2 * len(GOALS)
    assert "Not run; `make bench` fills this." in text
    assert "before" not in text


def test_a_table_has_a_line_a_case_and_a_column_a_variant_and_words_between_markers_stay():
    rows = [*ROWS[:2], {**ROWS[0], "images": "1x9x9", "ms": 1234.5, "peak_mb": 7.25}]
    text = page.page("Words.\n<!-- peers -->\n<!-- end -->\nMore.\n", {("peers", "cpu"): ORIGIN | {"rows": rows}})
    assert text.splitlines() == [
        "Words.",
        "<!-- peers -->",
        "A processor, 2 of 2 cores; torch 9.9; commit `0123456789` with changes; XiaLiPKU/EMANet f00.",
        "",
        "| task | network | images | ours; default | ours; fast |",
        "| --- | --- | --- | --: | --: |",
        "| training step | ResNet-50 | 2x9x9 | 10 | 4 |",
        "| training step | ResNet-50 | 1x9x9 | 1,234, 7.25 MB |  |",
        "",
        "<!-- end -->",
        "More.",
    ]
