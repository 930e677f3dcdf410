"""What ``src/prepare.py`` does and shows: plans, progress bars, and what is there in the end."""

import logging
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from emanet.common.errors import ConfigError, DatasetError, EMANetError
from emanet.data.preparing.bars import Bars
from emanet.data.preparing.download import free_bytes
from emanet.data.preparing.prepare import Count, MissingArchiveError, Preparation, State, Step
from emanet.data.preparing.recipes import RECIPES

log = logging.getLogger(__name__)


def prepare(
    dataset: str,
    *,
    data_dir: str | Path,
    root: str | Path | None = None,
    source: str | None = None,
    parts: list[str] | None = None,
    dry_run: bool = False,
    strict_counts: bool = True,
    keep_archives: bool = False,
    console: Console | None = None,
) -> None:
    """Prepare one benchmark, or all, and say what is there.

    Arguments: those of :class:`Preparation`, and
        data_dir: parent of the default roots; those alone count with ``all``.
        dry_run: only say what would be done.
        console: where to write.

    Raises:
        DatasetError: if a benchmark could not be prepared; with ``all``, once the others are done, and not for one
            behind a login where no ``source`` was named.
    """
    console = console or Console()
    if dataset == "all" and (parts is not None or root is not None):
        raise ConfigError("parts=[...] and dataset.root=... go with one benchmark; with all: paths.data_dir=DIR.")
    names = list(RECIPES) if dataset == "all" else [dataset]
    failures: list[str] = []
    by_hand: list[str] = []
    for name in names:
        folder = Path(data_dir) / name if root is None else Path(root)
        preparation = Preparation(
            name,
            folder,
            source=source,
            parts=parts,
            strict_counts=strict_counts,
            keep_archives=keep_archives,
            show=Bars(console),
        )
        try:
            if dry_run:
                console.print(plan_lines(preparation, preparation.plan()), soft_wrap=True, highlight=False)
            else:
                console.print(count_lines(preparation, preparation.run()), soft_wrap=True, highlight=False)
        except KeyboardInterrupt as stop:
            raise DatasetError(f"{name}: interrupted; the same command goes on where it stopped.") from stop
        except EMANetError as error:
            if dataset != "all":
                raise
            log.warning("%s", error)
            only_by_hand = source is None and isinstance(error, MissingArchiveError)
            (by_hand if only_by_hand else failures).append(name)
    if by_hand:
        log.warning("not prepared, since no program can fetch it: %s; see above.", ", ".join(by_hand))
    if failures:
        raise DatasetError(f"not prepared: {', '.join(failures)}; see above. The same command goes on with them.")


def plan_lines(preparation: Preparation, steps: Sequence[Step]) -> str:
    """Say what would be done, what disk it needs, and what is free."""
    lines = [f"{preparation.name} -> {preparation.root}"]
    for step in steps:
        lines.append(f"  {step.archive.key:<9}{step.archive.file:<34}{readable(step.size):>9}   {step.state.value}")
        lines.append(f"           {step.origin}")
    needed, free = sum(step.needed for step in steps), free_bytes(preparation.root)
    unknown = [step.archive.file for step in steps if step.size is None and step.state in (State.FETCH, State.MISSING)]
    more = f" and what {', '.join(unknown)} take, of unknown size" if unknown else ""
    verdict = "" if needed <= free else ": NOT ENOUGH"
    return "\n".join([*lines, f"  disk: about {readable(needed)}{more}; {readable(free)} are free{verdict}", ""])


def count_lines(preparation: Preparation, counts: Sequence[Count]) -> str:
    """Say what is there."""
    lines = [f"{preparation.name} is ready in {preparation.root}"]
    for count in counts:
        published = "as published" if count.right else f"{count.expected} published"
        lines.append(f"  {count.name:<16}{count.found:>7} images, {published}")
    return "\n".join([*lines, ""])


def readable(size: int | None) -> str:
    """Write a number of bytes for people."""
    if size is None:
        return "?"
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
