"""Adapted models as one directory that transformers opens and `load_adapted` predicts with.

config.json, model.safetensors, preprocessor_config.json, tokenizer files: a CLIP
heads.json, heads.safetensors: adapter and class head, class names
classifier.safetensors: of heads that are affine in CLIP's embeddings, for torch: weight, bias
image_classifier.onnx, text_encoder.onnx: where they are asked for
predict.jaxexport: prediction as a program for jax alone
README.md: model card
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from clipjax.data.features.identity import differences, sizes
from clipjax.data.images.preprocess import Preprocess, load_preprocess, save_preprocess
from clipjax.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from clipjax.export.onnx import check_onnx, save_onnx
from clipjax.export.program import make_forward, save_program
from clipjax.io import write_atomically, write_json
from clipjax.io.finite import is_finite
from clipjax.model.clip import CLIPConfig
from clipjax.model.heads import Heads, as_affine
from clipjax.model.hf.hub import copy_tokenizer
from clipjax.model.hf.load import check_size, load_clip, save_clip
from clipjax.model.hf.params import flat
from clipjax.model.hf.weights import checked, read_json, read_tensor, stored_in, write_tensors

PyTree = Any
FORMAT = 1  # of heads.json; raise when its meaning changes
HEADS = "heads.json"
CLASSIFIER = "classifier.safetensors"
FIELDS = ("adapter", "classifier", "class_bias", "members")  # of `Heads`, in heads.json


class Trained(NamedTuple):
    """Heads, their parameters and the names of their classes."""

    heads: Heads
    params: PyTree
    classes: tuple[str, ...]


class Adapted(NamedTuple):
    """An adapted model, made by `load_adapted`."""

    classes: tuple[str, ...]  # in the order of the probabilities
    preprocess: Preprocess
    probabilities: Callable[[np.ndarray], jax.Array]  # uint8 [B, S, S, 3] -> float32 [B, K], jitted

    def predict(
        self, images: Sequence[str | os.PathLike | bytes | np.ndarray], *, batch_size: int = 64
    ) -> np.ndarray:
        """Return class probabilities, float32 [len(images), K]; `batch_size` images at a time.

        Images are paths, encoded files, uint8 arrays [H, W, 3], or grey ones [H, W] as of
        `Preprocess.crop`. DataError: one that cannot be read. NonFiniteError: the numbers of the
        image tower overflow.
        """
        if isinstance(images, (str, bytes, os.PathLike)):
            raise DataError(f"predict takes a list of images; write predict([{images!r}]).")
        rows = [np.zeros((0, len(self.classes)), np.float32)]
        for start in range(0, len(images), batch_size):
            part = [self._pixels(image) for image in images[start : start + batch_size]]
            # Padded to a power of two: few shapes, few compilations.
            size = 1 << (len(part) - 1).bit_length()
            pixels = np.stack(part + [part[-1]] * (size - len(part)))
            rows.append(np.asarray(self.probabilities(pixels))[: len(part)])
            if not is_finite(rows[-1]):
                fault = "the image tower's numbers overflow in the dtype it computes in"
                raise NonFiniteError(f"{fault}; load the model with dtype=None, float32.")
        return np.concatenate(rows)

    def _pixels(self, image: str | os.PathLike | bytes | np.ndarray) -> np.ndarray:
        if not isinstance(image, (str, os.PathLike)):
            return self.preprocess.crop(image)
        try:
            encoded = pathlib.Path(image).read_bytes()
        except OSError as error:
            raise DataError(f"{os.fspath(image)} cannot be read ({error.strerror}).") from None
        return self.preprocess.crop(encoded, os.fspath(image))


def load_adapted(directory: str | os.PathLike, *, dtype: Any = None) -> Adapted:
    """Load what `save_adapted` or `clipjax export` wrote.

        model = load_adapted("adapted")
        probabilities = model.predict(["cat.jpg"])
        print(model.classes[probabilities[0].argmax()])

    The image tower computes in `dtype`, float32 by default. CheckpointError: no such directory, a
    file missing, damaged or replaced since the export, heads that do not fit.
    """
    directory = pathlib.Path(directory)
    if not directory.is_dir():
        raise CheckpointError(f"{directory} is not a directory; `clipjax export` writes one.")
    trained, record = _read_heads(directory)
    config, params = load_clip(directory)
    if config.vision is None:
        raise CheckpointError(f"{directory} has no image tower; it cannot look at images.")
    preprocess = load_preprocess(directory)
    check_size(config, preprocess, directory)
    if changed := differences(record, _identity(config, params, preprocess, trained.params)):
        fault = f"{directory} is not as it was exported (changed: {changed})"
        raise _damaged(f"{fault}, and its heads fit no other features")
    forward = jax.jit(make_forward(config, preprocess, trained.heads, dtype or jnp.float32))
    # Parameters are arguments, not constants: constants would be compiled into the program.
    return Adapted(trained.classes, preprocess, functools.partial(forward, params, trained.params))


def _identity(
    config: CLIPConfig, params: PyTree, preprocess: Preprocess, heads: PyTree
) -> dict[str, Any]:
    """Return all that decides a model's answers; weights as hashes of their bytes."""
    vision = {"vision": params["vision"], "visual_projection": params["visual_projection"]}
    sha256 = lambda data: hashlib.sha256(data).hexdigest()
    leaf_hash = lambda leaf: sha256(np.ascontiguousarray(leaf).view(np.uint8).data)
    with concurrent.futures.ThreadPoolExecutor() as pool:  # hashing lets other threads run
        hashes = {
            name: sha256("".join(pool.map(leaf_hash, flat(tree).values())).encode())
            for name, tree in (("weights", vision), ("heads.safetensors", heads))
        }
    return hashes | sizes(dataclasses.replace(config, text=None), preprocess)


