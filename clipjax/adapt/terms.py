"""Terms that are added to the loss of any method that answers by texts: options of all of these.

CLIP-CITE's supervised contrastive loss and its distillation of similarities (Liu et al. 2024, arXiv
2407.04003), which its Table 6 adds to prompt learning. They compare the embeddings that the method
compares (`clipjax.adapt.method.Compared`), so that no tower runs twice; for a method that does not
tell them, as DANN with CLIP's text tower as its head, both towers run once more.
"""

import jax
import jax.numpy as jnp

from clipjax.adapt.checks import check_domain
from clipjax.adapt.losses import weigh
from clipjax.adapt.method import Backbone, Classes, ClosedForm, Compared, Method, compare_classes
from clipjax.adapt.similarities import (
    DENOMINATORS,
    DIRECTIONS,
    negative_share,
    similarity_distillation,
    supervised_contrastive,
    text_ids,
)

OVER = ("batch", "classes")


def add_terms(
    made: Method | ClosedForm,
    backbone: Backbone,
    classes: Classes,
    text_head: bool = False,
    *,
    contrastive_weight: float = 0.0,
    contrastive_denominator: str = "exclude",
    contrastive_scale: float = 0.0,
    distill_weight: float = 0.0,
    distill_over: str = "batch",
    distill_direction: str = "student_teacher",
    distill_scale: float = 0.0,
) -> Method | ClosedForm:
    """A method whose loss has further terms; it is as it was where their weights are 0.

    The teacher is the encoder as it came, of the same crops, and its texts are the zero-shot class
    weights. Neither it nor any factor on similarities gets a gradient of these terms.

    Args:
      made: a method on the backbone and these classes.
      text_head: whether its head is CLIP's text tower.
      contrastive_weight: factor on `supervised_contrastive` of the source's images and their
        classes' texts; classes whose prompts are all the same are one.
      contrastive_denominator: of it.
      contrastive_scale: factor on its similarities; 0: the method's own.
      distill_weight: factor on `similarity_distillation` from the encoder as it came.
      distill_over: the texts that it compares: those of the batch's images, or of all classes.
      distill_direction: of it.
      distill_scale: factor on its similarities, the teacher's too; 0: each one's own.

    Raises:
      ValueError: a negative number, an unknown name, an option of a term whose weight is 0, or a
        method that does not answer by texts.
    """
    _check(
        {"contrastive_weight": contrastive_weight, "contrastive_scale": contrastive_scale},
        {"contrastive_denominator": (contrastive_denominator, DENOMINATORS)},
    )
    _check(
        {"distill_weight": distill_weight, "distill_scale": distill_scale},
        {
            "distill_over": (distill_over, OVER),
            "distill_direction": (distill_direction, DIRECTIONS),
        },
    )
    if not (contrastive_weight or distill_weight):
        return made
    compare, judge = _two_steps(made, backbone, classes, text_head)
    if compare is None:
        which = "contrastive_weight" if contrastive_weight else "distill_weight"
        raise ValueError(
            f"{which} compares with texts, by which this method does not answer; use "
            "heads = {'text': True}, or learned prompts."
        )

    def loss(params, batch, rng, progress):
        batch = weigh(batch)
        source = check_domain(batch, "source", "inputs", "label")
        look, more = (None, None) if rng is None else jax.random.split(rng)
        seen = compare(params, source, look)
        value, metrics = judge(params, seen, batch, more, progress)
        if contrastive_weight:
            kind = contrastive_denominator
            term, told = _contrastive(seen, source, classes, contrastive_scale, kind)
            value, metrics = value + contrastive_weight * term, metrics | told
        if distill_weight:
            image, over = _taught(backbone, params, source, look), distill_over
            term, told = _distill(
                seen, source, classes, image, distill_scale, distill_direction, over
            )
            value, metrics = value + distill_weight * term, metrics | told
        return value, metrics

    reads = dict.fromkeys((*made.reads, *(("teacher",) if distill_weight else ())))
    return made._replace(loss=loss, reads=tuple(reads), per_example=False)


def _two_steps(made, backbone: Backbone, classes: Classes, text_head: bool):
    """`Method.compare` and `judge`; (None, None) of a method that does not answer by texts."""
    compare, judge = getattr(made, "compare", None), getattr(made, "judge", None)
    if compare is None and text_head and isinstance(made, Method):
        compare = compare_classes(backbone, classes)
        judge = lambda params, seen, batch, rng, progress: made.loss(params, batch, rng, progress)
    return compare, judge


def _contrastive(seen: Compared, source, classes: Classes, scale: float, denominator: str):
    """The contrastive loss of a batch's images and their classes' texts, and its metrics."""
    ids = jnp.asarray(text_ids(classes.tokens))[source["label"]]
    scale, weight = scale or jax.lax.stop_gradient(seen.scale), source.get("weight")
    value = supervised_contrastive(seen.image, seen.text[seen.row], ids, scale, denominator, weight)
    return value, {"contrastive_loss": value, "negatives": negative_share(ids, weight)}


def _distill(
    seen: Compared, source, classes: Classes, image, scale: float, direction: str, over: str
):
    """The distillation from the teacher's embeddings of the images [B, P], and its metric."""
    weight, there = source.get("weight"), None
    own, taught = seen.text, jnp.asarray(classes.weights)
    if over == "batch":
        own, taught = own[seen.row], taught[source["label"]]
        there = None if weight is None else weight != 0
    one, other = scale or jax.lax.stop_gradient(seen.scale), scale or classes.scale
    value = similarity_distillation(
        one * seen.image @ own.T, other * image @ taught.T, direction, weight, there
    )
    return value, {"distill_loss": value}


def _check(numbers: dict[str, float], names: dict[str, tuple[str, tuple[str, ...]]]) -> None:
    """Raise ValueError for options of a term; the first of the numbers is its weight."""
    for name, number in numbers.items():
        if number < 0:
            raise ValueError(f"{name} is {number}; it must not be negative.")
    for name, (value, known) in names.items():
        if value not in known:
            raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}.")
    (weight, factor), (scale, number) = numbers.items()
    changed = [scale] * bool(number)
    changed += [name for name, (value, known) in names.items() if value != known[0]]
    if not factor and changed:
        raise ValueError(f"{changed[0]} has no effect with {weight}=0; leave it out.")


def _taught(backbone: Backbone, params, source, look) -> jax.Array:
    """The teacher's embeddings of the source's images; cached ones are the teacher's own."""
    if "image" in backbone.cached:
        return source["inputs"]
    if "teacher" not in params:
        raise ValueError(
            "distill_weight needs a teacher: the original encoder as params['teacher']."
        )
    teacher, own = (_shapes(params[name]) for name in ("teacher", "clip"))
    for name in sorted(own.keys() & teacher.keys()):
        if own[name] != teacher[name]:
            shapes = f"the teacher's {name} is {teacher[name]}, the student's {own[name]}"
            raise ValueError(f"{shapes}; a teacher is the student's encoder before training.")
    return backbone.encode["image"]({"clip": params["teacher"]}, source["inputs"], look)


def _shapes(params) -> dict[str, tuple[int, ...]]:
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    return {name(path): x.shape for path, x in jax.tree_util.tree_leaves_with_path(params)}
