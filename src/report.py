"""Report on runs: tables, figures, a Markdown page, and an HTML page that can be passed on.

python src/report.py runs=runs/quickstart_short                  every study, sweep and run below a folder
python src/report.py runs=[runs/a,runs/b] output=report title='Ablations on VOC'
python src/report.py wandb=me/emanet output=report               runs of a W&B project
python src/report.py runs=docs/ablations/runs.jsonl output=docs/ablations page=docs/ablations.md notes=notes.md
                                                                 the same report again, from the runs that it kept
"""

from typing import Any

import hydra

from emanet.cli.arguments import prepare
from emanet.cli.entry import entry_point, start
from emanet.config.schema import CONF_DIR


@hydra.main(version_base="1.3", config_path=CONF_DIR, config_name="report")
@entry_point
def main(cfg: dict[str, Any]) -> None:
    """Write one report."""
    from emanet.studies.report.build import write_report

    write_report(cfg)


if __name__ == "__main__":
    start(main, prepare)
