"""Dashboards as code: a W&B workspace for each study of conf/sweep/."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from emanet.common.errors import ConfigError, EMANetError
from emanet.common.packages import find_package_file
from emanet.config.schema import CONF_DIR
from emanet.inference.bases import SCALARS
from emanet.training.loggers.wandb import has_credentials

SCORES = ("val/miou", "val/pixel_accuracy", "val/mean_accuracy", "train/loss")
MEDIA = ("val/predictions", "bases/attention", "bases/cosines")
TABLE = "val/iou_table"
STEP = "trainer/global_step"


class DashboardError(EMANetError):
    """A dashboard that W&B did not take."""


class Study(NamedTuple):
    """What a dashboard needs to know of a study."""

    name: str
    swept: list[str]  #: all keys
    numeric: list[str]  #: those whose values are numbers

    @property
    def axes(self) -> list[str]:
        """Keys that settings differ in: runs that differ in the seed alone are averaged, unless that is the study."""
        return [key for key in self.swept if key != "seed"] or self.swept


def publish(cfg: DictConfig) -> str:
    """Build the dashboard of ``cfg.study``: save it in W&B, or write it to a file; return the URL or the path.

    Raises:
        ConfigError: for an unknown study, or without the package for dashboards.
        DashboardError: if W&B does not take it.
    """
    study = read_study(cfg.study)
    if find_package_file("wandb_workspaces", "__init__.py") is None:
        raise ConfigError("dashboards need the package wandb-workspaces:  pip install -e '.[dashboard]'")
    offline = os.environ.get("WANDB_MODE") in ("offline", "dryrun", "disabled") or not has_credentials()
    if cfg.output is not None or offline:
        path = Path(cfg.output or Path(cfg.paths.runs_dir) / "dashboards" / f"{study.name}.json").expanduser()
        path.parent.mkdir(parents=True, exist_ok=True)
        workspace = build_workspace(study, entity=cfg.entity or "", project=cfg.project)
        path.write_text(json.dumps(specification(workspace), indent=2) + "\n", encoding="utf-8")
        return str(path)
    try:
        return save(study, entity=cfg.entity, project=cfg.project)
    except EMANetError:
        raise
    except Exception as error:  # of many kinds, from the client and from the server
        reason = str(error).splitlines()[0] if str(error) else ""
        raise DashboardError(
            f"W&B did not take the dashboard of {study.name} ({type(error).__name__}: {reason}): check the API key, "
            f"project={cfg.project} and entity={cfg.entity}; output=FILE writes it to a file"
        ) from error


def read_study(name: str | None, folder: Path = Path(CONF_DIR) / "sweep") -> Study:
    """A study by the name of its file.

    Raises:
        ConfigError: if there is none of that name.
    """
    files: dict[str, Any] = {path.stem: OmegaConf.load(path) for path in sorted(folder.glob("*.yaml"))}
    known = [stem for stem, cfg in files.items() if "study" in cfg]
    if name not in known:
        raise ConfigError(f"study must be one of {', '.join(known)}, got {name}")
    cfg = files[name]
    params = OmegaConf.select(cfg, "hydra.sweeper.params") or {}
    swept = [str(key) for key in cfg.swept]
    return Study(cfg.study, swept, [key for key in swept if all(map(is_number, str(params.get(key)).split(",")))])


def is_number(text: str) -> bool:
    """Whether a value of the command line is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


# --- the workspace ----------------------------------------------------------------------------------------------------


