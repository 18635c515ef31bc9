"""Learned context among the tokens of class texts: what CoOp and its successors have in common.

A text is BOS, context, name, full stop, EOS; M vectors of context stand for the words of a template
(Zhou et al. 2022, arXiv 2109.01134). They replace embeddings before positions are added.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.adapt.method import Backbone, Classes

PyTree = Any
POSITIONS = ("end", "middle", "front")  # of the class name
CHUNK = 64  # texts encoded at once
RANDOM = 16  # vectors, where no words are given


class Layout(NamedTuple):
    """Where context and names stand in the texts of K classes."""

    ids: np.ndarray  # int32 [K, L], with a placeholder where context stands
    rows: np.ndarray  # int32 [K, L]: which vector of context stands here; -1: the token's own


def lay_out(texts: Classes, length: int, position: str, text: Any) -> Layout:
    """Put `length` vectors of context before, into the middle of, or behind the names' places.

    `position` is that of the name: behind all context ("end"), behind its first half ("middle") or
    before it ("front"). `text` has the text tower's sizes. ValueError: a text is too long, or
    `texts` have no bare names.
    """
    if texts.bare is None:
        raise ValueError("learned context needs the classes' bare names: Classes.bare is None.")
    bare, eos, most = np.asarray(texts.bare), text.eos_token_id, text.max_position_embeddings
    ends = np.argmax(bare if eos == 2 else bare == eos, axis=1)  # as the tower pools
    if (longest := int(ends.max()) + 1 + length) > most:
        name = texts.names[int(ends.argmax())]
        raise ValueError(
            f"{length} vectors of context and {name!r} are {longest} tokens, and the text tower "
            f"takes {most}; give at most {length - longest + most} of context, or shorter "
            "class_names."
        )
    before = {"end": length, "middle": length // 2, "front": 0}[position]
    ids = np.zeros((len(bare), longest), np.int32)
    rows = np.full_like(ids, -1)
    for k, (row, end) in enumerate(zip(bare, ends, strict=True)):
        stop = row[end - 1]  # stands for context, too: no other token marks an end
        context = np.full(length, stop)
        line = [row[:1], context[:before], row[1 : end - 1], context[before:]]
        ids[k] = np.concatenate([*line, [stop], np.full(longest, row[end])])[:longest]
        rows[k, 1 : 1 + before] = np.arange(before)
        rest = before + end - 1
        rows[k, rest : rest + length - before] = np.arange(before, length)
    return Layout(ids, rows)


class Context(NamedTuple):
    """Learned context of class texts."""

    init: Callable[[jax.Array], jax.Array]  # rng -> vectors, float32 [M, D] or [K, M, D]
    # (params, vectors, texts, deep=None) -> normalised embeddings float32 [K, P].
    encode: Callable[..., jax.Array]
    # (params, vectors [B, M, D], images [B, P], texts) -> similarities [B, K], each image with
    # context of its own.
    compare: Callable[..., jax.Array]
    length: Callable[[], int]  # M
    step_bytes: Callable[[int], int]  # texts -> bytes of activations that their gradient needs
    words: tuple[str, ...]  # for `Method.words`


def make_context(
    backbone: Backbone,
    classes: Classes,
    *,
    context: int = 0,
    words: str = "",
    position: str = "end",
    per_class: bool = False,
    learned: int = 0,
    chunk: int = CHUNK,
) -> Context:
    """Make the context of a method.

    Args:
      context: M, the vectors; 0: as many as `words`, and without words 16.
      words: whose embeddings the vectors start from; "": from N(0, 0.02^2).
      position: of the class name, see `lay_out`.
      per_class: vectors of their own for each class (CSC), which answer for no other class.
      learned: the first words, that are learned; the others stay. 0: all.
      chunk: texts encoded at once. More than that are encoded one chunk after the other, and again
        in the backward pass, which bounds memory.

    Raises:
      ValueError: no such position; words that are no tokens, or not as many as `context`; words of
        class-specific context; a text longer than the tower takes; classes that class-specific
        vectors are not of.
    """
    _check_options(context, words, position, per_class, chunk)

    def length() -> int:  # of context, with words that stay
        return len(backbone.words[words].ids) if words else context or RANDOM

    def init(rng):
        if words:
            return jnp.asarray(backbone.words[words].embeddings)[: learned or None]
        size = (length(), backbone.sizes.text.hidden_size)
        shape = (len(classes.names), *size) if per_class else size
        return 0.02 * jax.random.normal(rng, shape)

    def placed(texts: Classes) -> Layout:
        if per_class:
            _check_classes(texts, classes)
        return lay_out(texts, length(), position, backbone.sizes.text)

    def embedded(params, ids, rows, vectors):
        if learned:  # the words behind those stay
            rest = jnp.asarray(backbone.words[words].embeddings)[learned:]
            vectors = jnp.concatenate([vectors, rest], axis=-2)
        return _in_places(backbone.embed_tokens(params, ids), rows, vectors)

    def encode(params, vectors, texts, deep=None):
        layout = placed(texts)

        def some(part):
            ids, rows, *own = part
            words = embedded(params, ids, rows, own[0] if own else vectors)
            return backbone.encode["text"](params, ids, words, deep)

        own = (vectors,) if vectors.ndim == 3 else ()
        return in_chunks(some, (*map(jnp.asarray, layout), *own), chunk)

    def compare(params, vectors, images, texts):
        ids, rows = map(jnp.asarray, placed(texts))
        count, classes = len(images), len(ids)

        def some(part):
            image, k = part
            words = embedded(params, ids[k], rows[k], vectors[image])
            return jnp.sum(backbone.encode["text"](params, ids[k], words) * images[image], axis=1)

        pairs = jnp.repeat(jnp.arange(count), classes), jnp.tile(jnp.arange(classes), count)
        return in_chunks(some, pairs, chunk).reshape(count, classes)

    def step_bytes(texts: int) -> int:
        return tower_bytes(backbone.sizes.text, min(texts, chunk), placed(classes).ids.shape[1])

    if backbone.sizes is not None:  # a model is open
        _check_length(context, words, length())
        placed(classes)
    return Context(init, encode, compare, length, step_bytes, (words,) if words else ())


def _check_options(context: int, words: str, position: str, per_class: bool, chunk: int) -> None:
    """Raise ValueError for options of `make_context`."""
    if position not in POSITIONS:
        raise ValueError(f"position is {position!r}; known: {', '.join(POSITIONS)}.")
    if context < 0 or chunk < 1 or context != int(context) or chunk != int(chunk):
        raise ValueError(f"context={context}, chunk={chunk}; give whole numbers, chunk above 0.")
    if per_class and words:
        raise ValueError("class-specific context starts from random vectors; leave words out.")
    if words and not words.strip():
        raise ValueError(f"words={words!r} are no tokens; give some, or '' for random vectors.")


def _check_length(context: int, words: str, length: int) -> None:
    """Raise ValueError for words that are not as many tokens as `context`, where both are given."""
    if words and context not in (0, length):
        told = f"words={words!r} are {length} tokens, and context is {context}"
        raise ValueError(f"{told}; leave one of them out.")


def _check_classes(texts: Classes, classes: Classes) -> None:
    """Raise ValueError for texts that class-specific vectors are not of."""
    if texts.names != classes.names:
        new = [name for name in texts.names if name not in classes.names]
        raise ValueError(
            f"class-specific context is of its {len(classes.names)} classes alone and cannot "
            f"name {repr(new[0]) if new else 'a part of them'}; set per_class=False."
        )


def _in_places(own: jax.Array, rows: jax.Array, vectors: jax.Array) -> jax.Array:
    """Embeddings [N, L, D] with vectors [M, D], or [N, M, D], where rows [N, L] name one."""
    at = jnp.maximum(rows, 0)
    each = vectors[at] if vectors.ndim == 2 else jnp.take_along_axis(vectors, at[..., None], 1)
    return jnp.where(rows[..., None] >= 0, each, own)


def deep_tokens(rng: jax.Array, depth: int, tokens: int, **widths: int) -> dict[str, jax.Array]:
    """Random tokens of blocks 1 to depth - 1 by name, float32 [depth - 1, tokens, width]."""
    draw = lambda width: 0.02 * jax.random.normal(rng, (depth - 1, tokens, width))
    return {name: draw(width) for name, width in widths.items() if depth > 1}


def check_deep(backbone: Backbone, tokens: int, depth: int, words: str) -> None:
    """Raise ValueError for tokens of both towers that there are no words or no blocks for."""
    if tokens < 1 or depth < 1 or tokens != int(tokens) or depth != int(depth) or not words:
        raise ValueError(
            f"tokens={tokens}, depth={depth}, words={words!r}; give whole numbers above 0, and the "
            "words that the tokens start as."
        )
    if backbone.sizes is None:  # no model is open
        return
    if tokens > (there := len(backbone.words[words].ids)):
        raise ValueError(f"words={words!r} are {there} tokens, and {tokens} are learned.")
    for tower in ("text", "vision"):
        if depth > (blocks := getattr(backbone.sizes, tower).num_hidden_layers):
            told = f"depth={depth} is beyond the {blocks} blocks of the {tower} tower"
            raise ValueError(f"{told}; give at most {blocks}.")


def in_chunks(function: Callable, parts: PyTree, chunk: int) -> jax.Array:
    """Apply a function to rows of arrays [N, ...], at most `chunk` at a time, computed again.

    In the backward pass only one chunk's activations are in memory (Chen et al. 2016, arXiv
    1604.06174). Chunks are of one size; what fills the last one is repeated rows.

    >>> in_chunks(lambda part: 2 * part[0], (jnp.arange(5),), 2).tolist()
    [0, 2, 4, 6, 8]
    """
    rows = len(jax.tree.leaves(parts)[0])
    if rows <= chunk:
        return function(parts)
    count = -(-rows // chunk)
    size = -(-rows // count)
    fill = jnp.arange(count * size) % rows
    dealt = jax.tree.map(lambda x: x[fill].reshape(count, size, *x.shape[1:]), parts)
    found = jax.lax.map(jax.checkpoint(function), dealt)
    return found.reshape(count * size, *found.shape[2:])[:rows]


def tower_bytes(
    tower: Any, rows: int, tokens: int, remat: str = "none", learns: bool = True
) -> int:
    """Return about how many bytes a tower's activations and their gradient need in float32.

    `rows` texts or images of so many tokens; `remat` is of `clipjax.model.transformer.REMAT`.
    Where no gradient goes through it (`learns`), half a block is in memory at a time. Against XLA's
    plans on CPU, of ViT-B/16 with four blocks: 0.98 to 1.9 of what a step needs.
    """
    width, mlp = tower.hidden_size, tower.intermediate_size
    scores = tower.num_attention_heads * tokens
    if not learns:
        return 4 * rows * tokens * max(4 * width + 2 * scores, 2 * width + 2 * mlp)
    block = 7 * width + 2 * mlp + 2 * scores
    kept = {"none": block, "dots": 5 * width + mlp, "blocks": width}[remat]
    alive = 5 * width + 3 * mlp + scores + (remat != "none") * block
    return 4 * rows * tokens * (tower.num_hidden_layers * kept + alive)
