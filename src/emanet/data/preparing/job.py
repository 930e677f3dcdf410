"""What ``src/prepare.py`` does and shows: plans, progress bars, and what is there in the end."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.filesize import decimal

from emanet.common.errors import ConfigError, DatasetError, EMANetError
from emanet.data.preparing.download import free_bytes
from emanet.data.preparing.prepare import Count, MissingArchiveError, Preparation, State
from emanet.data.preparing.recipes import RECIPES

log = logging.getLogger(__name__)


def prepare(
    dataset: str,
    *,
    data_dir: str | Path,
    root: str | Path | None = None,
    dry_run: bool = False,
    console: Console | None = None,
    **options: Any,
) -> None:
    """Prepare one benchmark, or all, and say what is there.

    Args:
        dataset: a benchmark, or all.
        data_dir: parent of the default roots; those alone count with ``all``.
        root: folder of the one benchmark, if not below ``data_dir``.
        dry_run: only say what would be done.
        console: where to write.
        options: the others of :class:`Preparation`.

    Raises:
        DatasetError: if a benchmark could not be prepared; with ``all``, once the others are done, and not for one
            behind a login where no ``source`` was named.
    """
    console = console or Console()
    if dataset == "all" and (options.get("parts") is not None or root is not None):
        raise ConfigError("parts=[...] and dataset.root=... go with one benchmark; with all: paths.data_dir=DIR.")
    failures, by_hand = list[str](), list[str]()
    for name in RECIPES if dataset == "all" else [dataset]:
        preparation = Preparation(name, Path(root or Path(data_dir) / name), console=console, **options)
        try:
            lines = plan_lines(preparation) if dry_run else count_lines(preparation, preparation.run())
            console.print("\n".join([*lines, ""]), soft_wrap=True, highlight=False, markup=False)
        except KeyboardInterrupt as stop:
            raise DatasetError(f"{name}: interrupted; the same command goes on where it stopped.") from stop
        except EMANetError as error:
            if dataset != "all":
                raise
            log.warning("%s", error)
            only_by_hand = preparation.source is None and isinstance(error, MissingArchiveError)
            (by_hand if only_by_hand else failures).append(name)
    if by_hand:
        log.warning("not prepared, since no program can fetch it: %s; see above.", ", ".join(by_hand))
    if failures:
        raise DatasetError(f"not prepared: {', '.join(failures)}; see above. The same command goes on with them.")


def plan_lines(preparation: Preparation) -> list[str]:
    """Say what would be done, what disk it needs, and what is free."""
    steps = preparation.plan()
    lines = [f"{preparation.name} -> {preparation.root}"]
    for archive, state, origin, size, _ in steps:
        shown = "?" if size is None else decimal(size)
        lines += [f"  {archive.key:<9}{archive.file:<34}{shown:>9}   {state.value}", f"           {origin}"]
    needed, free = sum(step.needed for step in steps), free_bytes(preparation.root)
    unknown = [step.archive.file for step in steps if step.size is None and step.state in (State.FETCH, State.MISSING)]
    more = f" and what {', '.join(unknown)} take, of unknown size" if unknown else ""
    verdict = "" if needed <= free else ": NOT ENOUGH"
    return [*lines, f"  disk: about {decimal(needed)}{more}; {decimal(free)} are free{verdict}"]


def count_lines(preparation: Preparation, counts: Sequence[Count]) -> list[str]:
    """Say what is there."""
    lines = [f"{preparation.name} is ready in {preparation.root}"]
    for name, found, expected in counts:
        published = "as published" if found == expected else f"{expected} published"
        lines.append(f"  {name:<16}{found:>7} images, {published}")
    return lines
