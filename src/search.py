"""Search K, T, momentum and learning rate with Optuna; trials that fall behind are stopped early.

python src/search.py -- experiment=quickstart_short trainer.val_every_n_steps=30
python src/search.py n_trials=50 'space=[{key: model.K, low: 8, high: 128, log: true}]' -- experiment=voc_r50_os16

The same command goes on with a search that was interrupted, and started on a second device shares the work. Needs
    pip install 'emanet[search]'
"""

from emanet.cli.entry import start

if __name__ == "__main__":
    start("search")
