"""What holds for every callback: senseless options are refused with what was got and what is allowed."""

from typing import Any

import pytest

from emanet.training import callbacks


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Guard", {"action": "ignore"}, "action must be one of stop, skip, got action='ignore'"),
        ("Guard", {"max_loss": 0.0}, r"max_loss must be null or a positive number, got 0\.0"),
        ("Guard", {"every_n_steps": 0}, "every_n_steps must be at least 1, got every_n_steps=0"),
        ("Guard", {"max_skips": 0}, "max_skips must be at least 1, got max_skips=0"),
        ("CheckRanks", {"every_n_steps": 0}, "every_n_steps must be at least 1, got every_n_steps=0"),
        ("LastCheckpoint", {"run_dir": "x", "every_n_steps": 0}, "every_n_steps must be at least 1"),
        ("SaveOnSignal", {"run_dir": "x", "every_n_steps": 0}, "every_n_steps must be at least 1"),
        ("RunProgress", {"refresh_every": 0}, "refresh_every must be at least 1, got refresh_every=0"),
        ("RunProgress", {"log_every": 0}, "log_every must be at least 1, got log_every=0"),
        ("PredictionSheet", {"run_dir": "x", "n": 0}, "number_of_images must be at least 1"),
    ],
)
def test_senseless_options_are_refused(name: str, options: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        getattr(callbacks, name)(**options)
