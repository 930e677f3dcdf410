"""Predict pictures and videos.

python src/predict.py checkpoint=RUN/checkpoints/best.ckpt input=photos output=predictions
python src/predict.py checkpoint=RUN/checkpoints/best.ckpt input='photos/**/*.jpg' output=predictions inference=ms_flip
python src/predict.py checkpoint=final.pth input=street.mp4 output=predictions batch_size=4
python src/predict.py checkpoint=... input=cat.jpg output=predictions save=[mask,overlay,probabilities,attention]
python src/predict.py checkpoint=... split=test submission=voc output=predictions        for the VOC server
"""

from emanet.cli.entry import start

if __name__ == "__main__":
    start("predict")
