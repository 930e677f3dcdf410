"""Reports on many runs: tables, figures and one page, made from the files that the runs left behind."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emanet.common.errors import EMANetError

EXTRA = ("pandas", "matplotlib", "jinja2", "scipy", "markdown_it")


def make_report(cfg: Mapping[str, Any]) -> Path:
    """Write a report, see :func:`emanet.studies.report.build.write_report`; returns its Markdown page.

    Raises:
        EMANetError: where a package that only reports need is missing.
    """
    try:
        from emanet.studies.report.build import write_report
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        raise EMANetError(f"a report needs {error.name}: pip install 'emanet[report]'") from error
    return write_report(cfg)
