"""Zero-shot on another dataset after training, beside before: what a method has forgotten."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from clipjax.adapt.method import class_weights
from clipjax.adapt.step import merge
from clipjax.evaluate.forgetting import summarised
from clipjax.model.backbone import make_backbone
from clipjax.study.encode import Encoded
from clipjax.study.evaluations import cannot_answer
from clipjax.study.evaluator import check_answers, zero_shot_rows
from clipjax.study.measured import present, row_of, score
from clipjax.study.restore import Trained


def forgetting(encoded: Encoded, done: Mapping[str, Trained]) -> dict[str, Any] | None:
    """Return what results.json holds of `config.forgetting`; None without it.

    A method that answers by texts (a tuned text tower, learned prompts) names the other dataset's
    classes itself. Of any other with a tuned tower the embeddings are compared with the classes'
    texts, as CLIP does. A method whose encoder and texts are CLIP's own has the row of before.
    """
    other = encoded.elsewhere
    if other is None:
        return None
    before, rows = [row for row in zero_shot_rows(other) if row["split"] == "test"], []
    answers = {name: _answer(name, trained, encoded) for name, trained in done.items()}
    for name, trained in done.items():
        answer = answers[name]
        for variant, stacked in trained.variants.items():
            if answer is None:
                rows += [{**row, "method": name, "variant": variant} for row in before]
            else:
                rows += _measured(name, variant, trained, stacked, answer, other)
    same = [name for name, answer in answers.items() if answer is None]
    return summarised(other.plan.dataset.name, len(other.classes.names), [*before, *rows], same)


def _answer(name: str, trained: Trained, encoded: Encoded) -> Callable | None:
    """Return (params, embeddings) -> logits of the other classes; None where nothing has moved."""
    plan, other, method = encoded.plan, encoded.elsewhere, encoded.plan.methods[name]
    if not method.trains:
        return None
    if not cannot_answer(plan, method, other.plan):
        answer = trained.answer_for(other.classes)
        return lambda params, embeddings: answer(params, embeddings)[0]
    moved = trained.params.get("clip", {})
    if not (jax.tree.leaves(moved) or method.kind.alters):
        return None
    backbone = make_backbone(plan.module, lambda pixels, rng: pixels, ("image",))
    weigh = jax.jit(lambda params: class_weights(backbone, params, other.tokens))

    def by_texts(params, embeddings):
        weights = weigh(params) if "text" in params.get("clip", {}) else other.text_weights
        return other.scale * embeddings @ weights.T

    return by_texts


def _measured(
    name: str, variant: str, trained: Trained, stacked, answer: Callable, other: Encoded
) -> list[dict]:
    """Return a row for each domain of a variant's answers."""
    stacked, view = jax.device_get(stacked), trained.view.over(other)
    found: dict[tuple, list[dict]] = {part: [] for part in other.parts}
    for i in range(len(other.study.training.seeds)):
        params = merge(jax.tree.map(lambda x: x[i], stacked), trained.shared)  # noqa: B023
        placed = view.placed(params)
        for part, scores in found.items():
            images = view.features(placed, part)
            logits = np.asarray(answer(params, images.features))
            check_answers(name, "/".join(part), logits)
            among = present(other, part[0])
            scores.append(score(logits, logits[None], images.labels, among=among))
    row = lambda part: row_of(name, part, found[part], other.parts[part], variant)
    return list(map(row, found))
