"""SWAD's loss valley: which stretch of a run is averaged, by the loss on validation images."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

LOSS = "source_val_loss"  # in records of validations


class Valley(NamedTuple):
    """The validations whose segments, from the one before to each of them, are averaged."""

    start: int  # position of the first
    end: int  # of the last one, itself in it
    converged: bool  # False: no valley was found, and the last segment alone is taken
    over: bool  # whether no later loss can change it

    def needed(self, count: int, tolerance: int) -> range:
        """Return which of `count` segments a valley may still be of."""
        if not self.converged:
            return range(max(0, min(count - tolerance + 1, count - 1)), count)
        return range(self.start, self.end + 1 if self.over else count)


def loss_valley(
    losses: Sequence[float | None], converge: int = 3, tolerance: int = 6, ratio: float = 0.3
) -> Valley:
    """Find the valley of SWAD (Cha et al. 2021, arXiv 2102.08604; `LossValley` of its code).

    It has converged at the first loss that none of the next `converge` - 1 is below; the limit is
    1 + `ratio` times the mean of these `converge`. It starts up to `tolerance` - `converge`
    validations earlier, after the last of them above the limit, and ends before the first loss from
    which on `tolerance` losses in a row, or all that there are, are above it. A loss of None is
    above any limit.

    The code's quirks are not reproduced: it drops the first segment of the valley (its average
    begins as a copy that counts as none), takes that of convergence in twice, with fewer than
    `tolerance` losses before convergence later ones twice too, and stops training at the end.

    >>> loss_valley([3.0, 2.0, 1.0, 1.1, 1.2, 1.0, 5.0, 6.0, 7.0, 8.0, 9.0, 9.0])
    Valley(start=2, end=5, converged=True, over=True)
    >>> loss_valley([3.0, 2.0, 1.0, 0.9])
    Valley(start=3, end=3, converged=False, over=False)
    """
    known = [float("inf") if loss is None else loss for loss in losses]
    for at in range(len(known) - converge + 1):
        if known[at] <= min(window := known[at : at + converge]) < float("inf"):
            break
    else:
        return Valley(max(0, len(known) - 1), max(0, len(known) - 1), False, False)
    limit, start, end = (1 + ratio) * sum(window) / converge, at, at
    while start > max(0, at - (tolerance - converge)) and known[start - 1] <= limit:
        start -= 1
    while end + 1 < len(known) and min(known[end + 1 : end + 1 + tolerance]) <= limit:
        end += 1
    return Valley(start, end, True, end + 1 + tolerance <= len(known))


def epochs_of(history: Sequence[Mapping[str, Any]], rule: Mapping[str, Any]) -> dict[str, Any]:
    """Return the epochs that a run's valley is of, {"first", "last", "converged"}.

    `history` are its validations, of a phase that began at epoch `rule["began"]`; the rest of
    `rule` are options of `loss_valley`.
    """
    options = {key: value for key, value in rule.items() if key != "began"}
    found = loss_valley([entry.get(LOSS) for entry in history], **options)
    before = history[found.start - 1]["epoch"] if found.start else rule["began"]
    ends = {"first": before + 1, "last": history[found.end]["epoch"]}
    return ends | {"converged": found.converged}


def sentences(results: Mapping[str, Any]) -> list[str]:
    """Say of each SWAD what it averages."""
    said = []
    for method, found in (results.get("valleys") or {}).items():
        each = [f"{run['first']} to {run['last']}" for run in found]
        each = each[:1] if len(set(each)) == 1 else each
        words = f"average of {method} (SWAD): of every step of epochs {', '.join(each)}"
        if lost := [i for i, run in enumerate(found) if not run["converged"]]:
            seeds = ", ".join(str(results["seeds"][i]) for i in lost)
            words += f"; no valley with seed {seeds}: its last segment alone"
        said.append(words)
    return said
