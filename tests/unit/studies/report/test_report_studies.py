"""Means, deviations and paired differences by hand; what differs between runs beside what is swept is said."""

import json
from pathlib import Path

import pytest

from emanet.studies.report.checks import facts, warnings
from emanet.studies.report.costs import complete
from emanet.studies.report.page import finding
from emanet.studies.report.runs import gather, with_defaults
from emanet.studies.report.spread import Difference, Spread
from emanet.studies.report.studies import Study, group
from emanet.studies.report.tables import (
    cells_csv,
    difference_text,
    iterations_changes,
    iterations_table,
    runs_csv,
    spread_text,
    study_table,
)
from fake_runs import write_run, write_sweep


def study_of(place: Path, **baseline) -> Study:
    """The one study below a place."""
    (study,) = group(with_defaults(complete(gather([place])), baseline))
    return study


# --- statistics -----------------------------------------------------------------------------------------------------


def test_the_standard_deviation_divides_by_n_minus_one_and_one_run_has_none():
    spread = Spread((0.40, 0.44, 0.42))
    assert spread.mean == pytest.approx(0.42)
    assert spread.sd == pytest.approx(0.02)  # sqrt((0.02^2 + 0.02^2 + 0) / 2)
    assert (Spread((0.4,)).mean, Spread((0.4,)).sd) == (0.4, None)
    assert (Spread(()).mean, Spread(()).sd) == (None, None)


def test_a_paired_difference_has_mean_standard_error_and_students_interval():
    difference = Difference((-0.03, -0.01, -0.05))
    assert difference.mean == pytest.approx(-0.03)
    assert difference.se == pytest.approx(0.02 / 3**0.5)
    assert difference.half_width == pytest.approx(4.302653 * 0.02 / 3**0.5)  # t of 2 degrees of freedom, 97.5 %
    assert not difference.stands_out  # 0.0497 is more than 0.03
    assert Difference((-0.031, -0.030, -0.029)).stands_out
    assert (Difference((0.1,)).se, Difference((0.1,)).stands_out) == (None, False)


def test_differences_pair_what_has_the_same_seed(tmp_path: Path):
    for seed, (few, many) in {0: (0.40, 0.43), 1: (0.44, 0.45), 2: (0.42, None), 7: (None, 0.9)}.items():
        for K, miou in ((32, few), (64, many)):
            if miou is not None:
                write_run(tmp_path / f"K={K}_seed={seed}", miou, values={"model.K": K}, seed=seed)
    few, many = study_of(tmp_path).cells
    assert few.minus(many).values == pytest.approx((-0.03, -0.01))
    assert few.spread().mean == pytest.approx(0.42), "the mean is over all its own seeds"


def test_a_run_that_failed_is_in_no_mean(tmp_path: Path):
    write_sweep(tmp_path, "model.K", {64: (0.4, 0.5)})
    write_run(tmp_path / "x", 0.9, values={"model.K": 64}, seed=2, status="failed", error="ValueError: x")
    study = study_of(tmp_path)
    assert study.cells[0].spread().values == (0.4, 0.5)
    assert [run.name for run in study.unfinished] == ["x"]


# --- studies and cells ----------------------------------------------------------------------------------------------


def test_cells_stand_in_the_order_of_their_numbers_or_usual_names(tmp_path: Path):
    write_sweep(tmp_path / "K", "model.K", {8: (0.1,), 128: (0.1,), 16: (0.1,)})
    assert [cell.values for cell in study_of(tmp_path / "K").cells] == [(8,), (16,), (128,)]
    write_sweep(tmp_path / "g", "model.gradient", {"full": (0.1,), "none": (0.1,), "last": (0.1,)})
    assert [cell.values for cell in study_of(tmp_path / "g").cells] == [("none",), ("last",), ("full",)]


def test_runs_are_grouped_by_experiment_and_study_and_others_by_what_they_differ_in(tmp_path: Path):
    write_sweep(tmp_path / "a", "model.K", {8: (0.1,)}, study="K")
    write_sweep(tmp_path / "b", "model.T", {1: (0.1,)}, study="T")
    for T in (1, 2):
        write_run(tmp_path / f"c{T}", 0.1, study=None, values={"model.T": T, "dataset.num_workers": T}, seed=T)
    studies = group(gather([tmp_path]))
    assert [(study.title, study.keys) for study in studies] == [
        ("K (invented)", ("model.K",)),
        ("T (invented)", ("model.T",)),
        ("invented", ("model.T",)),  # the number of workers changes no result
    ]


def test_the_default_cell_comes_from_the_command_or_from_the_baseline(tmp_path: Path):
    write_sweep(tmp_path, "model.K", {32: (0.1,), 64: (0.1,)})
    assert study_of(tmp_path).default.values == (64,)
    assert study_of(tmp_path, **{"model.K": 32}).default.values == (32,)
    assert study_of(tmp_path, **{"model.K": 48}).default is None


