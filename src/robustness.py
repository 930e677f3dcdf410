"""How much networks lose under noise, blur, other contrast and brightness: mIoU on the validation split.

python src/robustness.py checkpoints=[RUN/checkpoints/best.ckpt,OTHER/checkpoints/best.ckpt]
python src/robustness.py checkpoints='runs/quickstart_short/sweep_head/*/checkpoints/last.ckpt' label=model.head
python src/robustness.py checkpoints=RUN/checkpoints/best.ckpt corruptions.noise=[10,50] corruptions.blur=[]

Writes robustness.json (all scores), .csv and .svg. Needs  pip install 'emanet[report]'
"""

import hydra
from omegaconf import DictConfig

from emanet.cli.entry import entry_point, run_dir, start
from emanet.config.report_schema import register_report_schemas
from emanet.config.schema import CONF_DIR


@hydra.main(version_base="1.3", config_path=CONF_DIR, config_name="robustness")
@entry_point
def main(cfg: DictConfig) -> None:
    """Evaluate all checkpoints."""
    from emanet.config.instantiate import resolved  # after the configuration stands: importing torch takes seconds
    from emanet.config.rules import check
    from emanet.studies.robustness import evaluate_robustness

    check(cfg)
    evaluate_robustness(resolved(cfg), run_dir())


if __name__ == "__main__":
    start(main, register_report_schemas)
