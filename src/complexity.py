"""What a network costs: parameters, multiply-accumulates and memory of each part, beside the published figures.

python src/complexity.py                                       EMANet-512, ResNet-101, 513x513
python src/complexity.py model.channels=256 size=[1024,2048] num_classes=19 json=costs.json
python src/complexity.py heads=true                            every head of docs/heads.md beside the paper's
python src/complexity.py model=emanet_mmseg
"""

from emanet.cli.entry import start

if __name__ == "__main__":
    start("complexity")
