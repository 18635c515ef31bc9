"""Rows of trained methods on the evaluations of other classes (`config.evaluations`)."""

import jax

from clipjax.adapt.step import merge
from clipjax.study.encode import Encoded
from clipjax.study.evaluations import of_own
from clipjax.study.evaluator import check_answers
from clipjax.study.measured import groups_of, present, row_of, score
from clipjax.study.restore import Trained


def other_rows(name: str, trained: Trained, encoded: Encoded) -> list[dict]:
    """Return a trained method's rows on `study.evaluations`: other classes, among themselves.

    Of classes that are some of the run's own they are the run's answers without the others.
    """
    rows: list[dict] = []
    for asked, other in encoded.others.items():
        mine, answer = of_own(encoded.plan, other.plan), trained.answer
        if mine is None:
            answer = trained.answer_for(other.classes)
        view = trained.view.over(other)
        for variant, stacked in trained.variants.items():
            stacked, found = jax.device_get(stacked), {part: [] for part in other.parts}
            for i in range(len(encoded.study.training.seeds)):
                params = merge(jax.tree.map(lambda x: x[i], stacked), trained.shared)  # noqa: B023
                placed = view.placed(params)
                for part, scores in found.items():
                    images = view.features(placed, part)
                    logits, members, _ = answer(params, images.features)
                    check_answers(name, "/".join(part), logits, members)
                    if mine is not None:
                        logits, members = logits[:, mine], members[..., mine]
                    about = groups_of(other, *part), present(other, part[0])
                    scores.append(score(logits, members, images.labels, *about))
            for part, scores in found.items():
                rows.append(row_of(name, part, scores, other.parts[part], variant, asked))
    return rows
