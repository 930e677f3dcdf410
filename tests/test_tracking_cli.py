"""A study through the real script, tracked offline: what W&B holds of it, and that its dashboard shows nothing else."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from composing import files
from emanet.inference.bases import SCALARS
from emanet.studies.dashboard import MEDIA, SCORES, TABLE, build_workspace, read_study, specification
from fake_data import write_voc
from wandb_reader import OfflineRun, find_run, read_run
from zygote import TINY


@pytest.fixture(scope="module")
def study(zygote, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folders of the runs of K=3 and K=5, two steps each with a validation after each."""
    base = tmp_path_factory.mktemp("tracked")
    write_voc(base / "data", n_train=6)
    zygote.run(
        "sweep=K",
        *(item for item in TINY if not item.startswith("model.K")),
        "model.K=3,5",
        "seed=0",
        f"dataset.root={base / 'data'}",
        "trainer.max_steps=2",
        "trainer.val_every_n_steps=1",
        "logger=wandb",
        "logger.wandb.mode=offline",
        "callbacks=[default,throughput]",
        "tags=[tiny]",
        f"hydra.sweep.dir={base / 'sweep'}",
        cwd=base,
    )
    return {k: base / "sweep" / f"K={k}_seed=0" for k in (3, 5)}


@pytest.fixture(scope="module")
def runs(study: dict[int, Path]) -> dict[int, OfflineRun]:
    """What W&B holds of them."""
    return {k: read_run(find_run(folder)) for k, folder in study.items()}


def test_runs_are_named_by_their_values_grouped_and_tagged_by_their_study_and_hold_their_configuration(runs):
    for k, run in runs.items():
        assert (run.name, run.group) == (f"K={k} seed=0", "voc/K")
        assert (run.job_type, run.tags, run.exit_code) == ("train", ["tiny", "K"], 0)
        assert (run.config["model"]["K"], run.config["study"], run.config["swept"]) == (k, "K", ["model.K", "seed"])
        assert run.config["dataset"]["root"].endswith("data"), "resolved"


def test_wandb_and_metrics_csv_hold_the_same_scalars_and_wandb_the_media(study, runs):
    run = runs[5]
    rows = list(csv.DictReader((study[5] / "metrics.csv").read_text().splitlines()))
    scalars = [*SCORES, "train/lr", "train/wait", *(f"bases/{name}" for name in SCALARS)]
    for key in scalars:
        assert run.series(key) == pytest.approx([float(row[key]) for row in rows if row[key]]), key
        assert run.series(key)
    place = study[5] / "wandb" / "latest-run" / "files"
    for key, count in (("val/predictions", 5), ("bases/attention", 3), ("bases/cosines", 1)):
        shown = run.series(f"{key}/filenames")
        assert len(shown) == 2, "one at each step of the slider"
        assert all(len(names) <= count and (place / name).is_file() for names in shown for name in names)
    assert {*run.series("val/predictions/all_masks")[0][0]} == {"prediction", "ground_truth"}
    assert len(list((place / "media" / "table" / "val").glob("iou_table*.json"))) == 1


# --- the dashboard ----------------------------------------------------------------------------------------------------


def logged(run: OfflineRun) -> set[str]:
    """The keys that W&B shows for a run: of a picture or table, the one that it was logged under."""
    keys = {key for row in run.history for key in row} | run.summary.keys()
    parts = r"/(filenames|all_masks|captions|_type|path|sha256|size|ncols|nrows|width|height|format|count|_latest_.*)$"
    return {re.sub(parts, "", key) for key in keys}


def has_config(run: OfflineRun, path: str) -> bool:
    """Whether a run's configuration has a key such as ``model.value.K``."""
    wrapped = OmegaConf.create({key: {"value": value} for key, value in run.config.items()})
    return OmegaConf.select(wrapped, path, default="missing") != "missing"


def panels(spec: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The panels of each section: their kind and configuration."""
    sections = spec["spec"]["section"]["panelBankConfig"]["sections"]
    return {section["name"]: [panel | panel["config"] for panel in section["panels"]] for section in sections}


@pytest.mark.parametrize("name", files("sweep"))
def test_a_dashboard_shows_keys_that_training_logs_grouped_by_keys_of_the_configuration(runs, name):
    run, wanted = runs[3], read_study(name)
    keys = logged(run)
    spec = specification(build_workspace(wanted, entity="", project="p"))
    runset = spec["spec"]["section"]["runSets"][0]
    (chosen,) = runset["filters"]["filters"]
    assert (chosen["key"], chosen["op"], chosen["value"]) == ({"section": "run", "name": "tags"}, "IN", [name])
    grouping = [key["name"] for key in runset["grouping"]]
    assert [key.replace(".value", "") for key in grouping] == wanted.axes
    found = panels(spec)
    assert list(found) == ["Result", "Learning curves", "Bases", "Pictures", "Classes"]
    for panel in (panel for section in found.values() for panel in section):
        metrics = panel.get("metrics", [])
        assert {*metrics} <= keys, f"{panel['viewType']}: {metrics}"
        assert {*panel.get("mediaKeys", [])} <= keys
        assert panel.get("xAxis", "summary:val/miou").partition(":")[2] in {"", "val/miou"} or has_config(
            run, panel["xAxis"].removeprefix("config:")
        )
        if "groupBy" in panel:
            grouping.append(panel["groupBy"])
        grouping += [column["accessor"].removeprefix("config:") for column in panel.get("columns", [])]
    for path in grouping:
        assert path == "summary:val/miou" or has_config(run, path), path

    bars = [panel["groupBy"] for panel in found["Result"] if panel["viewType"] == "Bar Chart"]
    assert [key.replace(".value", "") for key in bars] == wanted.axes
    scatter = [panel["xAxis"] for panel in found["Result"] if panel["viewType"] == "Scatter Plot"]
    assert len(scatter) == sum(key in wanted.numeric for key in wanted.axes)
    assert [panel["metrics"] for panel in found["Learning curves"]] == [[key] for key in SCORES]
    assert [panel["metrics"] for panel in found["Bases"]] == [[f"bases/{key}"] for key in SCALARS]
    assert all(panel["xAxis"] in keys for panel in found["Learning curves"] + found["Bases"])
    assert [panel["mediaKeys"] for panel in found["Pictures"]] == [[key] for key in MEDIA]
    table, classes = found["Classes"]
    assert f'"{TABLE}"' in json.dumps(table)
    assert TABLE in keys
    assert any(re.fullmatch(classes["metricRegex"], key) for key in keys)


def test_the_script_writes_the_same_specification_each_time_where_there_is_no_key(zygote, tmp_path):
    for name in ("a", "b"):
        output = zygote.run("study=maintenance_norm", f"output={name}.json", cwd=tmp_path, script="dashboard.py")
        assert f"{name}.json" in output
    written = (tmp_path / "a.json").read_text()
    assert written == (tmp_path / "b.json").read_text()
    assert "__id__" not in written
    output = zygote.run("study=K", f"paths.runs_dir={tmp_path}", cwd=tmp_path, script="dashboard.py")
    assert str(tmp_path / "dashboards" / "K.json") in output
    assert json.loads((tmp_path / "dashboards" / "K.json").read_text())["displayName"] == "Ablation K"
