"""The verdict of a run: the method to take, its margins and how sure they are, what next."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clipjax.evaluate import steps
from clipjax.evaluate.choice import AGREES, ZERO_SHOT, mean
from clipjax.evaluate.rows import lines_of, own_rows

RESAMPLES = 10_000  # of the bootstrap
ONE_CLASS = 0.9  # share of the target's images in one class that is worth a warning
METHODS = "paired bootstrap over the test images (95 %), ± standard deviation over seeds"
Right = Mapping[str, np.ndarray]


def decide(
    results: Mapping[str, Any],
    right: Right,
    *,
    source_only: Sequence[str] = (),
    hints: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the verdict on a run, the part "verdict" of results.json.

    Args:
      results: the rest of results.json: rows, "choice" where methods were compared, ...
      right: by method, bool [seeds, N], whether its answers to the labelled test images of the
        target are right; N is 0, or the mapping empty, where none has a label.
      source_only: the methods that see nothing of the target; the best of them on held-out source
        images is compared with.
      hints: what the next step may change (`clipjax.evaluate.steps.Case.hints`).

    Returns:
      "target"; "n", its labelled test images (0: nothing was measured); "method", the one to take,
      None where nothing chose; "rule" by which, "why" in words; "source_only", the method compared
      with, or None; "accuracies": {method: {"points", "low", "high", "seed_std", "each" seed's}}
      in %, of zero-shot, source-only and the taken one; "majority", the accuracy in % of always
      answering the most frequent class, or None; "margins": {"zero_shot", "source_only": the same
      keys in points, and "clear"}; "warnings": [{"kind", "methods", "words"}]; "next": {"rule",
      "words", "add", "command"} (`clipjax.evaluate.steps.next_step`).

    "low" to "high" is the 95 % interval of a bootstrap over the test images, paired where it is of
    a difference, each image's answers averaged over seeds. A margin is "clear" if that interval
    leaves 0 out and every seed is on one side of it.
    """
    target, choice = results["data"]["target"], results.get("choice") or {}
    known = {name: hits for name, hits in right.items() if hits.shape[-1]}
    compared = {each["method"] for each in results["rows"]} - {ZERO_SHOT}
    method = choice.get("pick") if compared else ZERO_SHOT
    source = _best_on_source(results, [name for name in source_only if name in right])
    ends = {"zero_shot": ZERO_SHOT, "source_only": source}
    shown = [name for name in dict.fromkeys((*ends.values(), method)) if name in known]
    margins = {
        end: _margin(known[method], known[name])
        for end, name in ends.items()
        if name != method and {name, method} <= known.keys()
    }
    most = (results.get("majority") or {}).get(target)
    found = {
        "target": target,
        "n": int(next(iter(known.values())).shape[-1]) if known else 0,
        "method": method,
        "rule": choice.get("rule"),
        "why": _why(results, method),
        "source_only": source,
        "accuracies": {name: _interval(known[name].astype(float)) for name in shown},
        "majority": None if most is None else round(100 * most, 4),
        "margins": margins,
        "warnings": warnings(results),
    }
    return found | {
        "next": steps.next_step(steps.Case(results, found, bool(compared), hints or {}))
    }


def _best_on_source(results: Mapping, names: Sequence[str]) -> str | None:
    """Return which method is best on held-out source images; None of none."""
    rows = own_rows(results["rows"], "val")
    score = lambda name: rows.get((name, results["data"]["source"]), {}).get("accuracy_mean") or 0.0
    return max(names, key=score) if names else None


def _margin(ours: np.ndarray, others: np.ndarray) -> dict[str, Any]:
    """Compare two methods' answers, bool [seeds, N] each; one seed stands beside each of others."""
    ours, others = (hits.astype(float) for hits in (ours, others))
    if min(len(ours), len(others)) == 1 or len(ours) == len(others):
        found = _interval(ours - others)
    else:
        found = _interval((ours.mean(axis=0) - others.mean(axis=0))[None])
    low, high, each = found["low"], found["high"], found["each"]
    clear = low > 0 and min(each) > 0 or high < 0 and max(each) < 0
    return found | {"clear": clear}


def _interval(values: np.ndarray) -> dict[str, Any]:
    """Return the mean of values [seeds, N] in %, its bootstrap interval, the spread over seeds."""
    each, images = 100 * values.mean(axis=1), values.mean(axis=0)
    # Few different values: a resample of the images is a draw of how often each occurs.
    kinds, counts = np.unique(images.round(9), return_counts=True)
    drawn = np.random.default_rng(0).multinomial(len(images), counts / len(images), RESAMPLES)
    low, high = 100 * np.quantile(drawn @ kinds / len(images), (0.025, 0.975))
    spread = each.std(ddof=1) if len(each) > 1 else 0.0
    found = {"points": each.mean(), "low": low, "high": high, "seed_std": spread}
    return {k: round(float(v), 4) for k, v in found.items()} | {"each": each.round(4).tolist()}


def _why(results: Mapping, method: str | None) -> str:
    """Say by which rule the method was chosen."""
    if not (found := results.get("choice")) or method is None:
        return ""
    target, rule = results["data"]["target"], found["rule"]
    if ZERO_SHOT not in found["scores"]:
        best = mean(found["scores"][method][rule])
        return f"best {rule.replace('_', ' ')} ({best:.2f}) of the run's methods"
    where = f"{100 * AGREES:.0f} % of {found['n']} unlabelled images of {target}"
    how = f"{rule.replace('_', ' ')} among methods that agree with zero-shot on {where}"
    if method == ZERO_SHOT:
        out = "; ".join(f"{name} {why}" for name, why in found["refused"].items())
        return f"no method is better by {how}" + (f" (not taken: {out})" if out else "")
    ours, before = (mean(found["scores"][name][rule]) for name in (method, ZERO_SHOT))
    return f"best {how} ({ours:.2f}, zero_shot {before:.2f})"


