"""An adapted model as two ONNX files, each compared with JAX's answers before it counts.

image_classifier.onnx: float32 pixel_values [batch, C, S, S] -> probabilities [batch, K] and
image_embeds [batch, P]. text_encoder.onnx: int64 input_ids [batch, sequence] -> text_embeds
[batch, P]. Embeddings have length 1. Preprocessing and tokens are made outside.
"""

import importlib.util
import json
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from clipjax.errors import CheckpointError, ConfigError
from clipjax.model.clip import CLIP, CLIPConfig, normalize
from clipjax.model.heads import Heads, predict

PyTree = Any
IMAGE, TEXT = "image_classifier.onnx", "text_encoder.onnx"
TOLERANCE = 1e-4  # between onnxruntime and JAX, of probabilities and of embeddings
LARGEST = 1 << 30  # bytes of weights in the file itself; protobuf allows 2 GB a file
_PACKAGES = ("onnx", "onnxruntime")


def check_onnx(config: CLIPConfig) -> None:
    """Raise ConfigError for a package that is missing, or a part that has no ONNX."""
    if missing := [name for name in _PACKAGES if importlib.util.find_spec(name) is None]:
        raise ConfigError(
            f"ONNX files need {' and '.join(missing)}: pip install {' '.join(_PACKAGES)}."
        )
    for tower, part, file in (("image", config.vision, IMAGE), ("text", config.text, TEXT)):
        if part is None:
            fault = f"the model has no {tower} tower, of which {file} would be made"
            raise ConfigError(f"{fault}; export it without ONNX.")


def save_onnx(
    directory: str | os.PathLike,
    config: CLIPConfig,
    params: PyTree,
    heads: Heads,
    head_params: PyTree,
    classes: tuple[str, ...],
) -> None:
    """Write `IMAGE` and `TEXT`, float32 whatever the dtype of `params`, any number of examples.

    `heads` and `head_params` are those of `clipjax.export.adapted.Trained`. Weights above `LARGEST`
    go into a second file, of the name and ".data".

    Raises:
      ConfigError: `check_onnx`.
      CheckpointError: onnxruntime's answers are further than `TOLERANCE` from JAX's.
    """
    check_onnx(config)
    from onnx import TensorProto

    from clipjax.export.onnx_graph import Graph

    directory, about = pathlib.Path(directory), {"classes": json.dumps(list(classes))}
    params, head_params = jax.tree.map(lambda x: np.asarray(x, np.float32), (params, head_params))
    width, side = config.projection_dim, config.vision.image_size
    shape = ("batch", config.vision.num_channels, side, side)
    graph = Graph()
    embeds = graph.named(graph.image("pixel_values", params, config.vision), "image_embeds")
    graph.named(graph.probabilities(embeds, heads, head_params), "probabilities")
    made = graph.model(
        {"pixel_values": (TensorProto.FLOAT, shape)},
        {"probabilities": ("batch", len(classes)), "image_embeds": ("batch", width)},
        about,
    )
    _write(made, directory / IMAGE)
    rng, module = np.random.default_rng(0), CLIP(config)
    pixels = rng.standard_normal((3, *shape[1:]), np.float32)

    @jax.jit
    def classify(params, head_params, x):
        found = normalize(module.apply({"params": params}, x, method="encode_image"))
        return jax.nn.softmax(predict(heads, head_params, found)), found

    answers = classify(params, head_params, pixels.transpose(0, 2, 3, 1))
    _compare(directory / IMAGE, {"pixel_values": pixels}, answers)
    graph = Graph()
    graph.named(graph.text("input_ids", params, config.text), "text_embeds")
    ids = {"input_ids": (TensorProto.INT64, ("batch", "sequence"))}
    _write(graph.model(ids, {"text_embeds": ("batch", width)}, {}), directory / TEXT)
    tokens = _tokens(config, rng)
    encode = jax.jit(lambda params, x: normalize(module.apply(params, x, method="encode_text")))
    answers = [encode({"params": params}, tokens.astype(np.int32))]
    _compare(directory / TEXT, {"input_ids": tokens}, answers)


def _tokens(config: CLIPConfig, rng: np.random.Generator) -> np.ndarray:
    """Return texts of three lengths, int64 [3, T], without a second end."""
    text = config.text
    length, end = text.max_position_embeddings, text.eos_token_id
    largest = text.vocab_size - 1 if end == 2 else end  # of old exports the largest id is the end
    ids = rng.integers(3, max(4, min(largest, text.vocab_size - 1)), (3, length))
    for row, last in zip(ids, (length - 1, length // 2, 1), strict=True):
        row[last:] = largest
    return ids.astype(np.int64)


def _write(model: Any, path: pathlib.Path) -> None:
    """Write a model and check that it is one."""
    import onnx

    size = sum(len(weight.raw_data) for weight in model.graph.initializer)
    more = {}
    if size > LARGEST:
        more = {"save_as_external_data": True, "location": f"{path.name}.data"}
    onnx.save_model(model, str(path), **more)
    onnx.checker.check_model(str(path))


def _compare(path: pathlib.Path, given: dict[str, np.ndarray], answers: Iterable) -> None:
    """Raise CheckpointError unless onnxruntime gives the answers, of one example and of all."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    ((name, inputs),) = given.items()
    for count in (1, len(inputs)):
        found = session.run(None, {name: inputs[:count]})
        for output, theirs, ours in zip(session.get_outputs(), found, answers, strict=True):
            apart = float(np.max(np.abs(theirs - np.asarray(ours)[:count])))
            if not apart <= TOLERANCE:
                told = f"{output.name} of {path.name} by onnxruntime are {apart:.1g} from JAX's"
                raise CheckpointError(f"{told}; export without ONNX files, and report it.")
