"""How all figures look, and how they are written: the same input gives the same bytes."""

import io
import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager

from matplotlib import style
from matplotlib.artist import Artist
from matplotlib.figure import Figure

WIDTH = 6.6  # inches: the text width of a page

#: Okabe and Ito's colors, which people with any kind of color vision can tell apart
BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK, YELLOW = "#E69F00", "#56B4E9", "#000000", "#F0E442"
COLORS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK, YELLOW)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
INK, GREY, PALE = "#222222", "#777777", "#DDDDDD"

NO_TRACES: dict[str, dict[str, None]] = {  # metadata that would change from day to day
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def styled() -> AbstractContextManager[None]:
    """A context in which figures are drawn and written, as figures.mplstyle beside this file says."""
    return style.context(["default", "emanet.studies.report.figures"])


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure; height and width in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def to_bytes(figure: Figure, kind: str) -> bytes:
    """The figure as a file of this kind."""
    target = io.BytesIO()
    figure.savefig(target, format=kind, metadata=NO_TRACES[kind])
    return target.getvalue()


def looks(count: int) -> list[tuple[str, str]]:
    """Color and marker for each of ``count`` series, again from the start after the eighth."""
    return list(itertools.islice(itertools.cycle(zip(COLORS, MARKERS, strict=True)), count))


def legend_above(figure: Figure, handles: Sequence[Artist], *, columns: int = 4) -> None:
    """A legend over the whole width, above the axes."""
    figure.legend(handles=list(handles), loc="outside upper left", ncols=columns, columnspacing=1.4, handletextpad=0.4)
