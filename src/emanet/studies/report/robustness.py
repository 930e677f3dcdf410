"""Tables and figures of ``robustness.json``: what networks lose under corrupted input."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from emanet.common.errors import ConfigError
from emanet.common.files import read_json
from emanet.studies.report.checks import commit_text, hardware_text, versions_text
from emanet.studies.report.figures import Drawing
from emanet.studies.report.page import Picture, Section, figure_block
from emanet.studies.report.runs import Run
from emanet.studies.report.spread import Spread
from emanet.studies.report.style import GREY, looks, new_figure
from emanet.studies.report.tables import MINUS, PLUS_MINUS, markdown, spread_text, to_csv
from emanet.studies.study import natural

TITLE = "Robustness to the input"
READING = (
    "Each image is corrupted in its 8 bits before it is normalized, in the same way for every network. "
    f"mIoU in %: mean {PLUS_MINUS} standard deviation over the seeds (n {MINUS} 1); in brackets what is left "
    "of each network's own mIoU on clean images, averaged over the seeds."
)


@dataclass(frozen=True)
class Results:
    """The content of a ``robustness.json``."""

    content: dict[str, Any]

    @property
    def networks(self) -> list[dict[str, Any]]:
        """The networks with their scores."""
        return self.content["networks"]

    @cached_property
    def kinds(self) -> dict[str, dict[str, Any]]:
        """Kinds of corruption with unit and neutral strength."""
        return self.content["corruptions"]

    @cached_property
    def labels(self) -> list[str]:
        """What the networks are told apart by."""
        return sorted({str(network["label"]) for network in self.networks}, key=natural)

    def strengths(self, kind: str) -> list[float]:
        """From little to much: with the clean images first, or in their place among the strengths around them."""
        neutral = self.kinds[kind]["neutral"]
        found = {score["strength"] for net in self.networks for score in net["scores"] if score["corruption"] == kind}
        both_sides = min(found, default=neutral) < neutral < max(found, default=neutral)
        return sorted({*found, neutral}, key=lambda value: value if both_sides else abs(value - neutral))

    def scores(self, label: str, kind: str, strength: float) -> list[tuple[float, float]]:
        """mIoU under a corruption and clean, of each network of this label, in the order of the seeds."""
        pairs = []
        members = [network for network in self.networks if str(network["label"]) == label]
        for network in sorted(members, key=lambda member: natural(str(member["seed"]))):
            by_corruption = {(s["corruption"], s.get("strength")): s["val/miou"] for s in network["scores"]}
            clean = by_corruption[None, None]
            got = clean if strength == self.kinds[kind]["neutral"] else by_corruption.get((kind, strength))
            if clean is not None and got is not None:
                pairs.append((got, clean))
        return pairs

    def miou(self, label: str, kind: str, strength: float) -> Spread:
        """mIoU over the seeds."""
        return Spread(tuple(got for got, _ in self.scores(label, kind, strength)))

    def kept(self, label: str, kind: str, strength: float) -> Spread:
        """Share of each network's own clean mIoU, over the seeds."""
        return Spread(tuple(got / clean for got, clean in self.scores(label, kind, strength) if clean > 0))


def read_results(path: Path) -> Results:
    """Read a ``robustness.json``.

    Raises:
        ConfigError: if it is none, or holds no network.
    """
    content = read_json(path)
    if content is None or not content.get("networks") or "corruptions" not in content:
        raise ConfigError(f"robustness={path}: no results of src/robustness.py")
    return Results(content)


def shown_strength(results: Results, kind: str, strength: float) -> str:
    """A strength; the neutral one as "clean"."""
    return "clean" if strength == results.kinds[kind]["neutral"] else f"{strength:g}"


def robustness_rows(results: Results, kind: str) -> list[list[str]]:
    """mIoU in percent, and its share of the clean one: a header, and a row per label."""
    strengths = results.strengths(kind)
    rows = [["", *(shown_strength(results, kind, strength) for strength in strengths)]]
    for label in results.labels:
        rows.append([label, *(score_text(results, label, kind, strength) for strength in strengths)])
    return rows


def score_text(results: Results, label: str, kind: str, strength: float) -> str:
    """Mean and standard deviation, and what is left of the clean mIoU."""
    text, left = spread_text(results.miou(label, kind, strength)), results.kept(label, kind, strength).mean
    if left is None or strength == results.kinds[kind]["neutral"]:
        return text
    return f"{text} ({100 * left:.0f} %)"


def robustness_csv(results: Results) -> str:
    """A row per network and corruption."""
    return to_csv(
        [
            {key: network[key] for key in ("label", "name", "seed", "dataset", "split")}
            | {"corruption": score["corruption"] or "none", "strength": score.get("strength")}
            | {key: score[key] for key in ("val/miou", "val/pixel_accuracy", "val/mean_accuracy")}
            for network in results.networks
            for score in network["scores"]
        ]
    )


