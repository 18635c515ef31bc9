"""The verdict of a finished study, from its methods' answers to the target's test images."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from clipjax.adapt.method import VALIDATION
from clipjax.data.unlabelled import labelled
from clipjax.evaluate.verdict import decide
from clipjax.study.encode import Encoded
from clipjax.study.evaluator import Outcome
from clipjax.study.methods import Method

ADVERSARIAL = "lam_max"  # the option of losses that reverse a gradient


def conclude(
    encoded: Encoded, outcomes: Mapping[str, Outcome], results: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the verdict (`clipjax.evaluate.verdict.decide`) by the outcomes of the run's target.

    Images of the target without a label measure nothing.
    """
    study, methods = encoded.study, encoded.plan.methods
    labels = np.asarray(encoded.parts[study.data.target, "test"].labels)
    known = labelled(labels)
    right = {
        name: outcome.logits[:, known].argmax(axis=-1) == labels[known]
        for name, outcome in outcomes.items()
    }
    lambdas = {
        name: phase.options[ADVERSARIAL]
        for name, method in methods.items()
        for phase in method.phases
        if phase.options.get(ADVERSARIAL)
    }
    hints = {
        "prompts": study.encoder.prompts,
        "model": study.encoder.model,
        "texts": encoded.has_texts,
        "lam_max": lambdas,
        "losses": sorted({method.config.loss for method in methods.values()}),
    }
    alone = [name for name, method in methods.items() if name in outcomes and _source_only(method)]
    return decide(results, right, source_only=alone, hints=hints)


def _source_only(method: Method) -> bool:
    """Whether nothing of the target, and no answer of zero-shot, reaches a method."""
    free = {"source", "support", VALIDATION}.issuperset(method.kind.reads)
    free = free and method.config.align == "none"
    return free and method.data.labels == "source"
