"""The errors a user can cause. `experiments.main` prints their one sentence and exits with 1."""


class ClipjaxError(Exception):
    """A problem whose message names the culprit and the remedy."""


class ConfigError(ClipjaxError):
    """A config field or combination that cannot run."""


class DataError(ClipjaxError):
    """A dataset that is missing, empty, damaged or does not fit the config."""


class UnreachableError(DataError):
    """Data that could not be read now: no permission, a disk that does not answer.

    It says nothing about the data itself, so nobody may remember it beyond a run.
    """


class ChangedError(DataError):
    """Data that is no longer what the dataset was opened with. It ends a run."""


class CheckpointError(ClipjaxError):
    """Weights or a run's checkpoint that cannot be read as what they should be."""


class NonFiniteError(ClipjaxError):
    """A loss that became NaN or infinite."""


def sentence(error: Exception) -> str:
    """An error on one line; what is not made for users, with its kind.

    >>> sentence(ClipjaxError("no split.")), sentence(KeyError("label"))
    ('no split.', "KeyError: 'label'")
    """
    text = " ".join(str(error).split())
    return text if isinstance(error, ClipjaxError) else f"{type(error).__name__}: {text}"
