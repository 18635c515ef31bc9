"""Layer groups: ordered names of the parameters, for freezing, rates and logging."""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

PyTree = Any
FROZEN = "frozen"

# The first match counts; rules are ordered from input to output.
_GROUP_RULES: tuple[tuple[str, str], ...] = (
    (r"clip/vision/((patch|class|position)_embedding|patch_bias|registers|(stem|pre_layernorm)/.*)",
     "clip/vision/embedding"),
    (r"clip/vision/(block_\d+)/.*", r"clip/vision/\1"),
    (r"clip/(vision/((post_)?layernorm|attention_pool)|visual_projection)/.*",
     "clip/vision/projection"),
    (r"clip/text/(token_embedding|position_embedding)", "clip/text/embedding"),
    (r"clip/text/(block_\d+)/.*", r"clip/text/\1"),
    (r"clip/(text/final_layer_norm|text_projection)/.*", "clip/text/projection"),
    (r"clip/logit_scale", "clip/logit_scale"),
    (r"(adapter|classifier|discriminator)/.*", r"\1"),
)  # fmt: skip


def path_name(path) -> str:
    """A path of `jax.tree_util` as "adapter/layer_0/bias"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


@dataclasses.dataclass(frozen=True)
class Name:
    """The two names of a parameter that patterns match."""

    group: str  # "clip/vision/block_0"
    path: str  # "clip/vision/block_0/fc1/bias"


def name_tree(params: PyTree) -> PyTree:
    """The `Name` of every parameter; those outside of `clip/` are grouped by their top-level key.

    Raises ValueError for a parameter under `clip/` that no rule covers.
    """

    def name(path, _):
        full = path_name(path)
        rank, group = _rule(full)
        if rank == len(_GROUP_RULES) and full.startswith("clip/"):
            raise ValueError(f"no layer group covers {full}; add one to clipjax/train/groups.py.")
        return Name(group, full)

    return jax.tree_util.tree_map_with_path(name, params)


@functools.cache
def _rule(path: str) -> tuple[int, str]:
    """The position of the rule for a parameter, and its group."""
    for rank, (pattern, group) in enumerate(_GROUP_RULES):
        if match := re.fullmatch(pattern, path):
            return rank, match.expand(group)
    return len(_GROUP_RULES), path.split("/")[0]


def layer_groups(params: PyTree) -> tuple[str, ...]:
    """All group names in input-to-output order, block_10 after block_9."""
    found = {_rule(name.path) for name in jax.tree.leaves(name_tree(params))}
    block = lambda group: int((re.search(r"block_(\d+)$", group) or [0, 0])[1])
    return tuple(group for _, group in sorted(found, key=lambda x: (x[0], block(x[1]), x[1])))


def layer_mults(decay: float, depths: Mapping[str, int]) -> tuple[tuple[str, float], ...]:
    """Factors on the rate that fall by `decay` with every layer below the output.

    BEiT's and MAE's convention (arXiv 2106.08254, 2111.06377): decay ** (depth + 1 - layer) of
    layer 0, the embeddings, to `depth`, the last block. Projections, the norms before them, heads
    and the temperature keep the whole rate.

    Args:
      decay: above 0; 1 leaves all rates alike.
      depths: tower ("vision", "text") -> its number of blocks.

    >>> [(group, round(factor, 4)) for group, factor in layer_mults(0.5, {"text": 2})]
    [('clip/text/embedding', 0.125), ('clip/text/block_0', 0.25), ('clip/text/block_1', 0.5)]
    """
    if decay == 1:
        return ()
    return tuple(
        (f"clip/{tower}/{layer}", decay ** (depth + 1 - position))
        for tower, depth in depths.items()
        for position, layer in enumerate(["embedding", *(f"block_{i}" for i in range(depth))])
    )


def matches(pattern: str, name: str | Name) -> bool:
    """Return whether a whole name (of a `Name`, the group or the path) matches a regex.

    `block_2..5` in it is a range of blocks.

    >>> [matches("clip/vision/block_0..10", f"clip/vision/block_{i}") for i in (0, 1, 10, 11)]
    [True, True, True, False]
    >>> matches(".*/bias", Name("adapter", "adapter/layer_0/bias"))
    True
    """
    if isinstance(name, Name):
        return matches(pattern, name.group) or matches(pattern, name.path)
    either = lambda m: f"block_(?:{'|'.join(map(str, range(int(m[1]), int(m[2]) + 1)))})"
    return re.fullmatch(re.sub(r"block_(\d+)\.\.(\d+)", either, pattern), name) is not None


def is_frozen(name: str | Name, freeze: Sequence[str]) -> bool:
    """Return whether any pattern of `freeze` matches."""
    return any(matches(pattern, name) for pattern in freeze)


def check_patterns(patterns: Sequence[str], params: PyTree, what: str = "freeze") -> None:
    """Raise ValueError for a pattern without a match: a typing error would train frozen groups."""
    names = jax.tree.leaves(name_tree(params))
    for pattern in patterns:
        if not any(matches(pattern, name) for name in names):
            raise ValueError(
                f"{what} pattern {pattern!r} matches no layer group and no parameter; groups: "
                f"{', '.join(layer_groups(params))}."
            )


def frozen_tree(params: PyTree, freeze: Sequence[str]) -> PyTree:
    """Bool tree: True where a pattern matches; ValueError if one never does, or all is frozen."""
    check_patterns(freeze, params)
    mask = jax.tree.map(lambda name: is_frozen(name, freeze), name_tree(params))
    if all(jax.tree.leaves(mask)):
        raise ValueError(f"freeze={tuple(freeze)} leaves nothing to train; free a layer group.")
    return mask


def split_tree(params: PyTree, keep: Callable[[Name], bool]) -> tuple[PyTree, PyTree]:
    """Nested dicts of the parameters whose names `keep` takes, and of the others.

    >>> params = {"adapter": {"bias": 1}, "clip": {"logit_scale": 2}}
    >>> split_tree(params, lambda name: name.group == "adapter")
    ({'adapter': {'bias': 1}}, {'clip': {'logit_scale': 2}})
    """
    mask = jax.tree.map(keep, name_tree(params))

    def pick(tree: PyTree, mask: PyTree, wanted: bool) -> PyTree:
        if not isinstance(tree, dict):
            return tree if mask == wanted else None
        found = {key: pick(tree[key], mask[key], wanted) for key in tree}
        return {key: value for key, value in found.items() if value is not None} or None

    return pick(params, mask, True) or {}, pick(params, mask, False) or {}
