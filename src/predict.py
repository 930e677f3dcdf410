"""Predict pictures and videos.

python src/predict.py checkpoint=RUN/checkpoints/best.ckpt input=photos output=predictions
python src/predict.py checkpoint=RUN/checkpoints/best.ckpt input='photos/**/*.jpg' output=predictions inference=ms_flip
python src/predict.py checkpoint=final.pth input=street.mp4 output=predictions batch_size=4
python src/predict.py checkpoint=... input=cat.jpg output=predictions save=[mask,overlay,probabilities,attention]
python src/predict.py checkpoint=... split=test submission=voc output=predictions        for the VOC server
"""

import sys

import hydra
from omegaconf import DictConfig

from emanet.cli.entry import entry_point, prepare_predict, start
from emanet.config.schema import CONF_DIR


@hydra.main(version_base="1.3", config_path=CONF_DIR, config_name="predict")
@entry_point
def main(cfg: DictConfig) -> None:
    """Run one job; the exit code is 1 if any file failed."""
    from emanet.cli.jobs import predict

    if predict(cfg):
        sys.exit(1)


if __name__ == "__main__":
    start(main, prepare_predict)
