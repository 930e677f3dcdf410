"""docs/results.md is what its sources say, and says of every experiment whether it was run."""

import json
import re
from pathlib import Path

import pytest

from emanet.common.errors import ConfigError
from emanet.config.schema import CONF_DIR
from emanet.studies.results import PAGE, Run, keep_run, read_published, read_runs, render

SUMMARY = {
    "status": "finished",
    "name": "voc_r101_512",
    "dataset": "voc",
    "val/miou": 0.80123,
    "steps": 30000,
    "seconds_total": 600.0,
    "seed": 0,
    "hardware": {"gpus": ["H100", "H100"], "cpu": "x", "threads": 2},
    "git": {"commit": "0123456789abcdef", "dirty": False},
}


@pytest.fixture(scope="module")
def published() -> dict:
    return read_published()


def test_the_page_is_what_its_sources_give(published):
    assert PAGE.read_text(encoding="utf-8") == render(published, read_runs())


def test_every_experiment_has_a_row_and_its_header_the_same_figure(published):
    final = {path.stem for path in (Path(CONF_DIR) / "experiment").glob("*.yaml")} - {
        "quickstart",
        "quickstart_short",
        "land_cover",
    }
    final -= {f"voc_test_r{depth}_{stage}" for depth in (101, 152) for stage in ("1_coco", "2_trainaug")}
    assert len(final) == 11
    assert {entry["experiment"] for entry in published["results"]} == final
    for entry in published["results"]:
        header = (Path(CONF_DIR) / "experiment" / f"{entry['experiment']}.yaml").read_text().partition("defaults:")[0]
        if entry["miou"] is None:
            assert "none published by the authors" in header
        else:
            assert re.search(rf"\b{re.escape(str(entry['miou']))}\b", header), entry
            assert entry["source"]


def test_what_was_not_run_says_so_and_a_run_fills_its_own_row_alone(published):
    def cells(page: str) -> dict[tuple[str, str], list[str]]:
        rows = [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in page.splitlines()
            if line.startswith("| `")
        ]
        return {(row[0], row[3]): row for row in rows if len(row) > 6}

    empty = cells(render(published, []))
    assert len(empty) == len(published["results"])
    assert all("not run" in row for row in empty.values())
    filled = cells(render(published, [Run("voc_r101_512", "ss", SUMMARY)]))
    changed = [key for key, row in filled.items() if row != empty[key]]
    assert changed == [("`voc_r101_512`", "single scale")]
    row = filled[changed[0]]
    assert row[4:7] == ["80.05", "authors' README", "80.12"]
    assert row[7] == "30000 steps, 10.0 min, 2x H100, seed 0, 0123456789"


def test_where_the_published_scales_are_not_stated_ours_are(published):
    page = render(published, [Run("coco_stuff_10k_r101", "ms", SUMMARY)])
    assert "| not stated | 39.9 | docs/FACTS.md, 2 | 80.12 (multi-scale and flip) |" in page


def test_a_run_without_a_published_figure_stands_among_the_others(published):
    page = render(published, [Run("quickstart", "ss", SUMMARY | {"name": "quickstart", "dataset": "blue_marble"})])
    assert "| `quickstart` | blue_marble | single scale | 80.12 |" in page
    assert "## Other runs" not in render(published, [])


def test_a_finished_run_is_kept_under_its_name_and_measure(tmp_path: Path, published):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "summary.json").write_text(json.dumps(SUMMARY))
    path = keep_run(f"{tmp_path / 'run'}:ms", published["measures"], tmp_path / "kept")
    assert path.name == "voc_r101_512.ms.json"
    assert read_runs(tmp_path / "kept") == [Run("voc_r101_512", "ms", SUMMARY)]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("{run}:fast", "one of ss, ss_os8, ms, test, unstated, got 'fast'"),
        ("{run}/nowhere", r"no such file; give the folder"),
        ("{run}", "status 'running'"),
    ],
)
def test_what_cannot_be_kept_is_refused(tmp_path: Path, published, argument, message):
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY | {"status": "running"}))
    with pytest.raises(ConfigError, match=message):
        keep_run(argument.format(run=tmp_path), published["measures"], tmp_path / "kept")
