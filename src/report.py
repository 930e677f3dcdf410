"""Report on runs: tables, figures, a Markdown page, and an HTML page that can be passed on.

python src/report.py runs=runs/quickstart_short                  every study, sweep and run below a folder
python src/report.py runs=[runs/a,runs/b] output=report title='Ablations on VOC'
python src/report.py wandb=me/emanet output=report               runs of a W&B project
python src/report.py runs=docs/ablations/runs.jsonl output=docs/ablations page=docs/ablations.md notes=notes.md
                                                                 the same report again, from the runs that it kept
"""

import hydra
from omegaconf import DictConfig

from emanet.cli.entry import entry_point, start
from emanet.config.report_schema import register_report_schemas
from emanet.config.schema import CONF_DIR


@hydra.main(version_base="1.3", config_path=CONF_DIR, config_name="report")
@entry_point
def main(cfg: DictConfig) -> None:
    """Write one report."""
    from emanet.studies.report import make_report  # after the configuration stands: importing torch takes seconds

    make_report(cfg)


if __name__ == "__main__":
    start(main, register_report_schemas)
