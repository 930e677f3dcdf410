"""Get, check and unpack a benchmark.

python src/prepare.py dataset=voc dry_run=true        what would be fetched, and what disk it needs
python src/prepare.py dataset=voc                     PASCAL VOC 2012 with SBD's trainaug
python src/prepare.py dataset=cityscapes source=DIR   from archives downloaded by hand
python src/prepare.py dataset=all                     all of them; again: goes on where it stopped
"""

from typing import Any

import hydra

from emanet.cli.arguments import prepare
from emanet.cli.entry import entry_point, start
from emanet.config.schema import CONF_DIR


@hydra.main(version_base="1.3", config_path=CONF_DIR, config_name="prepare")
@entry_point
def main(cfg: dict[str, Any]) -> None:
    """Prepare one benchmark or all."""
    from emanet.data.preparing.job import prepare as get_ready

    dataset, paths = cfg.pop("dataset"), cfg.pop("paths")
    get_ready(dataset["name"], data_dir=paths["data_dir"], root=dataset["root"], **cfg)


if __name__ == "__main__":
    start(main, prepare)
