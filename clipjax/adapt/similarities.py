"""Losses on similarities of images and texts: CLIP-CITE's three, each a pure function.

Liu et al. 2024 (arXiv 2407.04003). Where its equations leave something open, the functions have an
argument; `clipjax.adapt.cite` says which default is whose. All are means over the batch where the
paper has sums: the terms weigh the same against each other, and Adam ignores a common factor.
Embeddings have length 1, weights are those of `clipjax.adapt.losses.weigh`: what padding holds
reaches neither values nor gradients, as a row or as a column.
"""

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.adapt.checks import check_weight
from clipjax.adapt.losses import Axis, smoothed_cross_entropy, weighted_mean

DENOMINATORS = ("exclude", "negatives", "diagonal", "soft")
DIRECTIONS = ("student_teacher", "teacher_student")


def text_ids(tokens: jax.Array) -> np.ndarray:
    """Number the texts of classes, tokens int32 [K, prompts, T]: int [K], equal of equal texts.

    >>> text_ids(np.array([[[3, 4]], [[1, 2]], [[3, 4]]])).tolist()
    [1, 0, 1]
    """
    tokens = np.asarray(tokens)
    return np.unique(tokens.reshape(len(tokens), -1), axis=0, return_inverse=True)[1].reshape(-1)


def visual_alignment(
    image: jax.Array,
    table: jax.Array,
    label: jax.Array,
    scale: jax.Array | float,
    weight: jax.Array | None = None,
) -> jax.Array:
    """Cross-entropy of cosine similarities with a class table (DVA, equations 2 and 3), in nats.

    Args:
      image: float [B, P].
      table: float [K, P], of any length: its rows are normalised here.
      label: int [B].
      scale: factor on the similarities. With 1, as equation 2 has it, the loss of 1,000 classes
        cannot fall below 4.9.
      weight: float [B].
    """
    return smoothed_cross_entropy(scale * image @ unit(table).T, label, weight=weight)


