"""Build the W&B workspace of an ablation: mIoU over what was swept, learning curves, bases, pictures, classes.

python src/dashboard.py study=K                          the study of conf/sweep/K.yaml, in project emanet
python src/dashboard.py study=K project=P entity=TEAM    where the runs are: logger.wandb.project, logger.wandb.entity
python src/dashboard.py study=K output=K.json            its specification in a file; also without an API key
"""

import hydra
from omegaconf import DictConfig

from emanet.cli.entry import entry_point
from emanet.config.schema import CONF_DIR, register


@hydra.main(version_base="1.3", config_path=CONF_DIR, config_name="dashboard")
@entry_point
def main(cfg: DictConfig) -> None:
    """Build one workspace."""
    from emanet.config.instantiate import resolved  # after the configuration stands: importing W&B takes seconds
    from emanet.studies.dashboard import publish

    print(publish(resolved(cfg)))


if __name__ == "__main__":
    register()
    main()
