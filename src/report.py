"""Report on runs: tables, figures, a Markdown page, and an HTML page that can be passed on.

python src/report.py runs=runs/quickstart_short                  every study, sweep and run below a folder
python src/report.py runs=[runs/a,runs/b] output=report title='Ablations on VOC'
python src/report.py wandb=me/emanet output=report               runs of a W&B project
python src/report.py runs=docs/ablations/runs.jsonl output=docs/ablations page=docs/ablations.md notes=notes.md
                                                                 the same report again, from the runs that it kept
"""

from emanet.cli.entry import start

if __name__ == "__main__":
    start("report")
