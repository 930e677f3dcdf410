"""Build the W&B workspace of an ablation: mIoU over what was swept, learning curves, bases, pictures, classes.

python src/dashboard.py study=K                          the study of conf/sweep/K.yaml, in project emanet
python src/dashboard.py study=K project=P entity=TEAM    where the runs are: logger.wandb.project, logger.wandb.entity
python src/dashboard.py study=K output=K.json            its specification in a file; also without an API key
"""

from typing import Any

import hydra

from emanet.cli.arguments import prepare
from emanet.cli.entry import entry_point, start
from emanet.config.schema import CONF_DIR


@hydra.main(version_base="1.3", config_path=CONF_DIR, config_name="dashboard")
@entry_point
def main(cfg: dict[str, Any]) -> None:
    """Build one workspace."""
    from emanet.studies.dashboard import publish

    print(publish(cfg))


if __name__ == "__main__":
    start(main, prepare)
