"""Dashboards: which study, where they go, and what is said when W&B does not take one."""

import json
from pathlib import Path
from typing import Any

import pytest
import wandb
from omegaconf import OmegaConf
from wandb_workspaces.workspaces import interface, internal

from emanet.common.errors import ConfigError, EMANetError
from emanet.studies.dashboard import build_workspace, publish, read_study, specification


@pytest.fixture(autouse=True)
def account(monkeypatch: pytest.MonkeyPatch) -> None:
    """An API key whose server is out of reach."""
    values = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40, "WANDB_MODE": "online"}
    for name, value in values.items():
        monkeypatch.setenv(name, value)


def config(tmp_path: Path, **values) -> dict[str, Any]:
    base = {"study": "K", "project": "p", "entity": "team", "output": None, "paths": {"runs_dir": str(tmp_path)}}
    return base | values


def write_sweep(folder: Path, name: str, **values) -> None:
    OmegaConf.save(OmegaConf.create(values), folder / f"{name}.yaml")


def test_a_study_knows_its_axes_and_which_of_them_are_numbers(tmp_path: Path):
    params = {"model.T": "1,2", "model.norm": "l2,none", "model.T_eval": "1,null", "seed": "0,1"}
    swept = ["model.T", "model.norm", "model.T_eval", "seed"]
    write_sweep(tmp_path, "x", study="y", swept=swept, hydra={"sweeper": {"params": params}})
    study = read_study("x", tmp_path)
    assert study == ("y", swept, ["model.T", "seed"])
    assert study.axes == ["model.T", "model.norm", "model.T_eval"]
    write_sweep(
        tmp_path, "seeds", study="${oc.env:HOME}", swept=["seed"], hydra={"sweeper": {"params": {"seed": "0,1"}}}
    )
    assert read_study("seeds", tmp_path).axes == ["seed"]
    assert read_study("seeds", tmp_path).name == "${oc.env:HOME}", "nothing is resolved"


def test_a_sweep_that_is_no_study_is_not_offered(tmp_path: Path):
    write_sweep(tmp_path, "a", study="a", swept=["seed"])
    write_sweep(tmp_path, "other", seed=1)
    with pytest.raises(ConfigError, match="study must be one of a, got other"):
        read_study("other", tmp_path)


def test_lines_of_a_study_with_two_axes_are_grouped_as_the_runs_are():
    spec = specification(build_workspace(read_study("maintenance_norm"), entity="", project="p"))
    section = spec["spec"]["section"]
    assert [key["name"] for key in section["runSets"][0]["grouping"]] == ["model.value.maintenance", "model.value.norm"]
    curves = section["panelBankConfig"]["sections"][1]
    assert curves["localPanelSettings"]["useRunsTableGroupingInPanels"]
    assert all("groupBy" not in panel["config"] for panel in curves["panels"])


def test_online_the_dashboard_goes_to_wandb_under_the_default_entity_and_its_address_is_returned(tmp_path, monkeypatch):
    saved = []

    def upsert(view):
        saved.append(view)
        return {"upsertView": {"view": {"name": "nw-abc-v", "id": "1"}}}

    monkeypatch.setattr(wandb, "Api", lambda: type("Api", (), {"default_entity": "me"})())
    monkeypatch.setattr(internal, "upsert_view2", upsert)
    monkeypatch.setattr(interface, "get_app_url", lambda api: "https://wandb.example")
    assert publish(config(tmp_path, entity=None)).startswith("https://wandb.example/me/p?nw=abc")
    (view,) = saved
    assert (view.entity, view.project, view.display_name) == ("me", "p", "Ablation K")


def test_an_output_file_keeps_everything_here(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(internal, "upsert_view2", None)
    path = tmp_path / "new" / "K.json"
    assert publish(config(tmp_path, output=str(path))) == str(path)
    assert json.loads(path.read_text())["entity"] == "team"


def test_a_failure_at_wandb_says_what_to_check(tmp_path: Path, monkeypatch):
    def refused(*args, **kwargs):
        raise wandb.errors.CommError("entity team not found\nmore")

    monkeypatch.setattr(internal, "upsert_view2", refused)
    with pytest.raises(EMANetError) as caught:
        publish(config(tmp_path))
    start = "W&B did not take the dashboard of K (CommError: entity team not found): check the API key"
    assert str(caught.value).startswith(start)
    assert "project=p and entity=team; output=FILE" in str(caught.value)


def test_a_key_without_a_default_entity_must_name_one(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(wandb, "Api", lambda: type("Api", (), {"default_entity": None})())
    with pytest.raises(ConfigError, match="no default entity: say which, entity=NAME"):
        publish(config(tmp_path, entity=None))
