"""Get, check and unpack a benchmark.

python src/prepare.py dataset=voc dry_run=true        what would be fetched, and what disk it needs
python src/prepare.py dataset=voc                     PASCAL VOC 2012 with SBD's trainaug
python src/prepare.py dataset=cityscapes source=DIR   from archives downloaded by hand
python src/prepare.py dataset=all                     all of them; again: goes on where it stopped
"""

import hydra
from omegaconf import DictConfig

from emanet.cli.entry import entry_point, start
from emanet.config.data_schema import register_data_schemas
from emanet.config.schema import CONF_DIR


@hydra.main(version_base="1.3", config_path=CONF_DIR, config_name="prepare")
@entry_point
def main(cfg: DictConfig) -> None:
    """Prepare one benchmark or all."""
    from emanet.data.preparing.job import prepare

    prepare(
        cfg.dataset.name,
        data_dir=cfg.paths.data_dir,
        root=cfg.dataset.root,
        source=cfg.source,
        parts=None if cfg.parts is None else list(cfg.parts),
        dry_run=cfg.dry_run,
        strict_counts=cfg.strict_counts,
        keep_archives=cfg.keep_archives,
    )


if __name__ == "__main__":
    start(main, register_data_schemas)
