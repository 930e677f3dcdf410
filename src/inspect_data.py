"""Look at a data set before training on it: counts, sizes, class frequencies, and a sheet of overlaid masks.

python src/inspect_data.py dataset=voc                     the split that training uses
python src/inspect_data.py dataset=voc split=val limit=500
python src/inspect_data.py dataset=folder dataset.root=DIR dataset.num_classes=3
"""

from emanet.cli.entry import start

if __name__ == "__main__":
    start("inspect_data")
