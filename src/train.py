"""Train a network.

python src/train.py                                   the paper's setting: PASCAL VOC, ResNet-101, output stride 8
python src/train.py experiment=quickstart             real satellite images, minutes on a laptop's CPU
python src/train.py dataset=coco_stuff model.K=64     another benchmark; every key of conf/ can be overridden
python src/train.py --multirun model.K=16,32,64       a sweep
python src/train.py resume=RUN_FOLDER                 go on where a run stopped
python src/train.py trainer=ddp trainer.devices=8     several GPUs; torchrun, Slurm: docs/cluster.md
"""

from emanet.cli.entry import start

if __name__ == "__main__":
    start("train")
