"""Dashboards as code: a W&B workspace for each study of conf/sweep/."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
import yaml
from omegaconf import OmegaConf
from wandb_workspaces import expr

from emanet.common.errors import ConfigError, EMANetError
from emanet.common.files import write_json
from emanet.config.schema import CONF_DIR
from emanet.inference.bases import SCALARS
from emanet.training.loggers.wandb import has_credentials

SCORES = ("val/miou", "val/pixel_accuracy", "val/mean_accuracy", "train/loss")
MEDIA = ("val/predictions", "bases/attention", "bases/cosines")
TABLE = "val/iou_table"
STEP = "trainer/global_step"
SPREAD: Any = {"groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"}


class Study(NamedTuple):
    """What a dashboard needs to know of a study."""

    name: str
    swept: list[str]  #: all keys
    numeric: list[str]  #: those whose values are numbers

    @property
    def axes(self) -> list[str]:
        """Keys that settings differ in: runs that differ in the seed alone are averaged, unless that is the study."""
        return [key for key in self.swept if key != "seed"] or self.swept


def publish(cfg: Mapping[str, Any]) -> str:
    """Build the dashboard of a study: save it in W&B, or write it to a file; return the URL or the path.

    Raises:
        EMANetError: for an unknown study, or if W&B does not take the dashboard.
    """
    study, project, entity = read_study(cfg["study"]), cfg["project"], cfg["entity"]
    offline = os.environ.get("WANDB_MODE") in ("offline", "dryrun", "disabled") or not has_credentials()
    if cfg["output"] is not None or offline:
        path = Path(cfg["output"] or f"{cfg['paths']['runs_dir']}/dashboards/{study.name}.json").expanduser()
        write_json(path, specification(build_workspace(study, entity=entity or "", project=project)))
        return str(path)
    try:
        entity = entity or wandb.Api().default_entity
        if entity:
            return str(build_workspace(study, entity=entity, project=project).save().url)
    except Exception as error:  # of many kinds, from the client and from the server
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise EMANetError(
            f"W&B did not take the dashboard of {study.name} ({reason}): check the API key, project={project} "
            f"and entity={entity}; output=FILE writes it to a file"
        ) from error
    raise ConfigError("this API key has no default entity: say which, entity=NAME")


def read_study(name: str | None, folder: Path = Path(CONF_DIR) / "sweep") -> Study:
    """A study by the name of its file.

    Raises:
        ConfigError: if there is none of that name.
    """
    files: dict[str, Any] = {
        path.stem: OmegaConf.to_container(OmegaConf.load(path), resolve=False) for path in sorted(folder.glob("*.yaml"))
    }
    known = [stem for stem, cfg in files.items() if "study" in cfg]
    if name not in known:
        raise ConfigError(f"study must be one of {', '.join(known)}, got {name}")
    cfg = files[name]
    swept, given = cfg["swept"], cfg.get("hydra", {}).get("sweeper", {}).get("params", {})
    values = {key: yaml.safe_load(f"[{text}]") for key, text in given.items()}
    numeric = [key for key in swept if all(type(value) in (int, float) for value in values.get(key, [None]))]
    return Study(cfg["study"], swept, numeric)


def build_workspace(study: Study, *, entity: str, project: str) -> ws.Workspace:
    """The workspace: runs of the study alone, grouped by setting, and five sections of panels."""
    every_class = curve(study, "val/miou", "IoU of each class")
    every_class.y, every_class.metric_regex = [], "val/iou/.*"
    sections = {
        "Result": result_panels(study),
        "Learning curves": [curve(study, name, name) for name in SCORES],
        "Bases": [curve(study, f"bases/{name}", text) for name, text in SCALARS.items()],
        "Pictures": [wr.MediaBrowser(title=key, media_keys=[key], num_columns=2, gallery_axis="step") for key in MEDIA],
        "Classes": [wr.WeavePanelSummaryTable(table_name=TABLE), every_class],
    }
    two = ws.SectionLayoutSettings(columns=2)
    # as W&B stores a key: "value" comes below each key of the root
    pinned = [f"config:{root}.value{dot}{rest}" for root, dot, rest in (key.partition(".") for key in study.swept)]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"Ablation {study.name}",
        sections=[ws.Section(name=name, panels=of, is_open=True, layout_settings=two) for name, of in sections.items()],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=100),
        runset_settings=ws.RunsetSettings(
            filters=expr.And(expr.Tags().isin([study.name])),
            groupby=[expr.Config(key) for key in study.axes],
            order=[expr.Ordering(expr.Summary("val/miou"), ascending=False)],
            pinned_columns=["summary:val/miou", *pinned],
        ),
    )


def result_panels(study: Study) -> list[Any]:
    """The mIoU over each swept key: mean and spread over the rest, every run as a point where there are numbers."""
    panels: list[Any] = []
    for key in study.axes:
        name, over = key.rpartition(".")[2], wr.Config(key)
        title = f"mIoU by {name}: mean, standard deviation"
        panels.append(wr.BarPlot(title=title, metrics=["val/miou"], groupby=over, **SPREAD))
        if key in study.numeric:
            panels.append(wr.ScatterPlot(title=f"mIoU over {name}", x=over, y=wr.SummaryMetric("val/miou")))
    metrics: list[Any] = [*map(wr.Config, study.swept), wr.SummaryMetric("val/miou")]
    columns = [wr.ParallelCoordinatesPlotColumn(metric) for metric in metrics]
    return [*panels, wr.ParallelCoordinatesPlot(title="all runs", columns=columns)]


def curve(study: Study, metric: str, title: str) -> wr.LinePlot:
    """A metric over the optimizer steps; one line for each setting, with the spread over seeds."""
    single = wr.Config(study.axes[0]) if len(study.axes) == 1 else None  # of several, the grouping of the runs holds
    return wr.LinePlot(title=title, x=STEP, y=[metric], groupby=single, **SPREAD)


def specification(workspace: ws.Workspace) -> dict[str, Any]:
    """The workspace as W&B stores it, without the identifiers that are drawn anew each time."""
    model = workspace._to_model()  # W&B offers no other way to see it: the version is bounded in pyproject.toml
    text = model.model_dump_json(by_alias=True, exclude_none=True)
    return json.loads(text, object_hook=lambda node: {key: value for key, value in node.items() if key != "__id__"})
