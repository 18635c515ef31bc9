"""Early stopping: when a run ends because its validations no longer get better."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from clipjax.evaluate.select import canonical, lower_is_better


def stop_epoch(
    history: Sequence[Mapping[str, Any]], rule: str, patience: int, min_delta: float = 0.0
) -> int | None:
    """Return the epoch at which `patience` validations in a row were no better; None: none yet.

    Better is by more than `min_delta` than the best so far, in the direction of the rule (Prechelt
    1998's "Early stopping, but when?", UP); a score that is missing or not finite never is.

    Args:
      history: records {"epoch": int, rule: float or None}, oldest first.
      rule: of `clipjax.evaluate.select`, but not "last", which scores nothing.
      patience: validations, at least 1.
      min_delta: 0 or more.

    >>> history = [{"epoch": e, "oracle": x} for e, x in ((2, 0.5), (4, 0.6), (6, 0.6), (8, 0.5))]
    >>> stop_epoch(history, "oracle", 2), stop_epoch(history, "oracle", 3)
    (8, None)
    """
    name, sign = canonical(rule), -1.0 if lower_is_better(rule) else 1.0
    best, waited = -math.inf, 0
    for record in history:
        score = record.get(name)
        if score is not None and math.isfinite(score) and sign * score > best + min_delta:
            best, waited = sign * score, 0
        else:
            waited += 1
        if waited >= patience:
            return record["epoch"]
    return None
