"""Get, check and unpack a benchmark.

python src/prepare.py dataset=voc dry_run=true        what would be fetched, and what disk it needs
python src/prepare.py dataset=voc                     PASCAL VOC 2012 with SBD's trainaug
python src/prepare.py dataset=cityscapes source=DIR   from archives downloaded by hand
python src/prepare.py dataset=all                     all of them; again: goes on where it stopped
"""

from emanet.cli.entry import start

if __name__ == "__main__":
    start("prepare")
