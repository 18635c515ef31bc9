"""Read Stable Diffusion's UNet, VAE encoder and text encoder as diffusers lays them out."""

import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from clipjax.errors import CheckpointError
from clipjax.model.clip import CLIPConfig, TextConfig
from clipjax.model.diffusion.unet import UNet, UNetConfig
from clipjax.model.diffusion.vae import VAEConfig, VAEEncoder
from clipjax.model.hf import weights
from clipjax.model.hf.config import config_from_hf
from clipjax.model.hf.hub import find_part
from clipjax.model.hf.params import abstract_params, flat, our_path, to_ours
from clipjax.model.hf.trees import built, read_tree, shapes

PyTree = Any
# Fields of a UNet's config.json that change what it computes, and what SD 1.x and 2.x have there.
_UNET = {
    "act_fn": ("silu", "swish"),
    "addition_embed_type": (None,),
    "attention_type": ("default",),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "class_embeddings_concat": (False,),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
    "cross_attention_norm": (None,),
    "downsample_padding": (1,),
    "dual_cross_attention": (False,),
    "encoder_hid_dim": (None,),
    "encoder_hid_dim_type": (None,),
    "in_channels": (4,),
    "mid_block_only_cross_attention": (None, False),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "num_class_embeds": (None,),
    "only_cross_attention": (False,),
    "resnet_out_scale_factor": (1,),
    "resnet_skip_time_act": (False,),
    "resnet_time_scale_shift": ("default",),
    "time_cond_proj_dim": (None,),
    "time_embedding_act_fn": (None,),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
    "timestep_post_act": (None,),
    "transformer_layers_per_block": (1,),
}
_VAE = {
    "act_fn": ("silu", "swish"),
    "down_block_types": ("DownEncoderBlock2D",),
    "latents_mean": (None,),
    "latents_std": (None,),
    "mid_block_add_attention": (True,),
    "shift_factor": (None,),
}
# A field with a value that another family has, and that family's name; None stands for any value.
_FAMILIES = (
    ("addition_embed_type", "text_time", "Stable Diffusion XL"),
    ("addition_embed_type", "text", "DeepFloyd IF"),
    ("addition_embed_type", None, "Kandinsky"),
    ("in_channels", 9, "Stable Diffusion for inpainting"),
    ("in_channels", 8, "InstructPix2Pix"),
    ("in_channels", 7, "Stable Diffusion's upscaler"),
    ("in_channels", 5, "Stable Diffusion with depth"),
    ("time_cond_proj_dim", None, "a latent consistency model"),
)
_BLOCKS = {"CrossAttnDownBlock2D": True, "DownBlock2D": False}
_OUTPUT = ("conv_norm_out/", "conv_out/")  # of a UNet, which its taps do without
# Names of attention in VAEs that were saved before diffusers 0.17.
_OLD = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out_0"}


class Diffusion(NamedTuple):
    """A UNet and its VAE's encoder."""

    unet: UNetConfig
    vae: VAEConfig
    params: PyTree  # {"unet": ..., "vae": ...}


def load_diffusion(
    name_or_path: str | os.PathLike, *, revision: str | None = None, dtype: Any = jnp.float32
) -> Diffusion:
    """Read a UNet without its output and the VAE's encoder of Stable Diffusion 1.x or 2.x.

    Args and errors are those of `load_unet`; CheckpointError too where the two do not fit.
    """
    read_configs(name_or_path, revision=revision)
    unet, params = load_unet(name_or_path, revision=revision, dtype=dtype)
    vae, encoder = load_vae_encoder(name_or_path, revision=revision, dtype=dtype)
    return Diffusion(unet, vae, {"unet": params, "vae": encoder})


def read_configs(
    name_or_path: str | os.PathLike, *, revision: str | None = None
) -> tuple[UNetConfig, VAEConfig]:
    """Read the sizes of a UNet and its VAE, no weights; args and errors of `load_diffusion`."""
    (_, unet), (_, vae) = _unet(name_or_path, revision), _vae(name_or_path, revision)
    if unet.in_channels != vae.latent_channels:
        told = f"a VAE of {vae.latent_channels} channels, a UNet that reads {unet.in_channels}"
        raise CheckpointError(f"{os.fspath(name_or_path)} has {told}; take both of one model.")
    return unet, vae


