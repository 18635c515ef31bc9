"""CLIP-CITE: both towers fine-tuned on few images, and kept near what they were.

Liu et al. 2024 (arXiv 2407.04003), with their weights:

    L = DVA + 0.7 SCL + 0.1 VLD

a classifier of images by a table that starts at the texts, a contrastive loss of images and texts
that knows classes, and the divergence from the similarities of the encoder as it came
(`clipjax.adapt.similarities`). There is no public code. What its equations leave open, and what is
taken here:

- They have no factor on similarities but the first: CLIP's own, without a gradient, everywhere;
  `..._scale=1` is the letter.
- They are sums over the batch: means. Equation 4 adds both directions: their mean, so that 1.4 is
  the letter's weight.
- Equation 4 lacks its minus sign, and the pair in its denominator, with which alone it is FLYP's
  for a batch of different classes: `contrastive_denominator="exclude"` has the pair and other
  classes. The letter is "negatives", where rows without any count as 0.
- "Freeze the text encoder, W and theta_I learnable": W is a table of its own, trained with the
  image tower and used by no prediction, and the text tower learns from the other terms.
  `alignment="text"` has the text tower itself as W.
- Similarities of equation 5 are of "the batch" and of C classes: `distill_over="batch"`.
- D_KL(p, q) with p the student's, as written: `distill_direction="student_teacher"`.

Use heads = {"text": True} and freeze = (); `wise` draws both towers back to zero-shot's. Freezing
"table" is the paper's FrozenTC, "clip/text/.*" its FrozenTE. What gets no gradient stays, and does
not decay either: the temperature always, the text tower where the table is all that is learned of
texts.
"""

import jax
import jax.numpy as jnp

from clipjax.adapt.losses import label_accuracy
from clipjax.adapt.method import (
    Backbone,
    Classes,
    Compared,
    Head,
    Method,
    by_texts,
    class_weights,
)
from clipjax.adapt.similarities import unit, visual_alignment
from clipjax.adapt.terms import add_terms

ALIGNMENTS = ("table", "text")
TABLE = "table"  # the name of the table among the method's own parameters


def make_method(
    backbone: Backbone,
    classes: Classes,
    *,
    head: Head,
    alignment_weight: float = 1.0,
    alignment: str = "table",
    alignment_scale: float = 0.0,
    contrastive_weight: float = 0.7,
    contrastive_denominator: str = "exclude",
    contrastive_scale: float = 0.0,
    distill_weight: float = 0.1,
    distill_over: str = "batch",
    distill_direction: str = "student_teacher",
    distill_scale: float = 0.0,
) -> Method:
    """CLIP-CITE on a backbone; the other options are those of `clipjax.adapt.terms.add_terms`.

    A step encodes as many texts as it has images, or as there are classes, if these are fewer or
    all compared.

    Args:
      alignment_weight: factor on `clipjax.adapt.similarities.visual_alignment`; 0: no table.
      alignment: what images are classified by in training, "table" or "text".
      alignment_scale: factor on these similarities; 0: CLIP's own.

    Raises:
      ValueError: heads without a text tower, an unknown `alignment`, a negative number.
    """
    if "text" not in head.towers:
        raise ValueError("cite answers by prompts; use heads = {'text': True}.")
    _check_alignment(alignment, alignment_weight, alignment_scale)
    if not (alignment_weight or contrastive_weight or distill_weight):
        raise ValueError("alignment_weight, contrastive_weight and distill_weight are all 0.")
    every = alignment == "text" or (distill_weight and distill_over == "classes")
    taught = alignment == "text" or contrastive_weight or distill_weight
    made = _aligned(
        backbone, classes, head, alignment, alignment_weight, alignment_scale, bool(every)
    )
    return add_terms(
        made._replace(constants=("clip/logit_scale", *(() if taught else ("clip/text",)))),
        backbone,
        classes,
        contrastive_weight=contrastive_weight,
        contrastive_denominator=contrastive_denominator,
        contrastive_scale=contrastive_scale,
        distill_weight=distill_weight,
        distill_over=distill_over,
        distill_direction=distill_direction,
        distill_scale=distill_scale,
    )


def _check_alignment(kind: str, weight: float, scale: float) -> None:
    """Raise ValueError for options of the alignment."""
    if kind not in ALIGNMENTS:
        raise ValueError(f"unknown alignment {kind!r}; known: {', '.join(ALIGNMENTS)}.")
    for name, number in {"alignment_weight": weight, "alignment_scale": scale}.items():
        if number < 0:
            raise ValueError(f"{name} is {number}; it must not be negative.")
    if not weight and (scale or kind != ALIGNMENTS[0]):
        which = "alignment_scale" if scale else "alignment"
        raise ValueError(f"{which} has no effect with alignment_weight=0; leave it out.")


def _aligned(
    backbone: Backbone,
    classes: Classes,
    head: Head,
    kind: str,
    alignment_weight: float,
    alignment_scale: float,
    every: bool,
) -> Method:
    """The method with the alignment alone; `every`: each step encodes the texts of all classes."""
    has_table = bool(alignment_weight) and kind == "table"

    def init(rng):
        own = {TABLE: jnp.asarray(classes.weights)} if has_table else {}
        return {**head.init(rng), **own}

    def compare(params, source, rng):
        image, label = backbone.encode["image"](params, source["inputs"], rng), source["label"]
        scale, tokens = jax.lax.stop_gradient(backbone.scale(params)), jnp.asarray(classes.tokens)
        if every or len(tokens) <= len(label):
            return Compared(image, class_weights(backbone, params, tokens), label, scale)
        text = class_weights(backbone, params, tokens[label])
        return Compared(image, text, jnp.arange(len(label)), scale)

    def judge(params, seen, batch, rng, progress):
        if not alignment_weight:
            return jnp.float32(0.0), {}
        source = batch["source"]
        label, weight = source["label"], source.get("weight")
        table = unit(params[TABLE]) if has_table else seen.text
        value = visual_alignment(seen.image, table, label, alignment_scale or seen.scale, weight)
        right = label_accuracy(seen.image @ table.T, label, weight)
        return alignment_weight * value, {"class_loss": value, "source_accuracy": right}

    return by_texts(backbone, head, compare, judge)._replace(init=init)