def _read_heads(directory: pathlib.Path) -> tuple[Trained, dict[str, Any]]:
    """Read and check the heads of a directory, and its `_identity` ({} in older exports)."""
    file = directory / HEADS
    if not file.exists():
        raise CheckpointError(
            f"{directory} has no {HEADS}: it is a plain CLIP (`load_clip` reads it), not an "
            "adapted one; `clipjax export` writes those."
        )
    data = read_json(file)
    if data.get("format") != FORMAT:
        raise _damaged(f"{file} has format {data.get('format')}, this clipjax reads {FORMAT}")
    try:
        classes, made = tuple(data["classes"]), {name: data[name] for name in FIELDS}
        made |= {k: tuple(made[k]) for k in FIELDS[:2] if made[k] is not None}
        heads = Heads(num_classes=len(classes), **made)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(f"{file} is damaged ({type(error).__name__}: {error})") from None
    stored = stored_in(directory / "heads.safetensors")
    width = read_json(directory / "config.json").get("projection_dim", 512)
    shapes = jax.eval_shape(heads.init, jax.random.key(0), jnp.zeros((1, width)))["params"]
    params = {}
    for name, leaf in flat(shapes).items():
        found = stored[name].shape if name in stored else "missing"
        if found != leaf.shape:
            fault = f"{name} is {found}, {HEADS} wants {leaf.shape}"
            raise _damaged(f"{directory}/heads.safetensors: {fault}")
        tensor = read_tensor(stored[name])
        params[name] = jax.device_put(checked(name, tensor, tensor.dtype, stored[name].file))
    return Trained(heads, unflatten_dict(params, sep="/"), classes), data.get("identity", {})


def _damaged(fault: str) -> CheckpointError:
    return CheckpointError(f"{fault}; export the run again.")


def check_names(classes: Sequence[str]) -> None:
    """Raise ConfigError for classes of one name, which no answer by name could tell apart."""
    if twice := sorted({name for name in classes if list(classes).count(name) > 1}):
        told = f"{', '.join(map(repr, twice))} names more than one class"
        raise ConfigError(f"{told}; give every class a name of its own.")


def save_adapted(
    directory: str | os.PathLike,
    *,
    config: CLIPConfig,
    params: PyTree,
    preprocess: Preprocess,
    trained: Trained,
    tokenizer: str | os.PathLike,
    card: str,
    dtype: Any = None,
    onnx: bool = False,
) -> None:
    """Write an adapted model; files of the same names in `directory` are replaced.

    transformers opens the CLIP. `CLIPForImageClassification` is no class for it: that one reads the
    mean of the patches, not the projected class token. Its `id2label` is empty, so that no pipeline
    makes up a classifier.

    Args:
      config, params, preprocess: of the CLIP, which is stored in `dtype`, or that of `params`.
      trained: adapter and class head; a domain head is left out.
      tokenizer: a model directory whose tokenizer files are copied.
      card: text of README.md.
      onnx: whether to write two ONNX files too, as `clipjax.export.onnx`, with its errors.

    ConfigError, before anything is written: two classes of one name, or what ONNX lacks.
    """
    directory = pathlib.Path(directory)
    check_names(trained.classes)
    if onnx:
        check_onnx(config)
    (directory / HEADS).unlink(missing_ok=True)  # written last: where it is, the rest is whole
    save_clip(directory, config, params, dtype)
    file = directory / "config.json"
    write_json(file, read_json(file) | {"id2label": {}, "label2id": {}})
    save_preprocess(directory, preprocess)
    copy_tokenizer(pathlib.Path(tokenizer), directory)
    kept = {k: v for k, v in trained.params.items() if k != "discriminator"}
    file = directory / "heads.safetensors"
    named = {n: checked(n, np.asarray(x), x.dtype, file) for n, x in flat(kept).items()}
    write_tensors(file, named)
    (directory / CLASSIFIER).unlink(missing_ok=True)
    if affine := as_affine(trained.heads, kept):
        weight, bias = (np.ascontiguousarray(x, np.float32) for x in affine)
        write_tensors(directory / CLASSIFIER, {"weight": weight, "bias": bias})
    if onnx:
        save_onnx(directory, config, params, trained.heads, kept, trained.classes)
    write_atomically(directory / "README.md", card)
    stored = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, dtype or x.dtype), params)
    heads = trained.heads.clone(discriminator=None)  # flax looks for parameters of all it has
    save_program(directory, config, preprocess, heads, stored, kept)
    found = load_clip(directory)[1]  # as `load_adapted` will
    identity = _identity(config, found, load_preprocess(directory), kept)
    made = {name: getattr(heads, name) for name in FIELDS}
    content = {"format": FORMAT, "classes": trained.classes, **made, "identity": identity}
    write_json(directory / HEADS, content)
