"""The weight of `clipjax.adapt.blend` on all ordered pairs of the embedded data's six styles.

    python -m benchmarks.blend_weight [--model=DIR] [--head=gda]

Accuracy and macro accuracy on each target's test split: zero-shot, debiased zero-shot, the aligned
head, the blend at the weight it chose, and at the best of a grid (which sees test labels). Then
ways to choose the weight side by side; "left out" means that a number was fitted to test labels of
the pairs that share neither source nor target with the one it is used on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from absl import app, flags

from clipjax.adapt import blend, debias, gda, logistic
from clipjax.adapt.linear import linear_logits
from clipjax.evaluate.metrics import accuracy, macro_accuracy
from clipjax.study import Data, Encoder, Study
from clipjax.study.encode import Encoded, encode
from clipjax.study.plan import prepare

GRID = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
LOWEST = -1.5  # points below zero-shot that a rule may cost on any pair

_MODEL = flags.DEFINE_string("model", "tiny", "A directory in Hugging Face layout, or a Hub id.")
_HEAD = flags.DEFINE_enum("head", "logistic", blend.HEADS, "The aligned head.")


class Pair(NamedTuple):
    """What is known of a pair: scores in % as [accuracy, macro accuracy]."""

    scores: dict[str, np.ndarray]
    at: Callable[[float], np.ndarray]  # weight -> scores of the blend
    chosen: dict[str, float]  # of the blend

    def gain(self, weight: float) -> np.ndarray:
        """Points above zero-shot."""
        return self.at(weight) - self.scores["zero-shot"]

    @property
    def ratio(self) -> float:
        """The head's held-out accuracy over zero-shot's confidence."""
        return self.chosen["accuracy"] / self.chosen["confidence"]


def look_at(encoded: Encoded, source: str, target: str) -> Pair:
    """Fit one pair."""
    train, test = encoded.parts[source, "train"], encoded.parts[target, "test"]
    data = {
        "source": {"inputs": np.asarray(train.features, np.float32), "label": train.labels},
        "target": {"inputs": np.asarray(encoded.parts[target, "train"].features, np.float32)},
    }
    of = lambda module, **options: module.make_method(None, encoded.classes, **options).fit(
        data, encoded.classes
    )
    plain = {"gda": gda, "logistic": logistic}[_HEAD.value]
    logits = {name: linear_logits(p, test.features) for name, p in of(plain).items()}
    base = linear_logits(of(debias)["tau_0.5"], test.features)
    mixed = of(blend, kind=_HEAD.value)["blend"]
    chosen = {name: float(value) for name, value in mixed["chosen"].items()}

    def score(z):
        return 100 * np.array([accuracy(z, test.labels), macro_accuracy(z, test.labels)])

    scores = {
        "zero-shot": score(encoded.zero_shot(test.features)),
        "debiased": score(base),
        "head": score(logits["debiased"]),
        "blend": score(linear_logits(mixed, test.features)),
    }
    found = {}

    def at(weight):
        if weight not in found:
            found[weight] = score(base + weight * chosen["factor"] * logits[_HEAD.value])
        return found[weight]

    return Pair(scores, at, chosen)


def told(name: str, gains: list[np.ndarray]) -> str:
    """One rule's line."""
    plain, macro = np.array(gains).T
    return (
        f"{name:34}{plain.mean():+6.2f}{macro.mean():+7.2f}{(plain > 0).sum():6d}"
        f"{(macro > 0).sum():6d}{plain.min():+7.1f}{macro.min():+7.1f}"
    )


def best(pairs: list[Pair], rule: Callable[[Pair, float], float], numbers) -> float:
    """The number with the largest mean gain among those that cost no pair too much."""

    def worth(number):
        gains = [pair.gain(rule(pair, number))[0] for pair in pairs]
        return min(min(gains) - LOWEST, 0), np.mean(gains)

    return max(numbers, key=worth)


def left_out(pairs: dict[tuple[str, str], Pair], rule, numbers) -> tuple[list, list[float]]:
    """Gains of a rule whose number is fitted to pairs of other sources and targets; numbers."""
    gains, taken = [], []
    for (source, target), pair in pairs.items():
        others = [p for (s, t), p in pairs.items() if s != source and t != target]
        taken.append(best(others, rule, numbers))
        gains.append(pair.gain(rule(pair, taken[-1])))
    return gains, taken


def main(_) -> None:
    """Prints both tables."""
    study = Study(encoder=Encoder(model=_MODEL.value), data=Data(), whole_domains=True)
    encoded = encode(prepare(study, training=False), print)
    domains = encoded.plan.dataset.domains
    pairs = {(s, t): look_at(encoded, s, t) for s in domains for t in domains if s != t}
    columns = ("zero-shot", "debiased", "head", "blend")
    print(f"accuracy | macro accuracy; head: {_HEAD.value}")
    print(f"{'':18}" + "".join(f"{name:>13}" for name in (*columns, "best w")) + "      w  best")
    rows = []
    for (source, target), pair in pairs.items():
        peak = max(GRID, key=lambda w: pair.at(w)[0])  # noqa: B023
        rows.append([*(pair.scores[name] for name in columns), pair.at(peak)])
        values = "".join(f"{a:7.1f} |{m:4.1f}" for a, m in rows[-1])
        print(f"{source:8} {target:8} {values} {pair.chosen['weight']:6.2f} {peak:5.2f}")
    print(f"{'mean':18}" + "".join(f"{a:7.1f} |{m:4.1f}" for a, m in np.mean(rows, axis=0)))
    print(f"\n{'points above zero-shot':34}  mean  macro above macro  worst  macro")
    print(told("debiased", [p.gain(0.0) for p in pairs.values()]))
    print(told("blend", [p.scores["blend"] - p.scores["zero-shot"] for p in pairs.values()]))
    constant, scaled = lambda _, w: w, lambda pair, k: k * min(pair.ratio, 1.0)
    power = lambda pair, k: min(pair.ratio**k, 1.0)
    for weight in (0.25, 0.5, 0.75, 1.0):
        print(told(f"w = {weight:g}", [p.gain(weight) for p in pairs.values()]))
    for name, rule, numbers in (
        ("w = k", constant, GRID),
        ("w = k min(1, accuracy / conf.)", scaled, (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)),
        ("w = min(1, accuracy / conf.)^k", power, (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)),
    ):
        gains, taken = left_out(pairs, rule, numbers)
        print(told(f"{name}, left out", gains), f" k {min(taken):g} to {max(taken):g}")
    print(
        told(
            "best w of each pair",
            [p.gain(max(GRID, key=lambda w: p.at(w)[0])) for p in pairs.values()],
        )
    )


if __name__ == "__main__":
    app.run(main)
