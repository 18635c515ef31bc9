"""The errors a user can cause. `experiments.main` prints their one sentence and exits with 1."""


class ClipjaxError(Exception):
    """A problem whose message names the culprit and the remedy."""


class ConfigError(ClipjaxError):
    """A config field or combination that cannot run."""


class DataError(ClipjaxError):
    """A dataset that is missing, empty, damaged or does not fit the config."""


class CheckpointError(ClipjaxError):
    """Weights or a run's checkpoint that cannot be read as what they should be."""


class NonFiniteError(ClipjaxError):
    """A loss that became NaN or infinite."""
