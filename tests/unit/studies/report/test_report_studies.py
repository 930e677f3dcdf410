"""Means, deviations and paired differences by hand; what differs between runs beside what is swept is said."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import ndtr

from emanet.common.errors import ConfigError
from emanet.studies.report.build import parse_setting
from emanet.studies.report.default import default_of
from emanet.studies.report.facts import facts, warnings
from emanet.studies.report.study import MIOU, Study, compared, detectable, group, pairs_needed, student
from emanet.studies.report.tables import Strong, finding, runs_frame, scores, tables, to_csv
from emanet.studies.runs import gather
from fake_runs import write_run, write_sweep


def study_of(place: Path) -> Study:
    """The one study below a place."""
    (study,) = group(replace(run, default=default_of(run)) for run in gather([place]))
    return study


# --- statistics -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("comparisons", "t"), [(1, 4.302653), (2, 6.205347)])  # Student's, 2 degrees: 97.5, 98.75 %
def test_a_paired_difference_stands_out_where_its_interval_leaves_out_zero(comparisons, t):
    se = 0.02 / 3**0.5  # of values 0.02 apart
    shift = {"just below": (t - 1e-4) * se, "just above": (t + 1e-4) * se, "single": 0.5}
    pairs = {name: [by, by - 0.02, by + 0.02] for name, by in shift.items()} | {"single": [0.5, np.nan, np.nan]}
    found = student(pd.DataFrame(pairs), comparisons)
    assert found["mean"].tolist() == pytest.approx(list(shift.values()))
    assert found["sd"].tolist()[:2] == pytest.approx([0.02, 0.02])
    assert (found["high"] - found["low"]).tolist()[:2] == pytest.approx([2 * t * se] * 2, rel=1e-6)
    assert found["stands_out"].tolist() == [False, True, False], "one pair says nothing"
    assert found["n"].tolist() == [3, 3, 1]
    assert compared(pd.DataFrame(pairs)) == 2


@pytest.mark.parametrize(("pairs", "comparisons", "critical"), [(3, 1, 4.302653), (10, 1, 2.262157), (10, 5, 3.249836)])
def test_the_detectable_difference_is_seen_in_95_of_100_repetitions(pairs, comparisons, critical):
    found = detectable(0.03, pairs, comparisons)
    # Student's ratio by its definition: a normal mean over the root of a chi-square, integrated over the latter
    degrees, spread = pairs - 1, np.linspace(1e-6, 60, 400_001)
    density = spread ** (degrees / 2 - 1) * np.exp(-spread / 2)
    density /= density.sum()
    bound, shift = critical * np.sqrt(spread / degrees), found / (0.03 / pairs**0.5)
    missed = (density * (ndtr(bound - shift) - ndtr(-bound - shift))).sum()
    assert missed == pytest.approx(0.05, abs=2e-4)


def test_the_seeds_that_a_difference_needs_are_the_fewest_that_see_it():
    needed = pairs_needed(0.03, 0.02, 4)
    assert detectable(0.03, needed, 4) <= 0.02 < detectable(0.03, needed - 1, 4)
    # by hand, for many pairs: (2.498 + 1.645) standard errors of 3 points are 2 points at 38.6 pairs
    assert 39 <= needed <= 44
    assert pairs_needed(1.0, 0.001, 1) is None


def test_differences_pair_what_has_the_same_seed_and_a_run_that_failed_is_in_no_mean(tmp_path):
    for seed, (few, many) in {0: (0.40, 0.43), 1: (0.44, 0.45), 2: (0.42, None), 7: (None, 0.9)}.items():
        for K, miou in ((32, few), (64, many)):
            if miou is not None:
                write_run(tmp_path / f"K={K}_seed={seed}", miou, values={"model.K": K}, seed=seed)
    write_run(tmp_path / "x", 0.9, values={"model.K": 32}, seed=3, status="failed", error="ValueError: x")
    study = study_of(tmp_path)
    assert study.settings == [(32,), (64,)]
    assert study.differences().loc[0, ["mean", "n"]].tolist() == pytest.approx([-0.02, 2])  # -3 and -1
    assert study.spread(MIOU).loc[0].tolist() == pytest.approx([0.42, 0.02, 3]), "over all its own seeds, n - 1"


def test_changes_by_iterations_are_paired_within_each_network(tmp_path):
    for seed, shift in enumerate((0.0, 0.2)):  # networks far apart, the same change in each
        evaluations = {"1": 0.42 + shift - 0.001 * seed, "3": 0.40 + shift}
        write_run(tmp_path / f"{seed}", 0.4, values={"model.T": 3}, seed=seed, evaluations=evaluations)
    write_run(tmp_path / "T1", 0.5, values={"model.T": 1}, evaluations={"3": 0.5})
    _, table = tables(study_of(tmp_path))
    assert table.rows[0] == ["1", "as trained", ""]
    # 2.0 and 1.9 points: half a tenth of a point of standard error, times 12.7062 of one degree of freedom
    assert table.rows[1] == ["3 (default)", "+1.95 [+1.31, +2.59]", "as trained"]
    assert [isinstance(cell, Strong) for cell in table.rows[1]] == [False, True, False]


# --- studies and settings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "written", "ordered"),
    [("model.K", (8, 128, 16), [8, 16, 128]), ("model.gradient", ("full", "none", "last"), ["none", "last", "full"])],
)
def test_settings_stand_in_the_order_of_their_numbers_or_usual_names(tmp_path, key, written, ordered):
    write_sweep(tmp_path, key, dict.fromkeys(written, (0.1,)))
    assert [value for (value,) in study_of(tmp_path).settings] == ordered


def test_runs_are_grouped_by_experiment_and_study_and_others_by_what_they_differ_in(tmp_path):
    write_sweep(tmp_path / "a", "model.K", {8: (0.1,)}, study="K")
    write_sweep(tmp_path / "b", "model.T", {1: (0.1,)}, study="k")
    for T in (1, 2):
        write_run(tmp_path / f"c{T}", 0.1, study=None, values={"model.T": T, "dataset.num_workers": T}, seed=T)
    assert [(study.title, study.keys, study.slug) for study in group(gather([tmp_path]))] == [
        ("K (invented)", ("model.K",), "invented_K"),
        ("k (invented)", ("model.T",), "invented_k-1"),  # files of one name, where letters have no case
        ("invented", ("model.T",), "invented"),  # the number of workers changes no result
    ]


def test_settings_that_need_too_many_words_go_by_a_run_and_of_very_many_the_best_are_shown(tmp_path):
    for number in range(45):
        values = {f"dataset.option{n}": number for n in range(9)} if number else {}
        write_run(tmp_path / f"{number}", number / 100, study=None, values=values)
    study = study_of(tmp_path)
    (table,) = tables(study)
    assert table.header[:2] == ["first run of a setting", "runs"]
    assert [row[0] for row in table.rows] == [str(number) for number in range(5, 45)]
    assert table.lead == "The 40 best of 45 settings; the CSV file holds all."
    assert facts(study)["Swept"].startswith("9 keys: dataset.option0, dataset.option1")
    assert scores(study)["dataset.option8"].tolist() == [None, *range(1, 45)]


def test_the_parameters_of_the_heads_stand_in_the_table_where_they_differ(tmp_path):
    for K, count in ((8, 1_000_000), (16, 2_345_678)):
        write_run(tmp_path / f"{K}", 0.5, values={"model.K": K}, parameters={"head": count})
    (table,) = tables(study_of(tmp_path))
    assert table.header[-1] == "head M params"
    assert [row[-1] for row in table.rows] == ["1.000", "2.346"]


# --- words ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        (
            {"git": {"commit": "f" * 40}},
            "Source is not the same for all runs: commit 0123456789, dirty false (2 runs);",
        ),
        ({"steps": 50}, "Steps done is not the same for all runs: 100 (2 runs); 50 (1 run)."),
        ({"hardware": {"cpu": "Invented CPU", "threads": 1}}, "cpu Invented CPU, threads 1 (1 run)."),
        ({"versions": {"torch": "10.0"}}, "torch 10.0 (1 run)."),
    ],
)
def test_other_circumstances_are_warned_of_with_the_number_of_runs(tmp_path, changes, warning):
    write_sweep(tmp_path, "model.K", {8: (0.1, 0.2)})
    assert warnings(study_of(tmp_path)) == []
    write_run(tmp_path / "x", 0.3, values={"model.K": 8}, seed=2, **changes)
    (found,) = warnings(study_of(tmp_path))
    assert warning in found


def test_a_setting_that_differs_without_being_swept_is_warned_of(tmp_path):
    write_sweep(tmp_path, "model.K", {8: (0.1,), 16: (0.2,)})
    config = tmp_path / "K=16_seed=0" / "config.yaml"
    config.write_text(config.read_text().replace("max_steps: 100", "max_steps: 50"))
    assert warnings(study_of(tmp_path)) == ["trainer.max_steps goes with what is swept: 100 (1 run); 50 (1 run)."]
    for K in (8, 16):
        write_run(tmp_path / f"{K}", 0.3, values={"model.K": K}, seed=1)
    told = "trainer.max_steps differs, though it is not swept: 100 (3 runs); 50 (1 run)."
    assert warnings(study_of(tmp_path)) == [told]


def test_repeated_seeds_are_warned_of(tmp_path):
    for name, T, seed in (("a", 1, 0), ("b", 1, 0), ("c", 1, 1), ("d", 2, 0)):
        write_run(tmp_path / name, 0.1, values={"model.T": T}, seed=seed)
    assert warnings(study_of(tmp_path)) == ["T=1: seed 0 was run more than once: a, b."]


def test_facts_name_what_a_reader_needs(tmp_path):
    write_sweep(tmp_path, "model.K", {8: (0.1, 0.2), 64: (0.1,)})
    write_run(tmp_path / "x", None, values={"model.K": 64}, seed=1)
    told = facts(study_of(tmp_path))
    assert told["Swept"] == "model.K = 8, 64; seeds: 0, 1"
    assert told["Settings"].startswith(
        "backbone=test_resnet, head=ema, output_stride=16, channels=8, T=3, momentum=0.9"
    )
    assert told["Runs"] == "4, 3 of them finished; 1.0 minutes each (median), 0.1 hours in all"
    assert told["Data"] == "voc, validated on val, classes: 3"
    assert told["Software"] == "emanet 0.1.0, torch 9.9.9, numpy 9.9"


def test_the_finding_names_what_differs_by_more_than_chance_and_what_could_have_been_seen(tmp_path):
    write_sweep(tmp_path, "model.K", {64: (0.43, 0.45, 0.47), 32: (0.40, 0.44, 0.42)})
    told = finding(study_of(tmp_path))  # 3, 1 and 5 points: a deviation of 2
    assert "over two seeds or more: 1. By more than chance differ: none." in told
    seen = 100 * detectable(0.02, 3, 1)
    assert f"deviation of 2.00 points; with 3 seeds and 1 comparison, a true difference of {seen:.1f} points" in told
    assert f"2 points needs {pairs_needed(0.02, 0.02, 1)} seeds." in told
    write_sweep(tmp_path / "more", "model.K", {16: (0.401, 0.420, 0.439), 8: (0.9,)})
    assert "more: 2. By more than chance differ: K=16 (−3.00)." in finding(study_of(tmp_path))  # noqa: RUF001


def test_the_baseline_is_read_as_a_configuration_file_reads_it():
    words = ["model.K=64", "model.norm=l2", "model.T_eval=null"]
    assert parse_setting(words) == {"model.K": 64, "model.norm": "l2", "model.T_eval": None}
    with pytest.raises(ConfigError, match=r"baseline holds KEY=VALUE such as model\.K=64, got 'K'"):
        parse_setting(["K"])


def test_csv_holds_shares_to_the_last_digit_and_nothing_that_a_spreadsheet_would_run(tmp_path):
    summary = {"val/iou": {"=cmd": 0.1 + 0.2}, "error": "-2+3", "command": "@SUM(1)", "seconds": -1.5}
    write_run(tmp_path / "+1", 0.1 + 0.2, values={"model.K": 32}, **summary)
    write_run(tmp_path / "b", 0.5, values={"model.K": 64})
    study = study_of(tmp_path)
    first = next(csv.DictReader(io.StringIO(to_csv(scores(study)))))
    assert (first["model.K"], first["val/miou mean"], first["val/miou sd"]) == ("32", "0.30000000000000004", "")
    assert float(first["difference mean"]) == pytest.approx(-0.2)
    first = next(csv.DictReader(io.StringIO(to_csv(runs_frame(study.runs)))))
    assert (first["run"], first["error"], first["command"], first["seconds"]) == ("'+1", "'-2+3", "'@SUM(1)", "-1.5")
    assert first["val/iou.=cmd"] == "0.30000000000000004"
    assert to_csv(pd.DataFrame({"=x": ["a"]})).splitlines() == ["'=x", "a"]
