"""Errors that a user can cause and mend: each says what is wrong, what was got, and what to do."""


class EMANetError(Exception):
    """Base of all errors that the command line prints as one message, without a stack of internals."""

    exit_code = 1


class ConfigError(EMANetError):
    """A configuration value that makes no sense, or two that do not go together."""


class DatasetError(EMANetError):
    """A data set that is missing, incomplete, or holds a file that cannot be used."""


class WeightsError(EMANetError):
    """Weights or a checkpoint that cannot be found, read safely, or fitted to the network."""
