"""Evaluate a checkpoint: the mIoU of the validation that wrote it, or of another split, data set or setting.

python src/eval.py checkpoint=RUN/checkpoints/best.ckpt
python src/eval.py checkpoint=RUN/checkpoints/best.ckpt model.T_eval=5 dataset.root=/other/place
python src/eval.py checkpoint=RUN/checkpoints/best.ckpt inference=ms_flip            several scales and mirrored
python src/eval.py checkpoint=RUN/checkpoints/best.ckpt inference.window=769         sliding window over large images
python src/eval.py checkpoint=final.pth dataset=voc       weights in the authors' layout
"""

from emanet.cli.entry import start

if __name__ == "__main__":
    start("eval")
