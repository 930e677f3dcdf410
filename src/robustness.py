"""How much networks lose under noise, blur, other contrast and brightness: mIoU on the validation split.

python src/robustness.py checkpoints=[RUN/checkpoints/best.ckpt,OTHER/checkpoints/best.ckpt]
python src/robustness.py checkpoints='runs/quickstart_short/sweep_head/*/checkpoints/last.ckpt' label=model.head
python src/robustness.py checkpoints=RUN/checkpoints/best.ckpt corruptions.noise=[10,50] corruptions.blur=[]
"""

from emanet.cli.entry import start

if __name__ == "__main__":
    start("robustness")
