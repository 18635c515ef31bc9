"""The errors a user can cause. Commands print their one sentence and exit with 1."""


class ClipjaxError(Exception):
    """A problem whose message names the culprit and the remedy."""


class ConfigError(ClipjaxError):
    """A config field or combination that cannot run."""


class DataError(ClipjaxError):
    """A dataset that is missing, empty, damaged or does not fit the config."""


class UnreachableError(DataError):
    """Data that could not be read now (permissions, a disk); not to be cached beyond a run."""


class ChangedError(DataError):
    """Data that changed since the dataset was opened; it ends a run."""


class CheckpointError(ClipjaxError):
    """Weights or a run's checkpoint that cannot be read."""


class NonFiniteError(ClipjaxError):
    """A loss that became NaN or infinite."""


def sentence(error: Exception) -> str:
    """Return an error on one line, with its class unless it is a ClipjaxError.

    >>> sentence(ClipjaxError("no split.")), sentence(KeyError("label"))
    ('no split.', "KeyError: 'label'")
    """
    text = " ".join(str(error).split())
    return text if isinstance(error, ClipjaxError) else f"{type(error).__name__}: {text}"