def warnings(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what looks better than it is on the target: [{"kind", "methods", "words"}].

    "one_class": nearly all test images get one class; "below_majority": no better than always
    answering the most frequent class; "below_zero_shot".
    """
    target, found = results["data"]["target"], []
    rows = {line.name: line.rows.get(target, {}) for line in lines_of(results["rows"])}
    for name, row in rows.items():
        shares = row.get("top_class_share")
        if shares and None not in shares and np.mean(shares) > ONE_CLASS:
            share = f"{100 * np.mean(shares):.0f} % of the target's test images"
            words = f"{name} predicts one class for {share}"
            found.append({"kind": "one_class", "methods": [name], "words": words})
    most = (results.get("majority") or {}).get(target)
    said = [f"always the most frequent class of {target}"]
    said += [] if most is None else [f"{100 * most:.1f} %"]
    for kind, words in (
        ("below_majority", f"no better than {' ('.join(said)})"),
        ("below_zero_shot", f"below zero-shot on {target}"),
    ):
        if names := [name for name, row in rows.items() if row.get(kind)]:
            told = f"{', '.join(names)}: {words}"
            found.append({"kind": kind, "methods": names, "words": told})
    return found


def told(results: Mapping[str, Any], workdir: Any = None, quote: str = "") -> list[str]:
    """Return the headline, then evidence, warnings and next step, without full stops; [] of none.

    `workdir` is the run's folder, which commands name; they stand between `quote`s.
    """
    if not (found := results.get("verdict")):
        return []
    warned = [f"warning: {each['words']}" for each in found["warnings"]]
    after = f"next: {steps.told(found['next'], workdir, quote)}"
    return [headline(found), *sentences(found), *warned, after]


def headline(found: Mapping[str, Any]) -> str:
    """Say what to take, in one sentence without a full stop.

    >>> headline({"method": "blend", "target": "sketch"})
    'take blend for sketch'
    """
    method, target = found["method"], found["target"]
    if method is None:
        return f"nothing was chosen for {target}"
    plain = ", without adaptation" if method == ZERO_SHOT else ""
    return f"take {method}{plain} for {target}"


def sentences(found: Mapping[str, Any]) -> list[str]:
    """Say what the verdict rests on, sentences without full stops: measured, margins, why."""
    method, target, said = found["method"], found["target"], []
    accuracies = found["accuracies"]
    if not found["n"]:
        said.append(f"test accuracy on {target}: no labels, not measured")
    elif method in accuracies:
        told = f"{_accuracy(accuracies[method])} of {found['n']} test images of {target}"
        most = found["majority"]
        said.append(told + (f"; always its most frequent class: {most:.1f} %" if most else ""))
    names = {"zero_shot": ZERO_SHOT, "source_only": found["source_only"]}
    for end, margin in found["margins"].items():
        other, percent = names[end], f"{accuracies[names[end]]['points']:.1f} %"
        inside = percent if other == ZERO_SHOT else f"{other}, {percent}"
        told = f"{_points(margin)} against {end.replace('_', '-')} ({inside})"
        said.append(told + ("" if margin["clear"] else ", within the noise"))
    said += [f"intervals: {METHODS}"] if found["margins"] else []
    return said + [each for each in [found["why"]] if each]


def _accuracy(found: Mapping) -> str:
    return f"{found['points']:.1f} % ({found['low']:.1f} to {found['high']:.1f}{_seeds(found)})"


def _points(found: Mapping) -> str:
    ends = f"{found['low']:+.1f} to {found['high']:+.1f}"
    return f"{found['points']:+.1f} points ({ends}{_seeds(found)})"


def _seeds(found: Mapping) -> str:
    """Write the spread over seeds, where there is one."""
    some, n = found["seed_std"], len(found["each"])
    return f", ± {some:.1f} over {n} seeds" if some else ""


def against_zero_shot(results: Mapping[str, Any], method: str, variant: str = "") -> str:
    """Say that a method is below zero-shot on its target's test images; "" where it is not.

    Of a `variant` the same, in place of the method's own result.

    >>> row = {"metric": "accuracy", "classes": "all", "split": "test", "variant": "last"}
    >>> row |= {"domain": "scan", "accuracy_mean": 0.4}
    >>> both = [row | {"method": "zero_shot", "accuracy_mean": 0.5}, row | {"method": "a"}]
    >>> against_zero_shot({"rows": both, "data": {"target": "scan"}}, "a")
    'a is below zero-shot on the test images of scan, 40.0 against 50.0 %'
    """
    test = own_rows(results["rows"])
    mine = lambda line: line.variant == variant if variant else line.own
    lines = [line for line in lines_of(results["rows"]) if line.method == method and mine(line)]
    own = {domain: row for line in lines for domain, row in line.rows.items()}
    # Of a sweep over targets the method's own, which is marked.
    marked = [domain for domain, row in own.items() if row.get("below_zero_shot")]
    domain = (marked or [results["data"]["target"]])[0]
    rows = own.get(domain, {}), test.get((ZERO_SHOT, domain), {})
    ours, zero = (row.get("accuracy_mean") for row in rows)
    if ours is None or zero is None or ours >= zero:
        return ""
    told = f"{f'{method} {variant}'.strip()} is below zero-shot on the test images of {domain}"
    return f"{told}, {100 * ours:.1f} against {100 * zero:.1f} %"
