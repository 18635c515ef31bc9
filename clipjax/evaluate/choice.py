"""Which method of a run to take, without target labels."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.nn
import jax.numpy as jnp
import numpy as np

from clipjax.evaluate.scores import agreement, ensemble_agreement, prior_distance

ZERO_SHOT = "zero_shot"
ACROSS = "source_val"  # the rule that the verdict takes a method by, of those not `refused`
# A candidate below these is not taken: shares of zero-shot's classes that it predicts, and of the
# target's images that it answers as zero-shot.
CLASSES_KEPT, AGREES = 0.5, 0.6
# Scores that could choose among methods, the highest best.
ACROSS_RULES = (
    "ensemble_agreement", "source_val", "negative_entropy",
    "information_maximization", "soft_neighbourhood_density", "mano", "nuclear_norm", "mixval",
    "atc", "doc",
)  # fmt: skip


class Candidate(NamedTuple):
    """A method as the choice among methods sees it."""

    logits: np.ndarray  # of target validation images, [seeds, N, K]
    scores: Mapping[str, Sequence[float | None]]  # by rule, of each seed


def refused(scores: Mapping[str, Mapping[str, Sequence[float | None]]]) -> dict[str, str]:
    """Say of each method that must not be taken why; zero-shot always may.

    By "effective_classes" of each method's scores, means over seeds: a method whose predictions on
    the target spread over less than `CLASSES_KEPT` of zero-shot's classes has collapsed, whatever
    its other scores. By "zero_shot_agreement" too: one that answers less than `AGREES` of the
    target's images as zero-shot has left what is known of them for what the source has taught.

    >>> some = {"effective_classes": [8.0]}
    >>> refused({"zero_shot": some, "one": some | {"effective_classes": [1.5]}})
    {'one': 'predicts 1.5 effective classes, zero-shot 8.0'}
    """
    if ZERO_SHOT not in scores:  # a model without texts
        return {}
    spread, found = mean(scores[ZERO_SHOT].get("effective_classes")), {}
    for name, own in scores.items():
        classes = mean(own.get("effective_classes"))
        if name == ZERO_SHOT:
            continue
        agrees = mean(own.get("zero_shot_agreement"))
        if None not in (classes, spread) and classes < CLASSES_KEPT * spread:
            found[name] = f"predicts {classes:.1f} effective classes, zero-shot {spread:.1f}"
        elif agrees is not None and agrees < AGREES:
            found[name] = f"answers {100 * agrees:.0f} % of the target's images as zero-shot"
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

    The pick is that of the highest accuracy on held-out source images among those that are not
    `refused`. EnsV (`ensemble_agreement`) is scored over all methods' seeds and zero-shot, each
    method one vote shared by its seeds; the refused have none. `candidates` hold no method that
    reads target labels; without "zero_shot" (of a model without texts) nothing is refused.

    Returns {"rule": `ACROSS`, "n": images, "scores": {method: {rule: of each seed}}, "refused":
    {method: why}, "pick": method}.
    """
    before = candidates[ZERO_SHOT].logits[0] if ZERO_SHOT in candidates else None
    beside = lambda how, each: _round(how(logits, before) for logits in each.logits)
    scores = {name: dict(each.scores) for name, each in candidates.items()}
    for name, each in candidates.items() if before is not None else ():
        scores[name]["zero_shot_agreement"] = beside(agreement, each)
    out, sizes = refused(scores), [len(each.logits) for each in candidates.values()]
    votes = [0.0 if name in out else 1 / n for name, n in zip(candidates, sizes, strict=True)]
    answers = [jax.nn.softmax(np.asarray(c.logits, np.float32)) for c in candidates.values()]
    together = ensemble_agreement(jnp.concatenate(answers), np.repeat(votes, sizes))
    shares = np.split(np.asarray(together), np.cumsum(sizes)[:-1])
    for (name, each), share in zip(candidates.items(), shares, strict=True):
        scores[name]["ensemble_agreement"] = _round(share)
        if before is not None:
            scores[name]["prior_distance"] = beside(prior_distance, each)
    images = next(iter(candidates.values())).logits.shape[1]
    found = {"rule": ACROSS, "n": images, "scores": scores, "refused": out}
    return found | {"pick": taken(scores, ACROSS, out)}


def _round(values: Iterable) -> list[float]:
    return [round(float(v), 6) for v in values]