def load_unet(
    name_or_path: str | os.PathLike,
    *,
    revision: str | None = None,
    dtype: Any = jnp.float32,
    output: bool = False,
) -> tuple[UNetConfig, PyTree]:
    """Read a `UNet2DConditionModel` of Stable Diffusion 1.x or 2.x, without torch.

    Args:
      name_or_path: a directory with a folder `unet/`, that folder, or a Hub id
        ("stable-diffusion-v1-5/stable-diffusion-v1-5"; downloaded once).
      revision: branch, tag or commit of a Hub id; refused with a directory.
      dtype: of the parameters; stored ones in half precision are cast up.
      output: whether its last norm and convolution are read, too.

    Returns:
      (config, params) for `UNet(config, output=output).apply({"params": params}, ...)`.

    Raises:
      CheckpointError: no such model, another family (XL, inpainting, ...), weights that are
        damaged, a pickle, do not fit their config or are not finite.
    """
    directory, config = _unet(name_or_path, revision)
    module, text = UNet(config, output=output), (1, config.cross_attention_dim)
    expected = shapes(module, (8, 8, config.in_channels), text)
    skip = () if output else _OUTPUT
    return config, _read(directory, expected, skip, dtype)


def load_vae_encoder(
    name_or_path: str | os.PathLike, *, revision: str | None = None, dtype: Any = jnp.float32
) -> tuple[VAEConfig, PyTree]:
    """Read encoder and `quant_conv` of an `AutoencoderKL`; its decoder is left out.

    Args and errors are those of `load_unet`, with a folder `vae/`; a VAE without `quant_conv`
    (Stable Diffusion 3's, Flux's) raises CheckpointError. Names of both generations are read.

    Returns:
      (config, params) for `VAEEncoder(config).apply({"params": params}, images)`.
    """
    directory, config = _vae(name_or_path, revision)
    expected = shapes(VAEEncoder(config), (config.stride, config.stride, config.in_channels))
    return config, _read(directory, expected, ("decoder/", "post_quant_conv/"), dtype)


def load_text_encoder(
    name_or_path: str | os.PathLike, *, revision: str | None = None, dtype: Any = jnp.float32
) -> tuple[TextConfig, PyTree]:
    """Read the text tower that a UNet was trained with: its states, which no projection follows.

    Args and errors are those of `load_unet`, with a folder `text_encoder/`. The tokenizer is in
    `find_part(name_or_path, "tokenizer")`.

    Returns:
      (config, params) for `TextTower(config).apply({"params": params}, ids)`.
    """
    directory = find_part(name_or_path, "text_encoder", revision)
    data = weights.read_json(directory / "config.json")
    if (kind := data.get("model_type")) != "clip_text_model":
        told = f"{directory} is a {kind!r} model"
        raise CheckpointError(f"{told}; Stable Diffusion 1.x and 2.x have a 'clip_text_model'.")
    config = config_from_hf(data).text
    expected = flat(abstract_params(CLIPConfig(None, config, config.hidden_size))["text"])
    found = {}
    for name, stored in weights.stored_tensors(directory).items():
        # transformers 5 writes a text tower that is alone without the prefix of older files.
        path = our_path(name if name.startswith("text_") else f"text_model.{name}")
        if path and path != "text_projection/kernel":
            found[path.removeprefix("text/")] = stored
    read = lambda path: to_ours(path, weights.read_tensor(found[path]))
    return config, read_tree(directory, expected, found, read, dtype)


def diffusion_path(name: str) -> str:
    """Return the path of a tensor of a UNet or VAE in our tree.

    >>> diffusion_path("down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_out.0.weight")
    'down_blocks_0/attentions_1/transformer_blocks_0/attn2/to_out_0/kernel'
    >>> diffusion_path("encoder.mid_block.attentions.0.query.bias")
    'encoder/mid_block/attentions_0/to_q/bias'
    """
    path = re.sub(r"\.(\d+)(?=\.)", r"_\1", name).replace(".", "/")
    old = "|".join(_OLD)
    path = re.sub(rf"(attentions_\d+)/({old})/", lambda m: f"{m[1]}/{_OLD[m[2]]}/", path)
    path = re.sub(r"(norm\w*)/weight$", r"\1/scale", path)
    return re.sub("/weight$", "/kernel", path)


def diffusion_tensor(tensor: np.ndarray) -> np.ndarray:
    """Convert a tensor to our layout: matrices and 1 x 1 convolutions to [in, out].

    >>> diffusion_tensor(np.ones((5, 4, 1, 1))).shape, diffusion_tensor(np.ones((5, 4, 3, 3))).shape
    ((4, 5), (3, 3, 4, 5))
    """
    if tensor.ndim == 4 and tensor.shape[2:] == (1, 1):
        tensor = tensor[:, :, 0, 0]
    return tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T


