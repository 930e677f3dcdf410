"""Build the W&B workspace of an ablation: mIoU over what was swept, learning curves, bases, pictures, classes.

python src/dashboard.py study=K                          the study of conf/sweep/K.yaml, in project emanet
python src/dashboard.py study=K project=P entity=TEAM    where the runs are: logger.wandb.project, logger.wandb.entity
python src/dashboard.py study=K output=K.json            its specification in a file; also without an API key
"""

from emanet.cli.entry import start

if __name__ == "__main__":
    start("dashboard")
