"""How all figures look, and how they are written: the same input gives the same bytes."""

import io
import itertools
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 6.6  # inches: the text width of a page

#: Okabe and Ito's colors, which people with any kind of color vision can tell apart
BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK, YELLOW = "#E69F00", "#56B4E9", "#000000", "#F0E442"
COLORS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK, YELLOW)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
INK, GREY, PALE = "#222222", "#777777", "#DDDDDD"

FORMATS = ("svg", "png", "pdf")
NO_TRACES: dict[str, dict[str, None]] = {  # metadata that would change from day to day
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": PALE,
    "grid.linewidth": 0.6,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "lines.markersize": 5.5,
    "errorbar.capsize": 2.5,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "savefig.facecolor": "white",
    "svg.fonttype": "path",  # the same letters on every machine
    "svg.hashsalt": "emanet",
}


OWN = ("backend", "interactive", "toolbar", "timezone")  # not of the looks


def styled() -> Any:
    """A context in which figures are drawn and written."""
    settings: dict[str, Any] = {key: value for key, value in mpl.rcParamsDefault.items() if key not in OWN}
    return mpl.rc_context(settings | STYLE)  # type: ignore[arg-type]


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure; height and width in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def to_bytes(figure: Figure, kind: str) -> bytes:
    """The figure as a file of this kind."""
    target = io.BytesIO()
    figure.savefig(target, format=kind, metadata=NO_TRACES[kind])
    return target.getvalue()


def looks(count: int) -> list[tuple[str, str]]:
    """Color and marker for each of ``count`` series; a pair that differs in both as long as there are any."""
    pairs = [
        (color, marker) for shift in range(8) for color, marker in zip(COLORS, rotated(MARKERS, shift), strict=True)
    ]
    return list(itertools.islice(itertools.cycle(pairs), count))


def rotated(items: Sequence[str], shift: int) -> list[str]:
    """The items, the first ``shift`` of them at the end."""
    return [*items[shift:], *items[:shift]]


def legend_above(figure: Figure, handles: Sequence[Artist], *, columns: int = 4) -> None:
    """A legend over the whole width, above the axes."""
    figure.legend(handles=list(handles), loc="outside upper left", ncols=columns, columnspacing=1.4, handletextpad=0.4)


def percent_axis(axes: Axes, label: str = "mIoU (%)") -> None:
    """Label an axis of scores."""
    axes.set_ylabel(label)
    axes.margins(y=0.12)