def _opened(name_or_path, part: str, revision, wanted: str) -> tuple[pathlib.Path, dict]:
    """Return the folder of a part and its config.json, which must be of a known class."""
    directory = find_part(name_or_path, part, revision)
    data = weights.read_json(directory / "config.json")
    if (kind := data.get("_class_name")) != wanted:
        told = f"{directory} is a {kind or data.get('model_type', 'nameless')} model"
        raise CheckpointError(f"{told}; clipjax reads a {wanted}, of Stable Diffusion 1.x and 2.x.")
    return directory, data


def _unet(name_or_path, revision) -> tuple[pathlib.Path, UNetConfig]:
    directory, data = _opened(name_or_path, "unet", revision, "UNet2DConditionModel")
    _check_family(directory, data, _UNET, "UNets")
    return directory, built(lambda: _unet_config(data), "UNet")


def _vae(name_or_path, revision) -> tuple[pathlib.Path, VAEConfig]:
    directory, data = _opened(name_or_path, "vae", revision, "AutoencoderKL")
    if not data.get("use_quant_conv", True):
        told = f"the VAE in {directory} has no quant_conv, as Stable Diffusion 3's and Flux's"
        raise CheckpointError(f"{told}; clipjax reads those of Stable Diffusion 1.x and 2.x.")
    _check_family(directory, data, _VAE, "VAEs")
    names = ("layers_per_block", "in_channels", "latent_channels", "norm_num_groups")
    sizes = {name: data[name] for name in (*names, "scaling_factor") if name in data}
    widths = data.get("block_out_channels", (64,))
    return directory, built(lambda: VAEConfig(tuple(widths), **sizes), "VAE")


def _check_family(directory, data: Mapping[str, Any], known: Mapping[str, tuple], what: str):
    """Raise CheckpointError for a network that computes something else, by its family's name."""
    for name, values in known.items():
        value = data.get(name, values[0])
        each = value if isinstance(value, (list, tuple)) else [value]
        if wrong := [one for one in each if one not in values]:
            families = [f for key, of, f in _FAMILIES if key == name and of in (wrong[0], None)]
            told = f", as of {families[0]}" if families else ""
            raise CheckpointError(
                f"{directory} has {name} {wrong[0]!r}{told}; clipjax reads {what} of Stable "
                "Diffusion 1.x and 2.x."
            )


def _unet_config(data: Mapping[str, Any]) -> UNetConfig:
    """Return sizes of a config.json; ValueError for blocks in another order."""
    widths = tuple(data.get("block_out_channels", (320, 640, 1280, 1280)))
    down = tuple(data.get("down_block_types", (*3 * ["CrossAttnDownBlock2D"], "DownBlock2D")))
    up = tuple(data.get("up_block_types", ("UpBlock2D", *3 * ["CrossAttnUpBlock2D"])))
    if unknown := [kind for kind in down if kind not in _BLOCKS]:
        raise ValueError(f"there is no block {unknown[0]!r} in Stable Diffusion 1.x and 2.x.")
    if up != tuple(kind.replace("Down", "Up") for kind in down[::-1]):
        raise ValueError(f"up_block_types {up} do not mirror down_block_types {down}.")
    heads = data.get("num_attention_heads") or data.get("attention_head_dim", 8)
    heads = (heads,) * len(widths) if isinstance(heads, int) else tuple(heads)
    sizes = {}
    for name, usual in (("layers_per_block", 2), ("cross_attention_dim", 1280)):
        value = data.get(name, usual)
        each = set(value if isinstance(value, (list, tuple)) else [value])
        if len(each) != 1:
            raise ValueError(f"{name} is {value}; one number for all levels is read.")
        sizes[name] = each.pop()
    rest = ("in_channels", "out_channels", "norm_num_groups", "norm_eps")
    rest += ("flip_sin_to_cos", "freq_shift")
    sizes |= {name: data[name] for name in rest if name in data}
    return UNetConfig(widths, tuple(_BLOCKS[kind] for kind in down), heads, **sizes)


def _read(directory, expected: Mapping[str, Any], skip: tuple[str, ...], dtype: Any) -> PyTree:
    """Read the parameters of one part."""
    stored = weights.stored_tensors(directory, weights.DIFFUSION_NAMES)
    paths = {diffusion_path(name): tensor for name, tensor in stored.items()}
    found = {path: tensor for path, tensor in paths.items() if not path.startswith(skip or ("\0",))}
    read = lambda path: diffusion_tensor(weights.read_tensor(found[path]))
    return read_tree(directory, expected, found, read, dtype)
