"""How much networks lose under noise, blur, other contrast and brightness: mIoU on the validation split.

python src/robustness.py checkpoints=[RUN/checkpoints/best.ckpt,OTHER/checkpoints/best.ckpt]
python src/robustness.py checkpoints='runs/quickstart_short/sweep_head/*/checkpoints/last.ckpt' label=model.head
python src/robustness.py checkpoints=RUN/checkpoints/best.ckpt corruptions.noise=[10,50] corruptions.blur=[]
"""

from typing import Any

import hydra

from emanet.cli.arguments import prepare
from emanet.cli.entry import entry_point, run_dir, start
from emanet.config.schema import CONF_DIR


@hydra.main(version_base="1.3", config_path=CONF_DIR, config_name="robustness")
@entry_point
def main(cfg: dict[str, Any]) -> None:
    """Evaluate all checkpoints."""
    from emanet.studies.robustness import evaluate_robustness

    evaluate_robustness(cfg, run_dir())


if __name__ == "__main__":
    start(main, prepare)