def robustness_section(results: Results, pictures: Sequence[Picture], table_link: str) -> Section:
    """The part of the page."""
    content, run = results.content, Run(name="", summary=results.content)
    data = sorted({f"{n['dataset']} {n['split']}, {n['images']} images" for n in results.networks})
    counts = ", ".join(
        f"{label} {len(results.scores(label, kind, neutral))}" for label, kind, neutral in clean(results)
    )
    facts = {
        "Networks": f"{len(results.networks)}: {counts}",
        "Data": "; ".join(data),
        "Seed of the noise": str(content["seed"]),
        "Hardware": hardware_text(run),
        "Software": versions_text(run),
        "Commit": commit_text(run),
    }
    blocks = ["\n".join(f"- **{name}:** {text}" for name, text in facts.items() if text)]
    blocks += [f"```\n{content['command']}\n```"] if content.get("command") else []
    if cautions := robustness_warnings(results):
        blocks += ["\n".join(["> **Warning**", *(f"> - {text}" for text in cautions)])]
    blocks += [f"{READING} [CSV]({table_link})"]
    blocks += [figure_block(picture) for picture in pictures]
    for kind in results.kinds:
        header, *rows = robustness_rows(results, kind)
        blocks += [f"**{kind}** ({results.kinds[kind]['unit']}):", markdown(header, rows)]
    return Section(TITLE, (TITLE, "robustness"), tuple(blocks))


def clean(results: Results) -> list[tuple[str, str, float]]:
    """Arguments of the clean scores, one set per label."""
    kind = next(iter(results.kinds))
    return [(label, kind, results.kinds[kind]["neutral"]) for label in results.labels]


def robustness_warnings(results: Results) -> list[str]:
    """What a reader must know before comparing."""
    found = []
    if results.content.get("status") != "finished":
        found.append("The evaluation was stopped before its end: some checkpoints are missing.")
    if len({(n["dataset"], n["split"], n["images"]) for n in results.networks}) > 1:
        found.append("Not all networks were evaluated on the same images.")
    seeds = {label: {n["seed"] for n in results.networks if str(n["label"]) == label} for label in results.labels}
    if len({frozenset(each) for each in seeds.values()}) > 1:
        found.append(
            "Means are not over the same seeds: " + "; ".join(f"{k}: {sorted(map(str, v))}" for k, v in seeds.items())
        )
    return found


# --- the figure -----------------------------------------------------------------------------------------------------


def robustness_drawings(results: Results) -> list[Drawing]:
    """mIoU, and its share of the clean one, over the strength of each corruption."""
    caption = (
        "Above: mIoU under corrupted input. Below: as a share of each network's own mIoU on clean images. "
        "Error bars: one standard deviation over the seeds (n - 1)."
    )
    return [Drawing("robustness", caption, draw(results))]


def draw(results: Results) -> Figure:
    """A column of two panels for each kind, a line for each label."""
    kinds = list(results.kinds)
    figure = new_figure(4.4, width=max(3.2, 1.0 + 1.75 * len(kinds)))
    panels = figure.subplots(2, len(kinds), sharey="row", squeeze=False)
    styles = looks(len(results.labels))
    for column, kind in enumerate(kinds):
        strengths = results.strengths(kind)
        for label, (color, marker) in zip(results.labels, styles, strict=True):
            look = {"color": color, "marker": marker, "markersize": 4.0, "elinewidth": 0.9, "linewidth": 1.2}
            draw_line(panels[0, column], [results.miou(label, kind, strength) for strength in strengths], look)
            draw_line(panels[1, column], [results.kept(label, kind, strength) for strength in strengths], look)
        ticks = [shown_strength(results, kind, strength) for strength in strengths]
        panels[0, column].set_xticks(range(len(ticks)), [""] * len(ticks))
        panels[1, column].set_xticks(range(len(ticks)), ticks, fontsize=7.5)
        panels[1, column].axhline(100, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        panels[0, column].set_title(kind)
        panels[1, column].set_xlabel(results.kinds[kind]["unit"].replace(" in ", "\nin "))
    panels[0, 0].set_ylabel("mIoU (%)")
    panels[1, 0].set_ylabel("share of clean mIoU (%)")
    for row in (0, 1):
        panels[row, 0].set_ylim(bottom=0)
    handles = [
        Line2D([], [], color=color, marker=marker, markersize=4, label=label)
        for label, (color, marker) in zip(results.labels, styles, strict=True)
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=min(len(handles), 5))
    return figure


def draw_line(axes: Axes, spreads: Sequence[Spread], look: dict[str, Any]) -> None:
    """Means joined by a line, in percent."""
    known = [(place, spread) for place, spread in enumerate(spreads) if spread.mean is not None]
    means = [100 * (spread.mean or 0.0) for _, spread in known]
    deviations = [100 * (spread.sd or 0.0) for _, spread in known]
    axes.errorbar([place for place, _ in known], means, deviations, capsize=2, **look)