# --- warnings -------------------------------------------------------------------------------------------------------


def test_runs_that_differ_in_nothing_else_are_not_warned_of(tmp_path: Path):
    write_sweep(tmp_path, "model.K", {8: (0.1, 0.2), 16: (0.1, 0.2)})
    assert warnings(study_of(tmp_path)) == []


COMMIT = "0123456789abcdef0123456789abcdef01234567"
HARDWARE = {"cpu": "Invented CPU", "cores": 2, "threads": 1, "gpus": [], "devices": 1, "system": "Linux"}
VERSIONS = {"emanet": "0.1.0", "torch": "10.0", "numpy": "9.9"}
SAME = "is not the same for all runs"


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"git": {"commit": "f" * 40}}, f"commit {SAME}: 0123456789 (2 runs); ffffffffff (1 run)."),
        (
            {"git": {"commit": COMMIT, "dirty": True}},
            "1 of 3 runs come from a source tree with uncommitted changes.",
        ),
        ({"steps": 50}, f"steps done {SAME}: 100 (2 runs); 50 (1 run)."),
        ({"hardware": HARDWARE}, f"hardware: threads {SAME}: 2 (2 runs); 1 (1 run)."),
        ({"versions": VERSIONS}, f"version of torch {SAME}: 9.9.9 (2 runs); 10.0 (1 run)."),
    ],
)
def test_other_circumstances_are_warned_of_with_the_number_of_runs(tmp_path: Path, changes, warning):
    write_sweep(tmp_path, "model.K", {8: (0.1, 0.2)})
    write_run(tmp_path / "x", 0.3, values={"model.K": 8}, seed=2, **changes)
    assert warnings(study_of(tmp_path)) == [warning]


def test_a_setting_that_differs_without_being_swept_is_warned_of(tmp_path: Path):
    write_sweep(tmp_path, "model.K", {8: (0.1,), 16: (0.2,)})
    config = tmp_path / "K=16_seed=0" / "config.yaml"
    config.write_text(config.read_text().replace("max_steps: 100", "max_steps: 50"))
    assert warnings(study_of(tmp_path)) == ["`trainer.max_steps` goes with `model.K`: 100 (1 run); 50 (1 run)."]
    write_run(tmp_path / "x", 0.3, values={"model.K": 16}, seed=1)
    write_run(tmp_path / "y", 0.3, values={"model.K": 8}, seed=1)
    assert warnings(study_of(tmp_path)) == [
        "`trainer.max_steps` differs, though it is not swept: 100 (3 runs); 50 (1 run)."
    ]


def test_repeated_and_unequal_seeds_and_missing_evaluations_are_warned_of(tmp_path: Path):
    write_run(tmp_path / "a", 0.1, values={"model.T": 1}, seed=0, evaluations={"1": 0.1, "2": 0.1})
    write_run(tmp_path / "b", 0.1, values={"model.T": 1}, seed=0, evaluations={"1": 0.1, "2": 0.1})
    write_run(tmp_path / "c", 0.1, values={"model.T": 1}, seed=1, evaluations={"1": 0.1})
    write_run(tmp_path / "d", 0.1, values={"model.T": 2}, seed=0, evaluations={"1": 0.1, "2": 0.1})
    assert warnings(study_of(tmp_path)) == [
        "T=1: seed 0 was run more than once: `a`, `b`.",
        "Means are not over the same seeds: most are over 0, 1, but not T=2 (0).",
        "Not evaluated with every T_eval: `c`.",
    ]


def test_facts_name_what_a_reader_needs(tmp_path: Path):
    write_sweep(tmp_path, "model.K", {8: (0.1, 0.2), 64: (0.1,)})
    write_run(tmp_path / "x", None, values={"model.K": 64}, seed=1)
    told = dict(facts(study_of(tmp_path)))
    assert told["Swept"] == "`model.K` = 8, 64; seeds 0, 1"
    assert told["Data"] == "voc, validated on val, 3 classes"
    assert told["Network"].startswith("test_resnet, head ema, output stride 16, 8 channels, T=3, momentum 0.9")
    assert told["Training"] == (
        "100 steps, batch 16, crop 33 px, lr 0.009, precision 32-true, start from random weights"
    )
    assert told["Runs"] == "4, of which 3 finished; 1.0 minutes each (median), 0.1 hours in all"
    assert told["Hardware"] == "Invented CPU, 2 threads on 2 cores, Linux"
    assert told["Software"] == "emanet 0.1.0, torch 9.9.9, numpy 9.9"
    assert told["Commit"] == "`0123456789`"


# --- tables ---------------------------------------------------------------------------------------------------------