def build_workspace(study: Study, *, entity: str, project: str) -> Any:
    """The workspace: runs of the study alone, grouped by setting, and five sections of panels."""
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr

    sections = {
        "Result": result_panels(study),
        "Learning curves": [curve(study, name, name) for name in SCORES],
        "Bases": [curve(study, f"bases/{name}", text) for name, text in SCALARS.items()],
        "Pictures": picture_panels(),
        "Classes": class_panels(study),
    }
    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"Ablation {study.name}",
        sections=[
            ws.Section(name=name, panels=panels, is_open=True, layout_settings=ws.SectionLayoutSettings(columns=2))
            for name, panels in sections.items()
        ],
        settings=ws.WorkspaceSettings(x_axis=STEP, max_runs=100),
        runset_settings=ws.RunsetSettings(
            filters=expr.And(expr.Tags().isin([study.name])),
            groupby=[expr.Config(key) for key in study.axes],
            order=[expr.Ordering(expr.Summary("val/miou"), ascending=False)],
            pinned_columns=["summary:val/miou", *(f"config:{config_path(key)}" for key in study.swept)],
        ),
    )


def config_path(key: str) -> str:
    """A key as W&B stores it: ``value`` comes below each key of the root."""
    root, *rest = key.split(".")
    return ".".join([root, "value", *rest])


def result_panels(study: Study) -> list[Any]:
    """The mIoU over each swept key: mean and spread over the rest, every run as a point where there are numbers."""
    import wandb_workspaces.reports.v2 as wr

    panels: list[Any] = []
    for key in study.axes:
        name = key.rpartition(".")[2]
        panels.append(
            wr.BarPlot(
                title=f"mIoU by {name}: mean, standard deviation",
                metrics=["val/miou"],
                groupby=wr.Config(key),
                groupby_aggfunc="mean",
                groupby_rangefunc="stddev",
            )
        )
        if key in study.numeric:
            panels.append(wr.ScatterPlot(title=f"mIoU over {name}", x=wr.Config(key), y=wr.SummaryMetric("val/miou")))
    columns = [wr.ParallelCoordinatesPlotColumn(wr.Config(key)) for key in study.swept]
    columns.append(wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric("val/miou")))
    return [*panels, wr.ParallelCoordinatesPlot(title="all runs", columns=columns)]


def curve(study: Study, metric: str, title: str) -> Any:
    """A metric over the optimizer steps; one line for each setting, with the spread over seeds."""
    import wandb_workspaces.reports.v2 as wr

    single = study.axes[0] if len(study.axes) == 1 else None  # of several, the grouping of the runs holds
    return wr.LinePlot(
        title=title,
        x=STEP,
        y=[metric],
        groupby=None if single is None else wr.Config(single),
        groupby_aggfunc="mean",
        groupby_rangefunc="stddev",
    )


def picture_panels() -> list[Any]:
    """Predictions and bases, with a slider over the steps."""
    import wandb_workspaces.reports.v2 as wr

    return [wr.MediaBrowser(title=key, media_keys=[key], num_columns=2, gallery_axis="step") for key in MEDIA]


def class_panels(study: Study) -> list[Any]:
    """The table of the last validation, and the IoU of every class over the steps."""
    import wandb_workspaces.reports.v2 as wr

    every_class = curve(study, "val/miou", "IoU of each class")
    every_class.y, every_class.metric_regex = [], "val/iou/.*"
    return [wr.WeavePanelSummaryTable(table_name=TABLE), every_class]


# --- out --------------------------------------------------------------------------------------------------------------


def specification(workspace: Any) -> dict[str, Any]:
    """The workspace as W&B stores it, without the identifiers that are drawn anew each time."""
    model = workspace._to_model()  # W&B offers no other way to see it: the version is bounded in pyproject.toml
    return without_ids(json.loads(model.model_dump_json(by_alias=True, exclude_none=True)))


def without_ids(node: Any) -> Any:
    """A JSON tree without its ``__id__``."""
    if isinstance(node, dict):
        return {key: without_ids(value) for key, value in node.items() if key != "__id__"}
    return [without_ids(item) for item in node] if isinstance(node, list) else node


def save(study: Study, *, entity: str | None, project: str) -> str:
    """Save the workspace in W&B; returns its URL."""
    import wandb

    entity = entity or wandb.Api().default_entity
    if not entity:
        raise ConfigError("this API key has no default entity: say which, entity=NAME")
    return str(build_workspace(study, entity=entity, project=project).save().url)
