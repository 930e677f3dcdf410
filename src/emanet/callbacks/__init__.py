"""What listens to a run: progress, summary, pictures, checkpoints, guards. Nothing here changes weights or metrics."""

from emanet.callbacks.bases import BasesMonitor
from emanet.callbacks.check_ranks import CheckRanks
from emanet.callbacks.checkpoints import LastCheckpoint
from emanet.callbacks.guard import Guard
from emanet.callbacks.prediction_sheet import PredictionSheet
from emanet.callbacks.progress import RunProgress
from emanet.callbacks.signals import SaveOnSignal
from emanet.callbacks.summary import RunSummary
from emanet.callbacks.throughput import LogThroughput
from emanet.callbacks.wandb_media import WandbMedia

__all__ = [
    "BasesMonitor",
    "CheckRanks",
    "Guard",
    "LastCheckpoint",
    "LogThroughput",
    "PredictionSheet",
    "RunProgress",
    "RunSummary",
    "SaveOnSignal",
    "WandbMedia",
]
