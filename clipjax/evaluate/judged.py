"""What rules that choose a method without target labels were worth, over several runs."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from clipjax.evaluate.choice import ACROSS_RULES, ZERO_SHOT, mean, refused, taken
from clipjax.evaluate.rows import not_measured, own_rows

BEGIN, END = (
    "<!-- made by clipjax choose: begin -->",
    "<!-- made by clipjax choose: end -->",
)


class Judged(NamedTuple):
    """What choosing a method by one rule was worth over several runs, accuracies in %."""

    rule: str
    runs: int  # in which it could choose
    rank: float | None  # Spearman's correlation with test accuracy on the target, mean over runs
    accuracy: float  # of its choices on the target's test images, mean
    regret: float  # what the best method of each run has more, mean
    worst: float  # its choice's distance to zero-shot in its worst run; negative: below
    below: int  # runs in which its choice is below zero-shot
    guarded: tuple[float, float, int] | None = None  # accuracy, worst, below without the refused


def among(run: Mapping[str, Any], methods: Sequence[str]) -> dict[str, Any]:
    """A run whose choice is among some methods and zero-shot alone; ValueError: it lacks one."""
    scores = run["choice"]["scores"]
    if missing := [name for name in methods if name not in scores]:
        raise ValueError(f"a run has no method {missing[0]!r}; it has {', '.join(scores)}.")
    kept = {name: own for name, own in scores.items() if name in (ZERO_SHOT, *methods)}
    return {**run, "choice": {**run["choice"], "scores": kept}}


def measured(run: Mapping[str, Any]) -> bool:
    """Return whether the target of a run has labels, by which its choice can be judged."""
    return run["data"]["target"] not in not_measured(run["rows"])


def judge(runs: Sequence[Mapping[str, Any]]) -> list[Judged]:
    """Compare rules by what they would have chosen, of results with a "choice".

    Rows: every rule of `ACROSS_RULES` that has scores, best accuracy first, then each method that
    is in all runs, taken always, and the oracle, which reads target labels.
    """
    tested = [_tested(run) for run in runs]
    rules = [_judge_rule(rule, runs, tested) for rule in ACROSS_RULES]
    found = sorted(filter(None, rules), key=lambda judged: -judged.accuracy)
    everywhere = [name for name in tested[0] if all(name in t for t in tested)] if runs else []
    always = [_judged(f"always {name}", tested, [name] * len(runs)) for name in everywhere]
    always.sort(key=lambda judged: -judged.accuracy)
    best = [max(each, key=each.__getitem__) for each in tested]
    return [*found, *always, *([_judged("oracle", tested, best)] if runs else [])]


def _tested(run: Mapping[str, Any]) -> dict[str, float]:
    """Map the methods that a run could take to their test accuracy on the target, in %."""
    rows, target = own_rows(run["rows"]), run["data"]["target"]
    scored = run["choice"]["scores"]
    return {name: 100 * rows[name, target]["accuracy_mean"] for name in scored}


def _judge_rule(rule: str, runs: Sequence[Mapping], tested: Sequence[Mapping]) -> Judged | None:
    """Judge one rule by the runs that have its scores; None where none has."""
    picks, safe, ranks, there = [], [], [], []
    for run, accuracy in zip(runs, tested, strict=True):
        scores = run["choice"]["scores"]
        if (pick := taken(scores, rule)) is None:
            continue
        there.append(accuracy)
        picks.append(pick)
        safe.append(taken(scores, rule, refused(scores)) or ZERO_SHOT)
        known = {name: v for name, own in scores.items() if (v := mean(own.get(rule))) is not None}
        ranks.append(spearman(list(known.values()), [accuracy[name] for name in known]))
    if not there:
        return None
    ranks = [rank for rank in ranks if rank is not None]
    guarded = _judged(rule, there, safe)
    found = _judged(rule, there, picks)._replace(rank=float(np.mean(ranks)) if ranks else None)
    return found._replace(guarded=(guarded.accuracy, guarded.worst, guarded.below))


def _judged(rule: str, tested: Sequence[Mapping[str, float]], picks: Sequence[str]) -> Judged:
    got = np.array([accuracy[name] for accuracy, name in zip(tested, picks, strict=True)])
    zero = np.array([accuracy[ZERO_SHOT] for accuracy in tested])
    best = np.array([max(accuracy.values()) for accuracy in tested])
    below, regret = int((got < zero).sum()), float((best - got).mean())
    return Judged(rule, len(got), None, float(got.mean()), regret, float((got - zero).min()), below)


def spearman(one: Sequence[float], two: Sequence[float]) -> float | None:
    """Return Spearman's rank correlation, ties by mean rank; None of fewer than two values a side.

    >>> spearman([1, 2, 3], [10, 30, 20]), spearman([1, 1], [1, 2])
    (0.5, None)
    """
    if min(len(set(one)), len(set(two))) < 2:
        return None
    ranks = [np.unique(x, return_inverse=True, return_counts=True)[1:] for x in (one, two)]
    each = [(np.cumsum(counts) - (counts - 1) / 2)[index] for index, counts in ranks]
    return round(float(np.corrcoef(*each)[0, 1]), 12)


def cells(judged: Sequence[Judged]) -> tuple[list[str], list[list[str]]]:
    """Return header and lines of the table of `judge`, for Markdown or a terminal."""
    header = ["taken by", "runs", "rank", "chosen", "regret", "worst", "below"]
    header += [f"{name}, guarded" for name in ("chosen", "worst", "below")]
    return header, [
        [
            each.rule,
            str(each.runs),
            "" if each.rank is None else f"{each.rank:.2f}",
            f"{each.accuracy:.1f}",
            f"{each.regret:.1f}",
            f"{each.worst:+.1f}",
            str(each.below),
            *(_guarded(each.guarded)),
        ]
        for each in judged
    ]


def _guarded(values: tuple[float, float, int] | None) -> list[str]:
    if values is None:
        return ["", "", ""]
    accuracy, worst, below = values
    return [f"{accuracy:.1f}", f"{worst:+.1f}", str(below)]


def markdown(runs: Sequence[Mapping[str, Any]]) -> str:
    """Write the table of `judge` and what it is of, as Markdown."""
    header, lines = cells(judge(runs))
    rows = [header, ["---", *["---:"] * (len(header) - 1)], *lines]
    names = lambda values: ", ".join(dict.fromkeys(map(str, values)))
    pairs = names(f"{run['data']['source']} → {run['data']['target']}" for run in runs)
    methods = names(name for run in runs for name in run["choice"]["scores"])
    seeds = {len(run["seeds"]) for run in runs}
    about = (
        f"{len(runs)} runs, {names(run['data']['name'] for run in runs)}, model "
        f"{names(run['model'] for run in runs)}, {names(sorted(seeds))} seeds: {pairs}. Methods: "
        f"{methods}. Accuracies on the target's test images in %, mean over runs."
    )
    return "\n".join([textwrap.fill(about, 120), "", *(f"| {' | '.join(row)} |" for row in rows)])


def filled(page: str, made: str) -> str:
    """Put what a command made between the marks of a page; ValueError: it has none.

    >>> print(filled(f"above\\n{BEGIN}\\nold\\n{END}\\nbelow", "new"))
    above
    <!-- made by clipjax choose: begin -->
    new
    <!-- made by clipjax choose: end -->
    below
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"it has no lines {BEGIN!r} and {END!r} to write between")
    return f"{before}{BEGIN}\n{made}\n{END}{after}"
