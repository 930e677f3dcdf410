"""What listens to a run: progress, summary, pictures, checkpoints, guards. Nothing here changes weights or metrics."""

from emanet.training.callbacks.baselines import ColorTable
from emanet.training.callbacks.bases import BasesMonitor
from emanet.training.callbacks.check_ranks import CheckRanks
from emanet.training.callbacks.checkpoints import LastCheckpoint
from emanet.training.callbacks.guard import Guard
from emanet.training.callbacks.prediction_sheet import PredictionSheet
from emanet.training.callbacks.progress import RunProgress
from emanet.training.callbacks.signals import SaveOnSignal
from emanet.training.callbacks.summary import RunSummary
from emanet.training.callbacks.throughput import LogThroughput
from emanet.training.callbacks.wandb_media import WandbMedia

__all__ = [
    "BasesMonitor",
    "CheckRanks",
    "ColorTable",
    "Guard",
    "LastCheckpoint",
    "LogThroughput",
    "PredictionSheet",
    "RunProgress",
    "RunSummary",
    "SaveOnSignal",
    "WandbMedia",
]
