"""Which method of a run to take, without target labels, and what such rules were worth."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.nn
import jax.numpy as jnp
import numpy as np

from clipjax.evaluate.rows import own_rows
from clipjax.evaluate.scores import agreement, ensemble_agreement, prior_distance

ZERO_SHOT = "zero_shot"
ACROSS = "ensemble_agreement"  # the rule that the verdict of a run takes its method by
# A candidate below these is not taken: of source validation accuracy, and of zero-shot's classes.
SOURCE_LOSS, CLASSES_KEPT = 0.05, 0.5
# Scores that could choose among methods, the highest best.
ACROSS_RULES = (
    "ensemble_agreement", "zero_shot_agreement", "source_val", "negative_entropy",
    "information_maximization", "soft_neighbourhood_density", "mano", "nuclear_norm", "mixval",
    "atc", "doc",
)  # fmt: skip


class Candidate(NamedTuple):
    """A method as the choice among methods sees it."""

    logits: np.ndarray  # of target validation images, [seeds, N, K]
    scores: Mapping[str, Sequence[float | None]]  # by rule, of each seed


def refused(scores: Mapping[str, Mapping[str, Sequence[float | None]]]) -> dict[str, str]:
    """Say of each method that must not be taken why; zero-shot always may.

    By "source_val" and "effective_classes" of each method's scores, means over seeds: a method that
    lost more than `SOURCE_LOSS` of the best one's accuracy on held-out source images, or whose
    predictions on the target spread over less than `CLASSES_KEPT` of zero-shot's classes, has
    collapsed, whatever its other scores.

    >>> some = {"source_val": [0.5], "effective_classes": [8.0]}
    >>> refused({"zero_shot": some, "one": some | {"effective_classes": [1.5]}})
    {'one': 'predicts 1.5 effective classes, zero-shot 8.0'}
    """
    best = max(
        (m for s in scores.values() if (m := mean(s.get("source_val"))) is not None), default=0
    )
    spread, found = mean(scores[ZERO_SHOT].get("effective_classes")), {}
    for name, own in scores.items():
        accuracy, classes = mean(own.get("source_val")), mean(own.get("effective_classes"))
        if name == ZERO_SHOT:
            continue
        if None not in (classes, spread) and classes < CLASSES_KEPT * spread:
            found[name] = f"predicts {classes:.1f} effective classes, zero-shot {spread:.1f}"
        elif accuracy is not None and accuracy < best - SOURCE_LOSS:
            found[name] = f"{100 * accuracy:.1f} % on source validation, the best {100 * best:.1f}"
    return found


def mean(values: Sequence[float | None] | None) -> float | None:
    """Return the mean over seeds; None where one has no value.

    >>> mean([1.0, 2.0]), mean([1.0, None]), mean(None)
    (1.5, None, None)
    """
    known = bool(values) and None not in values
    return float(np.mean(values)) if known else None


def taken(scores: Mapping[str, Mapping], rule: str, barred: Iterable[str] = ()) -> str | None:
    """Return the method of the best mean score; the first of equals, None where none has one.

    >>> scores = {"zero_shot": {"atc": [0.3]}, "a": {"atc": [0.3]}, "b": {"atc": [0.4, 0.6]}}
    >>> taken(scores, "atc"), taken(scores, "atc", ["b"]), taken(scores, "doc")
    ('b', 'zero_shot', None)
    """
    barred, known = set(barred), {name: mean(own.get(rule)) for name, own in scores.items()}
    ranked = {name: v for name, v in known.items() if v is not None and name not in barred}
    return max(ranked, key=ranked.__getitem__) if ranked else None


def choose(candidates: Mapping[str, Candidate]) -> dict[str, Any]:
    """Score every method on target validation images without labels, and take one.

    EnsV (`ensemble_agreement`) over all methods' seeds and zero-shot, each method one vote shared
    by its seeds; methods that are `refused` have no vote and are not taken. `candidates` hold
    "zero_shot", and no method that reads target labels.

    Returns {"rule": `ACROSS`, "n": images, "scores": {method: {rule: of each seed}}, "refused":
    {method: why}, "pick": method}.
    """
    scores = {name: dict(each.scores) for name, each in candidates.items()}
    out, sizes = refused(scores), [len(each.logits) for each in candidates.values()]
    votes = [0.0 if name in out else 1 / n for name, n in zip(candidates, sizes, strict=True)]
    answers = [jax.nn.softmax(np.asarray(c.logits, np.float32)) for c in candidates.values()]
    together = ensemble_agreement(jnp.concatenate(answers), np.repeat(votes, sizes))
    shares = np.split(np.asarray(together), np.cumsum(sizes)[:-1])
    before = candidates[ZERO_SHOT].logits[0]
    for (name, each), share in zip(candidates.items(), shares, strict=True):
        scores[name] |= {
            "ensemble_agreement": _round(share),
            "zero_shot_agreement": _round([agreement(z, before) for z in each.logits]),
            "prior_distance": _round([prior_distance(z, before) for z in each.logits]),
        }
    found = {"rule": ACROSS, "n": len(before), "scores": scores, "refused": out}
    return found | {"pick": taken(scores, ACROSS, out)}


def _round(values: Iterable) -> list[float]:
    return [round(float(v), 6) for v in values]


def verdict(results: Mapping[str, Any]) -> str:
    """Say which method of a run to take, in one sentence without a full stop; "" of no choice."""
    found = results.get("choice")
    if not found or not found.get("pick"):
        return ""
    pick, target, rule = found["pick"], results["data"]["target"], found["rule"]
    test = own_rows(results["rows"])
    ours, zero = (100 * test[name, target]["accuracy_mean"] for name in (pick, ZERO_SHOT))
    score, before = (mean(found["scores"][name][rule]) for name in (pick, ZERO_SHOT))
    how = f"{rule.replace('_', ' ')} on {found['n']} unlabelled images of {target}"
    if pick == ZERO_SHOT:
        others = len(found["scores"]) - 1 - len(found["refused"])
        told = f"none of {others} others is better by {how}" if others else "all others collapsed"
        return f"take zero_shot, without adaptation: {told}; {zero:.1f} % on the test images"
    told = f"take {pick}: best by {how} ({score:.2f}, zero_shot {before:.2f})"
    if ours < zero:
        but = "but their labels say otherwise: it is below zero-shot"
        return f"{told}, {but} on the test images, {ours:.1f} against {zero:.1f} %"
    return f"{told}; {ours:.1f} % on the test images, zero_shot {zero:.1f}"


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
        safe.append(taken(scores, rule, run["choice"]["refused"]) or ZERO_SHOT)
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
    header = ["taken by", "runs", "Spearman", "chosen", "regret", "worst", "below"]
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
