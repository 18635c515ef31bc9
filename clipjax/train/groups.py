"""Layer groups: one ordered naming of the parameters, for freezing, rates and logging."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax

PyTree = Any
FROZEN = "frozen"

# First match wins; the order of the rules is the order from input to output.
_GROUP_RULES: tuple[tuple[str, str], ...] = (
    (r"clip/vision/(patch_embedding|class_embedding|position_embedding|pre_layernorm/.*)",
     "clip/vision/embedding"),
    (r"clip/vision/(block_\d+)/.*", r"clip/vision/\1"),
    (r"clip/(vision/post_layernorm|visual_projection)/.*", "clip/vision/projection"),
    (r"clip/text/(token_embedding|position_embedding)", "clip/text/embedding"),
    (r"clip/text/(block_\d+)/.*", r"clip/text/\1"),
    (r"clip/(text/final_layer_norm|text_projection)/.*", "clip/text/projection"),
    (r"clip/logit_scale", "clip/logit_scale"),
    (r"(adapter|classifier|discriminator)/.*", r"\1"),
)  # fmt: skip


def path_name(path) -> str:
    """A path of `jax.tree_util` as text, "adapter/layer_0/bias"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _order(group: str) -> tuple:
    """Sort key: rule order, then block number (block_10 comes after block_9)."""
    for rank, (pattern, name) in enumerate(_GROUP_RULES):
        captured = re.search(r"\((.*?)\)", pattern)
        if re.fullmatch(name.replace(r"\1", f"({captured.group(1)})" if captured else ""), group):
            return rank, int((re.search(r"\d+$", group) or [0])[0]), group
    return len(_GROUP_RULES), 0, group


@dataclasses.dataclass(frozen=True)
class Name:
    """The names of a parameter that patterns match: its layer group, or its own path."""

    group: str  # "clip/vision/block_0"
    path: str  # "clip/vision/block_0/fc1/bias"


def name_tree(params: PyTree) -> PyTree:
    """The `Name` of every parameter, as a tree shaped like `params`.

    A user's own tree (no name of which follows clipjax's layout) is grouped by its top-level keys.

    Raises:
      ValueError: a parameter under `clip/` that no rule covers; the names are listed.
    """
    uncovered = []

    def name(path, _):
        full = path_name(path)
        for pattern, group in _GROUP_RULES:
            if match := re.fullmatch(pattern, full):
                return Name(match.expand(group), full)
        if full.startswith("clip/"):
            uncovered.append(full)
        return Name(full.split("/")[0], full)

    names = jax.tree_util.tree_map_with_path(name, params)
    if uncovered:
        raise ValueError(
            "no layer group covers these parameters; add a rule in clipjax/train/groups.py: "
            + ", ".join(uncovered)
        )
    return names


def group_tree(params: PyTree) -> PyTree:
    """The group name of every parameter, as a tree shaped like `params`."""
    return jax.tree.map(lambda name: name.group, name_tree(params))


def layer_groups(params: PyTree) -> tuple[str, ...]:
    """All group names in input-to-output order.

    >>> layer_groups({"adapter": {"w": 0}, "clip": {"vision": {"block_0": {"b": 0}}}})
    ('clip/vision/block_0', 'adapter')
    """
    return tuple(sorted(set(jax.tree.leaves(group_tree(params))), key=_order))


def matches(pattern: str, name: str | Name) -> bool:
    """Whether a whole name matches a regex, in which `block_2..5` is a range of blocks.

    Of a parameter's `Name`, its group or its path.

    >>> [matches("clip/vision/block_0..10", f"clip/vision/block_{i}") for i in (0, 1, 10, 11)]
    [True, True, True, False]
    >>> matches(".*/bias", Name("adapter", "adapter/layer_0/bias"))
    True
    """
    if isinstance(name, Name):
        return matches(pattern, name.group) or matches(pattern, name.path)
    ranges = re.compile(r"block_(\d+)\.\.(\d+)")
    either = lambda m: f"block_(?:{'|'.join(map(str, range(int(m[1]), int(m[2]) + 1)))})"
    return re.fullmatch(ranges.sub(either, pattern), name) is not None


def is_frozen(name: str | Name, freeze: Sequence[str]) -> bool:
    """Whether a pattern of `freeze` matches a group, or a parameter."""
    return any(matches(pattern, name) for pattern in freeze)


def check_patterns(patterns: Sequence[str], params: PyTree, what: str = "freeze") -> None:
    """Refuses patterns that match no parameter: a typing error would train what should be frozen.

    Raises:
      ValueError: such a pattern; the groups are listed.
    """
    names = jax.tree.leaves(name_tree(params))
    for pattern in patterns:
        if not any(matches(pattern, name) for name in names):
            raise ValueError(
                f"{what} pattern {pattern!r} matches no layer group and no parameter; groups: "
                f"{', '.join(layer_groups(params))}."
            )


def frozen_tree(params: PyTree, freeze: Sequence[str]) -> PyTree:
    """Bool tree: True where a pattern of `freeze` matches the parameter (see `matches`).

    Raises:
      ValueError: a pattern that matches nothing (the groups are listed), or ones that leave nothing
        to train.
    """
    check_patterns(freeze, params)
    mask = jax.tree.map(lambda name: is_frozen(name, freeze), name_tree(params))
    if all(jax.tree.leaves(mask)):
        raise ValueError(f"freeze={tuple(freeze)} leaves nothing to train; free a layer group.")
    return mask


def split_tree(params: PyTree, keep: Callable[[Name], bool]) -> tuple[PyTree, PyTree]:
    """Nested dicts of the parameters whose names `keep` takes, and of the others; no empty ones.

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
