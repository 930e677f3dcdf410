"""Look at a data set before training on it: counts, sizes, class frequencies, and a sheet of overlaid masks.

python src/inspect_data.py dataset=voc                     the split that training uses
python src/inspect_data.py dataset=voc split=val limit=500
python src/inspect_data.py dataset=folder dataset.root=DIR dataset.num_classes=3
"""

from typing import Any

import hydra

from emanet.cli.arguments import prepare
from emanet.cli.entry import entry_point, run_dir, start
from emanet.config.schema import CONF_DIR


@hydra.main(version_base="1.3", config_path=CONF_DIR, config_name="inspect_data")
@entry_point
def main(cfg: dict[str, Any]) -> None:
    """Inspect one split."""
    from emanet.cli.jobs import inspect_data

    inspect_data(cfg, run_dir())


if __name__ == "__main__":
    start(main, prepare)
