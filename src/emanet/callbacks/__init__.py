"""What listens to a run: progress, summary, pictures, checkpoints. Nothing here changes weights or metrics."""

from emanet.callbacks.checkpoints import LastCheckpoint
from emanet.callbacks.prediction_sheet import PredictionSheet
from emanet.callbacks.progress import RunProgress
from emanet.callbacks.summary import RunSummary
from emanet.callbacks.wandb_media import WandbMedia

__all__ = ["LastCheckpoint", "PredictionSheet", "RunProgress", "RunSummary", "WandbMedia"]
