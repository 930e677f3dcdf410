"""Evaluate a checkpoint: the mIoU of the validation that wrote it, or of another split, data set or setting.

python src/eval.py checkpoint=RUN/checkpoints/best.ckpt
python src/eval.py checkpoint=RUN/checkpoints/best.ckpt model.T_eval=5 dataset.root=/other/place
python src/eval.py checkpoint=RUN/checkpoints/best.ckpt inference=ms_flip            several scales and mirrored
python src/eval.py checkpoint=RUN/checkpoints/best.ckpt inference.window=769         sliding window over large images
python src/eval.py checkpoint=final.pth dataset=voc       weights in the authors' layout
"""

import hydra
from omegaconf import DictConfig

from emanet.cli.entry import entry_point, register_checkpoint, run_dir, start
from emanet.config.schema import CONF_DIR


@hydra.main(version_base="1.3", config_path=CONF_DIR, config_name="eval")
@entry_point
def main(cfg: DictConfig) -> None:
    """Run one evaluation."""
    from emanet.cli.jobs import evaluate

    evaluate(cfg, run_dir())


if __name__ == "__main__":
    start(main, register_checkpoint)
