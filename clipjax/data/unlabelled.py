"""Images without a label: the number in a label's place, and which examples have a label."""

import numpy as np

NO_LABEL = -1  # in a source's labels; other numbers below 0 are refused
NO_LABELS = "no labels"  # why something of a domain is not measured, in results and on pages


def labelled(labels: np.ndarray) -> np.ndarray:
    """Return which of labels int [N] are of a class, bool [N].

    >>> labelled(np.array([2, NO_LABEL, 0])).tolist()
    [True, False, True]
    """
    return np.asarray(labels) != NO_LABEL
