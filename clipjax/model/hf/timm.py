"""Read ResNets in timm's layout: a config.json that names an architecture, and its weights."""

import math
import os
import re
from typing import Any

import jax.numpy as jnp

from clipjax.errors import CheckpointError
from clipjax.model.hf import weights
from clipjax.model.hf.hub import find_model
from clipjax.model.hf.image_only import read_resnet
from clipjax.model.hf.trees import built
from clipjax.model.resnet import ResNetConfig

PyTree = Any
# Layers of the four stages, by the number in a name.
DEPTHS = {
    "resnet": {
        "18": (2, 2, 2, 2),
        "26": (2, 2, 2, 2),
        "34": (3, 4, 6, 3),
        "50": (3, 4, 6, 3),
        "101": (3, 4, 23, 3),
        "152": (3, 8, 36, 3),
        "200": (3, 24, 36, 3),
    },
    "resnetrs": {
        "50": (3, 4, 6, 3),
        "101": (3, 4, 23, 3),
        "152": (3, 8, 36, 3),
        "200": (3, 24, 36, 3),
        "270": (4, 29, 53, 4),
        "350": (4, 36, 72, 4),
        "420": (4, 44, 87, 4),
    },
    "clip": {
        "50": (3, 4, 6, 3),
        "101": (3, 4, 23, 3),
        "50x4": (4, 6, 10, 6),
        "50x16": (6, 8, 18, 8),
        "50x64": (3, 15, 36, 10),
    },
}
KNOWN = (
    "resnet18 to resnet200 with stems c, d, s and t, the same as seresnet; resnetrs50 to "
    "resnetrs420; resnet50_clip, resnet101_clip, resnet50x4_clip, resnet50x16_clip, "
    "resnet50x64_clip, and these as ..._clip_gap"
)
_WIDTHS = {"50x4": 1.25, "50x16": 1.5, "50x64": 2.0}
_BASIC = ("18", "34")
# Of a file's model_args: those that are read, and those that concern training or the head alone.
_READ = ("channels", "img_size", "layers", "output_stride", "stem_width", "width_factor")
_INERT = (
    "drop_rate",
    "drop_path_rate",
    "drop_block_rate",
    "global_pool",
    "in_chans",
    "num_classes",
    "zero_init_last",
)


def load_timm(
    name_or_path: str | os.PathLike, *, revision: str | None = None, dtype: Any = jnp.float32
) -> tuple[ResNetConfig, PyTree]:
    """Read a ResNet in timm's layout, its own class head left out, its statistics folded in.

    A CLIP's ResNet (`resnet50_clip.openai` and others) is an image tower alone: its embeddings are
    in the space of CLIP's texts, which the file does not hold. Args and errors are those of
    `clipjax.load_clip`.

    Returns:
      (config, params) for `ResNet(config).apply({"params": params}, images)`.

    Raises:
      CheckpointError: no such model, another architecture, arguments of it that clipjax does not
        read, weights that are damaged, do not fit the config or are not finite.
    """
    directory = find_model(name_or_path, revision)
    data = weights.read_json(directory / "config.json")
    if not weights.is_timm(data):
        raise CheckpointError(f"{directory} is no model in timm's layout; load_timm reads those.")
    config = built(lambda: timm_config(data), "ResNet of timm")
    path_of = lambda name: timm_path(name, config)
    return config, read_resnet(directory, config, path_of, dtype)


def timm_config(data: dict) -> ResNetConfig:
    """Read the dict of timm's `config.json`.

    CheckpointError: an architecture, or arguments of it, that clipjax does not read; ValueError,
    TypeError or KeyError: numbers that make no ResNet.
    """
    name, args = data["architecture"], data.get("model_args") or {}
    if unknown := sorted(args.keys() - {*_READ, *_INERT}):
        told = f"timm made {name} with {unknown[0]}={args[unknown[0]]!r}"
        raise CheckpointError(f"{told}; clipjax reads {', '.join(_READ)}.")
    pools = {args.get("global_pool"), data.get("global_pool")} - {None, "", "avg", "token"}
    if pools:
        raise CheckpointError(f"{name} pools by {pools.pop()!r}; clipjax reads avg and token.")
    channels, *size = (data.get("pretrained_cfg") or data).get("input_size", (3, 224, 224))
    if len(set(size)) != 1:
        raise ValueError(f"input_size {size} is no square")
    fields = {"num_channels": channels, "image_size": size[0]}
    stride = args.get("output_stride", 32)
    fields |= {} if stride == 32 else {"output_stride": stride}
    if match := re.fullmatch(r"resnet(\d+(?:x\d+)?)_clip(_gap)?", name):
        number, mean = match.groups()
        if number in DEPTHS["clip"]:
            return _clip(number, bool(mean), data, args, fields)
    if match := re.fullmatch(r"resnetrs(\d+)", name):
        if (number := match[1]) in DEPTHS["resnetrs"]:
            more = {"stem_pool": "conv", "shortcut": "mean", "squeeze": 0.25}
            return _resnet(DEPTHS["resnetrs"][number], "bottleneck", "deep", args, fields | more)
    if match := re.fullmatch(r"(se)?resnet(\d+)([cdst]?)", name):
        gated, number, kind = match.groups()
        if number in DEPTHS["resnet"]:
            more = {"squeeze": 1 / 16} if gated else {}
            more |= {"shortcut": "mean"} if kind in ("d", "t") else {}
            stem = {"": "", "s": "wide", "t": "tiered"}.get(kind, "deep")
            layer = "basic" if number in _BASIC else "bottleneck"
            return _resnet(DEPTHS["resnet"][number], layer, stem, args, fields | more)
    raise CheckpointError(f"clipjax does not read timm's {name!r}; known: {KNOWN}.")