def unit(rows: jax.Array) -> jax.Array:
    """Scale rows [..., P] to length 1.

    >>> unit(jnp.array([[3.0, 4.0], [0.0, 0.0]])).round(1).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    return rows / jnp.maximum(jnp.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def supervised_contrastive(
    image: jax.Array,
    text: jax.Array,
    ids: jax.Array,
    scale: jax.Array | float,
    denominator: str = "exclude",
    weight: jax.Array | None = None,
    axis_name: Axis = None,
) -> jax.Array:
    """Symmetric contrastive loss of a batch's pairs that knows equal texts (SCL, equation 4).

    In nats, the mean of both directions, as in CLIP and FLYP; equation 4 adds them, so that half of
    its weight is meant here. Its missing minus sign is here.

    Args:
      image, text: float [B, P]; row i of both is a pair.
      ids: int [B], the number of each text; pairs of equal texts are of one class.
      scale: factor on the similarities.
      denominator: what stands below an image's own pair: "exclude", the pair and other classes;
        "negatives", other classes alone, as the equation is printed, which has no lower bound and
        is 0 for rows without any; "diagonal", all pairs (FLYP, Goyal et al. 2023); "soft", all
        pairs, and those of the class share the target (UniCL, Yang et al. 2022).
      weight: float [B].
      axis_name: of the axis that `jax.pmap` or `jax.shard_map` maps, if the batch is cut along it:
        a device compares its pairs with those of all; the mean over devices is the batch's loss.

    Raises:
      ValueError: an unknown denominator, or shapes that are no pairs.

    >>> image, ids = jnp.eye(2), jnp.array([0, 0])
    >>> kinds = [supervised_contrastive(image, image, ids, 1.0, kind) for kind in DENOMINATORS]
    >>> [round(float(value), 4) for value in kinds]
    [0.0, 0.0, 0.3133, 0.8133]
    """
    if denominator not in DENOMINATORS:
        known = ", ".join(DENOMINATORS)
        raise ValueError(f"unknown denominator {denominator!r}; known: {known}.")
    if image.shape != text.shape or ids.shape != image.shape[:1]:
        shapes = f"images {image.shape}, texts {text.shape} and numbers {ids.shape}"
        raise ValueError(f"{shapes} are no pairs; give [B, P], [B, P] and [B].")
    weight = jnp.ones(len(image), jnp.float32) if weight is None else weight
    check_weight(weight, len(image))
    blank = lambda x: jnp.where(weight[:, None] != 0, x, 0).astype(jnp.float32)
    own = blank(image), blank(text), ids, weight
    images, texts, all_ids, all_weights, first = *own, 0
    if axis_name is not None:
        images, texts, all_ids, all_weights = jax.lax.all_gather(own, axis_name, tiled=True)
        first = len(image) * jax.lax.axis_index(axis_name)
    pair = jnp.arange(len(image))[:, None] + first == jnp.arange(len(images))[None]
    same = ids[:, None] == all_ids[None]
    there = {
        "exclude": ~same | pair,
        "negatives": ~same,
        "diagonal": jnp.ones_like(same),
        "soft": jnp.ones_like(same),
    }[denominator] & (all_weights != 0)[None] | (pair & (denominator != "negatives"))
    positive = same & there | pair if denominator == "soft" else pair
    targets = positive / positive.sum(axis=1, keepdims=True)
    some = there.any(axis=1, keepdims=True)  # a row without negatives counts as 0

    def one_way(rows, columns):
        logits = scale * rows @ columns.T
        below = jax.nn.logsumexp(jnp.where(there | ~some, logits, -jnp.inf), axis=1)
        above = jnp.sum(targets * logits, axis=1)
        return weighted_mean(jnp.where(some[:, 0], below - above, 0.0), weight)

    return 0.5 * (one_way(own[0], texts) + one_way(own[1], images))


def negative_share(ids: jax.Array, weight: jax.Array | None = None) -> jax.Array:
    """Mean share of the batch that is of another text than a pair, float32 [].

    >>> round(float(negative_share(jnp.array([0, 0, 1]))), 4)
    0.4444
    """
    weight = jnp.ones(len(ids), jnp.float32) if weight is None else weight
    other = ids[:, None] != ids[None]
    return weighted_mean(jnp.mean(other * weight[None], axis=1), weight)


def similarity_distillation(
    student: jax.Array,
    teacher: jax.Array,
    direction: str = "student_teacher",
    weight: jax.Array | None = None,
    there: jax.Array | None = None,
) -> jax.Array:
    """Divergence of answers from a teacher's (VLD, equation 5), in nats, a mean over images.

    Args:
      student, teacher: scaled similarities of the same images and texts, float [B, N]; over the
        texts they are made probabilities p and q. The teacher gets no gradient.
      direction: "student_teacher" is KL(p || q), as the paper writes it; "teacher_student" is
        KL(q || p), which is usual and what `torch.nn.functional.kl_div(log p, q)` computes.
      weight: float [B], of the images.
      there: bool [N], the texts that are no padding.

    Raises:
      ValueError: an unknown direction, or a teacher of other images or texts.

    >>> student, teacher = jnp.log(jnp.array([[0.5, 0.5]])), jnp.log(jnp.array([[0.75, 0.25]]))
    >>> ways = [similarity_distillation(student, teacher, way) for way in DIRECTIONS]
    >>> [round(float(value), 4) for value in ways]
    [0.1438, 0.1308]
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"unknown direction {direction!r}; known: {', '.join(DIRECTIONS)}.")
    if student.shape != teacher.shape:
        shapes = f"the student's similarities are {student.shape}, the teacher's {teacher.shape}"
        raise ValueError(f"{shapes}; give both of the same images and texts.")
    there = jnp.ones(student.shape[1], bool) if there is None else there
    rows = jnp.ones(len(student), bool) if weight is None else weight != 0

    def shares(logits):  # where a text is no padding
        logits = jnp.where(rows[:, None] & there[None], logits, 0).astype(jnp.float32)
        return jax.nn.log_softmax(jnp.where(there[None], logits, -jnp.inf), axis=1)

    own, taught = shares(student), shares(jax.lax.stop_gradient(teacher))
    one, other = (own, taught) if direction == "student_teacher" else (taught, own)
    apart = jnp.where(there[None], one - other, 0.0)
    return weighted_mean(jnp.sum(jnp.exp(one) * apart, axis=1), weight)
