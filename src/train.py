"""Train a network.

python src/train.py                                   the paper's setting: PASCAL VOC, ResNet-101, output stride 8
python src/train.py experiment=quickstart             real satellite images, minutes on a laptop's CPU
python src/train.py dataset=coco_stuff model.K=64     another benchmark; every key of conf/ can be overridden
python src/train.py --multirun model.K=16,32,64       a sweep
python src/train.py resume=RUN_FOLDER                 go on where a run stopped
python src/train.py trainer=ddp trainer.devices=8     several GPUs; torchrun, Slurm: docs/cluster.md
"""

from typing import Any

import hydra

from emanet.cli.arguments import prepare_train
from emanet.cli.entry import entry_point, run_dir, start
from emanet.config.schema import CONF_DIR


@hydra.main(version_base="1.3", config_path=CONF_DIR, config_name="train")
@entry_point
def main(cfg: dict[str, Any]) -> float | None:
    """Run one job."""
    from emanet.cli.jobs import train  # after the configuration stands: importing torch takes seconds

    return train(cfg, run_dir())


if __name__ == "__main__":
    start(main, prepare_train)