def _resnet(depths, layer: str, stem: str, args: dict, fields: dict) -> ResNetConfig:
    """Make the sizes of timm's `ResNet`."""
    _check_pool("a ResNet", args, "avg")
    if given := sorted(args.keys() & {"img_size", "width_factor"}):
        raise CheckpointError(f"{given[0]} is no argument of timm's ResNet.")
    widths = args.get("channels", (64, 128, 256, 512))
    wider = 1 if layer == "basic" else 4
    first = args.get("stem_width", 64 if stem in ("", "wide") else 32)
    embedding = 2 * first if stem else 64
    convolutions = (first // 4 * 3 if stem == "tiered" else first, first, embedding)
    return ResNetConfig(
        embedding_size=embedding,
        hidden_sizes=tuple(wider * width for width in widths),
        depths=tuple(args.get("layers", depths)),
        layer_type=layer,
        stem=convolutions if stem else (),
        **fields,
    )


def _clip(number: str, mean: bool, data: dict, args: dict, fields: dict) -> ResNetConfig:
    """Make the sizes of a CLIP's ResNet: timm's `ByobNet`."""
    _check_pool("this ResNet of a CLIP", args, "avg" if mean else "token")
    if given := sorted(args.keys() & {"channels", "layers", "stem_width"}):
        raise CheckpointError(f"{given[0]} is no argument of timm's ByobNet.")
    factor = args.get("width_factor", _WIDTHS.get(number, 1.0))
    widths = tuple(_rounded(width * factor) for width in (256, 512, 1024, 2048))
    stem = tuple(round(width * factor) for width in (32, 32, 64))
    size = args.get("img_size") or fields["image_size"]
    projection = 0 if mean else data.get("num_classes", 0)
    if not mean and not projection:
        raise CheckpointError("a CLIP's ResNet of num_classes 0 has no projection; keep its own.")
    grid = (size if isinstance(size, int) else size[0]) // fields.get("output_stride", 32)
    return ResNetConfig(
        embedding_size=stem[-1],
        hidden_sizes=widths,
        depths=DEPTHS["clip"][number],
        stem=stem,
        stem_pool="mean",
        shortcut="mean",
        antialiased=True,
        projection=projection,
        grid=1 if mean else grid,
        **fields,
    )


def _check_pool(what: str, args: dict, own: str) -> None:
    # In model_args alone: what the file says beside them changes no model in timm, either.
    if (asked := args.get("global_pool") or own) != own:
        raise CheckpointError(f"{what} pools by {asked!r}; clipjax reads it with {own}.")


def _rounded(width: float) -> int:
    """Return the nearest multiple of 8, at least that, and not less than 0.9 of the width."""
    near = max(8, math.floor(width + 4) // 8 * 8)
    return near + 8 if near < 0.9 * width else near


# Names of modules, whole, of the stem and head, and inside a layer -> ours.
_LESS = lambda match: str(int(match[1]) - 1)  # timm counts from 1
_OUTSIDE = (
    (r"conv1", lambda _: "stem"),
    (r"conv1\.(\d)", lambda match: f"stem/conv_{int(match[1]) // 3}"),  # norm, act between
    (r"maxpool\.\d", lambda _: "stem/pool"),
    (r"stem\.conv(\d)\.(?:conv|bn)", lambda match: f"stem/conv_{_LESS(match)}"),
    (r"head\.(\w+)", lambda match: f"attention_pool/{match[1]}"),
)
_INSIDE = (
    (r"(?:conv|bn)(\d)", lambda match: f"conv_{_LESS(match)}"),
    (r"conv(\d)_\w+\.(?:conv|bn)", lambda match: f"conv_{_LESS(match)}"),
    (r"downsample\.\d|shortcut\.conv\.(?:conv|bn)", lambda _: "shortcut"),
    (r"se\.(fc\d)", lambda match: f"squeeze/{match[1]}"),
)
_OF_NORM = {"weight": "scale", "running_mean": "mean", "running_var": "var"}


def timm_path(name: str, config: ResNetConfig) -> str | None:
    """Return the path of one of timm's tensors in our tree; None for those that are not used.

    >>> timm_path("layer2.0.downsample.1.running_var", ResNetConfig())
    'block_1/layer_0/shortcut/var'
    >>> timm_path("stages.0.2.conv2_kxk.bn.weight", ResNetConfig())
    'block_0/layer_2/conv_1/scale'
    >>> timm_path("fc.weight", ResNetConfig())
    """
    module, _, end = name.rpartition(".")
    if end == "num_batches_tracked" or module in ("fc", "head.fc"):
        return None
    if name == "head.pos_embed":
        return "attention_pool/positions"
    layer, rules = "", _OUTSIDE
    if found := re.match(r"(layer|stages\.)(\d+)\.(\d+)\.", module):
        number = int(found[2]) - (found[1] == "layer")
        layer, rules = f"block_{number}/layer_{found[3]}/", _INSIDE
        module = module[found.end() :]
    behind = 2 if config.shortcut == "mean" else 1  # the place of a shortcut's norm
    norms = rf"bn\d|.*\.bn|conv1\.[14]|maxpool\.1|downsample\.{behind}"
    ends = _OF_NORM if re.fullmatch(norms, module) else {"weight": "kernel"}
    where = module
    if not layer and module == "bn1":
        where = f"stem/conv_{len(config.stem) - 1}" if config.stem else "stem"
    for pattern, ours in rules:
        if match := re.fullmatch(pattern, module):
            where = ours(match)
    return f"{layer}{where}/{ends.get(end, end)}"
