"""What a network costs: parameters, multiply-accumulates and memory of each part, beside the published figures.

python src/complexity.py                                       EMANet-512, ResNet-101, 513x513
python src/complexity.py model.channels=256 size=[1024,2048] num_classes=19 json=costs.json
python src/complexity.py heads=true                            every head of docs/heads.md beside the paper's
python src/complexity.py model=emanet_mmseg
"""

import hydra
from omegaconf import DictConfig

from emanet.cli.entry import entry_point
from emanet.config.schema import CONF_DIR, register


@hydra.main(version_base="1.3", config_path=CONF_DIR, config_name="complexity")
@entry_point
def main(cfg: DictConfig) -> None:
    """Measure one configuration."""
    from emanet.config.instantiate import resolved  # after the configuration stands: importing torch takes seconds
    from emanet.config.rules import check
    from emanet.studies.complexity import report

    check(cfg)
    report(resolved(cfg))


if __name__ == "__main__":
    register()
    main()
