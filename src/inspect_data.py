"""Look at a data set before training on it: counts, sizes, class frequencies, and a sheet of overlaid masks.

python src/inspect_data.py dataset=voc                     the split that training uses
python src/inspect_data.py dataset=voc split=val limit=500
python src/inspect_data.py dataset=folder dataset.root=DIR dataset.num_classes=3
"""

import hydra
from omegaconf import DictConfig

from emanet.cli.entry import entry_point, run_dir, start
from emanet.config.data_schema import register_data_schemas
from emanet.config.schema import CONF_DIR


@hydra.main(version_base="1.3", config_path=CONF_DIR, config_name="inspect_data")
@entry_point
def main(cfg: DictConfig) -> None:
    """Inspect one split."""
    from emanet.cli.inspecting import inspect_split

    inspect_split(cfg, run_dir())


if __name__ == "__main__":
    start(main, register_data_schemas)
