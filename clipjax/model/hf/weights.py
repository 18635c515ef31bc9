"""Named tensors in safetensors files, one file or several with an index. Pickles are never read."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors import numpy as st_numpy

from clipjax.errors import CheckpointError
from clipjax.io import replaced
from clipjax.io.finite import is_finite
from clipjax.io.texts import decoded

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE = "pytorch_model.bin"
# The two of a part of a diffusion model, in full precision and, where that is all, in half.
_DIFFUSION = "diffusion_pytorch_model"
DIFFUSION_NAMES = (
    (f"{_DIFFUSION}.safetensors", f"{_DIFFUSION}.safetensors.index.json"),
    (f"{_DIFFUSION}.fp16.safetensors", f"{_DIFFUSION}.safetensors.index.fp16.json"),
)


class Stored(NamedTuple):
    """The place of a tensor on disk; `read_tensor` reads it."""

    file: pathlib.Path
    name: str
    shape: tuple[int, ...]  # as stored


def read_json(path: pathlib.Path) -> dict:
    """Read the dict of a JSON file; CheckpointError where that is not possible."""
    try:
        data = json.loads(decoded(path.read_bytes(), str(path), CheckpointError))
    except OSError as error:
        fault = f"cannot be read ({error.strerror})"
    except json.JSONDecodeError as error:
        fault = f"is not valid JSON ({error})"
    else:
        if isinstance(data, dict):
            return data
        fault = "holds no JSON object"
    raise CheckpointError(f"{path} {fault}; copy or download it again.")


def is_timm(data: dict) -> bool:
    """Tell whether a config.json is timm's: it names an architecture, and no type."""
    return "architecture" in data and "model_type" not in data


def pickle_refusal(where: object) -> str:
    """Explain why a checkpoint that is only a pickle is not read, and how to convert it."""
    return (
        f"{where} has its weights only as {PICKLE}, a pickle, which can run code when read; "
        "convert it once, where torch is installed and you trust its origin, and give the new "
        'directory: python -c "from transformers import CLIPModel as M, CLIPProcessor as P; '
        f"[c.from_pretrained({str(where)!r}).save_pretrained('converted') for c in (M, P)]\""
    )


def _open(path: pathlib.Path):
    try:
        return safe_open(path, framework="numpy")
    except (FileNotFoundError, SafetensorError) as error:
        there = not isinstance(error, FileNotFoundError)
        fault = f"is damaged or cut short ({error})" if there else "does not exist"
        raise CheckpointError(f"{path} {fault}; download it, or the whole model, again.") from None


def stored_tensors(
    directory: pathlib.Path, kinds: Sequence[tuple[str, str]] = ((SINGLE, INDEX),)
) -> dict[str, Stored]:
    """Map every tensor's name to its place and shape in a model directory; reads headers only.

    `kinds` are names of one file or of the index of several, of which the first that is there
    counts.
    """
    for single, index in kinds:
        if (directory / single).exists():
            return stored_in(directory / single)
        if (directory / index).exists():
            shards = sorted(set(read_json(directory / index).get("weight_map", {}).values()))
            found = [stored_in(directory / name) for name in shards]
            return {key: stored for one in found for key, stored in one.items()}
    if (directory / PICKLE).exists():
        raise CheckpointError(pickle_refusal(directory))
    raise CheckpointError(f"{directory} has no {kinds[0][0]}; download it beside config.json.")


def stored_in(file: pathlib.Path) -> dict[str, Stored]:
    """Map every tensor's name to its place and shape in one safetensors file."""
    with _open(file) as opened:
        shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}
    return {name: Stored(file, name, shape) for name, shape in shapes.items()}


def read_tensor(stored: Stored) -> np.ndarray:
    """Read one tensor in its stored dtype; opening the file each time unmaps its pages at once."""
    with _open(stored.file) as opened:
        return opened.get_tensor(stored.name)


def checked(name: str, tensor: np.ndarray, dtype: Any, file: pathlib.Path) -> np.ndarray:
    """Cast a tensor to a dtype; CheckpointError, with its file, if it is not finite there."""
    with np.errstate(over="ignore", invalid="ignore"):
        cast = tensor.astype(dtype, copy=False)
    if is_finite(cast):
        return cast
    if is_finite(tensor):
        largest, held = np.abs(tensor.astype(np.float64)).max(), np.dtype(dtype).name
        fault = f"tensor {name} reaches {largest:.3g}, which {held} does not hold"
        raise CheckpointError(f"{file}: {fault}; use another dtype.")
    bad = int((~np.isfinite(tensor)).sum())
    found = f"NaN or infinity ({bad} of {tensor.size} numbers)"
    raise CheckpointError(f"{file}: tensor {name} holds {found}; use a sound copy.")


def write_tensors(path: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Write one safetensors file atomically."""
    with replaced(path) as scratch:
        st_numpy.save_file(dict(tensors), scratch, metadata={"format": "pt"})  # for transformers
        scratch.chmod(0o644)  # safetensors makes files that only their owner can read