def rows(table: str) -> list[list[str]]:
    """Cells of a Markdown table without its rule."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return [lines[0], *lines[2:]]


def test_the_table_of_a_study_by_hand(tmp_path: Path):
    write_sweep(tmp_path, "model.K", {32: (0.40, 0.44, 0.42), 64: (0.43, 0.45, 0.47)})
    write_run(tmp_path / "x", 0.45, values={"model.K": 4}, seed=0)
    write_run(tmp_path / "y", 0.9, values={"model.K": 4}, seed=1, status="failed", error="x")
    header, few, less, default = rows(study_table(study_of(tmp_path)))
    assert header[:6] == ["`K`", "runs", "mIoU", "pixel accuracy", "mIoU − default's", "images/s"]  # noqa: RUF001
    assert few[:6] == ["4", "1 of 2", "45.00", "65.00", "+2.00", "25.0"]
    assert less[:6] == ["32", "3", "42.00 ± 2.00", "62.00 ± 2.00", "−3.00 ± 1.15", "25.0"]  # noqa: RUF001
    assert default[:6] == ["64 (default)", "3", "45.00 ± 2.00", "65.00 ± 2.00", "", "25.0"]
    assert header[6:] == ["head M MACs", "head k params", "head kB"]
    study = study_of(tmp_path)
    assert float(few[6]) == pytest.approx(study.cells[0].cost("macs") / 1e6, rel=0.005)


def test_the_finding_names_what_differs_by_more_than_the_seeds_noise(tmp_path: Path):
    write_sweep(tmp_path, "model.K", {64: (0.43, 0.45, 0.47), 32: (0.40, 0.44, 0.42)})
    assert finding(study_of(tmp_path)).endswith("by more than chance differ: none.")
    write_sweep(tmp_path / "more", "model.K", {16: (0.401, 0.420, 0.439), 8: (0.9,)})
    assert finding(study_of(tmp_path)) == (
        "Of 2 settings that can be compared with the default over two seeds or more, by more than chance differ: "
        "K=16 (−3.00)."  # noqa: RUF001
    )
    assert finding(study_of(tmp_path, **{"model.K": 8})).startswith("No setting shares two seeds with the default")
    assert finding(study_of(tmp_path, **{"model.K": 5})).startswith("The default setting is not among the runs")


def test_a_difference_that_stands_out_is_bold():
    assert difference_text(Difference((0.031, 0.030, 0.029))) == "**+3.00 ± 0.06**"
    assert difference_text(None) == ""
    assert spread_text(Spread(())) == "no result"


def test_the_table_over_iterations_shows_each_evaluation(tmp_path: Path):
    for T in (1, 3):
        for seed, shift in enumerate((0.0, 0.02)):
            scores = {"1": 0.4 + shift, "3": 0.5 + shift, "10": 0.6}
            write_run(tmp_path / f"{T}{seed}", 0.5, values={"model.T": T}, seed=seed, evaluations=scores)
    header, *body = rows(iterations_table(study_of(tmp_path)))
    assert header == ["`T`", "T_eval=1", "T_eval=3", "T_eval=10"]
    assert body == [[T, "41.00 ± 1.41", "51.00 ± 1.41", "60.00 ± 0.00"] for T in ("1", "3")]


def test_changes_by_iterations_are_paired_within_each_network(tmp_path: Path):
    for seed, shift in enumerate((0.0, 0.2)):  # networks far apart, the same change in each
        scores = {"1": 0.42 + shift - 0.001 * seed, "3": 0.40 + shift}
        write_run(tmp_path / f"{seed}", 0.5, values={"model.T": 3}, seed=seed, evaluations=scores)
    write_run(tmp_path / "T1", 0.5, values={"model.T": 1}, evaluations={"3": 0.5})
    header, one, three = rows(iterations_changes(study_of(tmp_path)))
    assert header == ["`T`", "T_eval=1", "T_eval=3"]
    assert one == ["1", "", ""]
    assert three == ["3", "**+1.95 ± 0.05**", ""]  # 2.0 and 1.9 points; half a tenth of a point of standard error
    write_sweep(tmp_path / "K", "model.K", {8: (0.1,)}, study="K")
    assert iterations_changes(study_of(tmp_path / "K")) == ""


def test_csv_holds_shares_to_the_last_digit(tmp_path: Path):
    write_sweep(tmp_path, "model.K", {32: (0.1 + 0.2,), 64: (0.5,)})
    study = study_of(tmp_path)
    lines = cells_csv(study).splitlines()
    first = dict(zip(lines[0].split(","), lines[1].split(","), strict=True))
    assert (first["model.K"], first["miou_mean"], first["miou_sd"]) == ("32", "0.30000000000000004", "")
    assert float(first["difference"]) == pytest.approx(-0.2)
    lines = runs_csv([study]).splitlines()
    assert len(lines) == 3
    first = dict(zip(lines[0].split(","), lines[1].split(","), strict=True))
    assert first["run"] == "K=32_seed=0"
    assert (first["val/miou"], first["commit"][:4], first["status"]) == ("0.30000000000000004", "0123", "finished")
    assert json.loads(first["val/iou/invented a"]) == 0.1 + 0.2
