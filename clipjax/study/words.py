"""What learned prompts need of a study: tokens, the words they start as, and memory."""

import dataclasses
import importlib.metadata
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clipjax.adapt.context import tower_bytes
from clipjax.adapt.method import Words
from clipjax.errors import CheckpointError, ConfigError
from clipjax.model.hf.tokenizer import load_tokenizer
from clipjax.study.mesh import device_memory, training_mesh
from clipjax.study.methods import Method
from clipjax.study.parts import Features
from clipjax.study.prepared import Plan, cached_phases, made_of, through_images
from clipjax.study.prompt_sets import kept_tokens, read_prompts
from clipjax.study.text_cache import kept
from clipjax.study.training import PhaseConfig


def other_tokens(plan: Plan, prompts: str) -> np.ndarray:
    """Return token ids of another prompt set, or template, than the study's own."""
    encoder = dataclasses.replace(plan.study.encoder, prompts=prompts)
    read = lambda: read_prompts(encoder, plan.class_names, plan.model)
    return kept_tokens(plan.study.features, plan.class_names, prompts, plan.identity, read)


def with_words(plan: Plan) -> Plan:
    """Read what methods with learned prompts start from; ConfigError: words that are no tokens."""
    asked = {m.config.stage: m.kind.words for m in plan.methods.values() if m.trains}
    asked = {stage: words for stage, words in asked.items() if words is not None}
    if not asked:
        return plan
    if "text" not in plan.params:
        told = f"methods.{next(iter(asked))} learns prompts, and the model has no text tower"
        raise ConfigError(f"{told}; give a CLIP.")
    found, embeddings = {}, np.asarray(plan.params["text"]["token_embedding"], np.float32)
    for stage, texts in asked.items():
        for text in texts:
            try:
                ids = kept_words(plan.study.features, text, plan.identity, plan.model)
            except (CheckpointError, ConfigError) as error:
                raise ConfigError(f"methods.{stage}: words={text!r}: {error}") from None
            found[text] = Words(ids, embeddings[ids])
    return plan._replace(bare=other_tokens(plan, "{}.")[:, 0], words=found)


def kept_words(
    features: Features, text: str, identity: Mapping[str, Any], model: pathlib.Path
) -> np.ndarray:
    """Return token ids of a text without begin and end, int32 [n], from the cache if there.

    ConfigError: it has none, or holds that of a text's begin or end.
    """

    def read() -> np.ndarray:
        tokenize = load_tokenizer(model)
        tokenize([""])  # whose error is one of the tokenizer's files
        try:
            both = tokenize(["", text])
        except CheckpointError:
            told = "they hold the token of a text's begin or end"
            raise ConfigError(f"{told}; give words of a text alone.") from None
        return both[1, 1 : int(np.argmax(both[1] == both[0, 1]))]  # the empty text's end

    key = {"words": text} | identity
    ids = kept(features, key | {"transformers": importlib.metadata.version("transformers")}, read)
    if not len(ids):
        raise ConfigError("they are no tokens; give words, or '' for random vectors.")
    return ids


def check_steps(plan: Plan) -> None:
    """Raise ConfigError for steps whose texts and images memory does not hold."""
    training, memory = plan.study.training, device_memory()
    for method in plan.methods.values():
        if not method.trains or method.kind.step_bytes is None:
            continue
        size = method.config.batch_size // training.accumulate
        for phase, cached in zip(method.phases, cached_phases(plan, method), strict=True):
            seeds = len(training.seeds) if cached else 1  # all as one program, or in turn
            texts = seeds * made_of(plan, method, phase).step_bytes(size)
            images = 0 if cached else image_bytes(plan, method, phase, size)
            if texts + images > memory:
                told = f"{texts / 1e9:.1f} GB for texts"
                told += f" and {images / 1e9:.1f} GB for images" if images else ""
                raise ConfigError(
                    f"{phase.name}: a step of {size} images and {len(plan.dataset.classes)} "
                    f"classes needs about {told}, of {memory / 1e9:.1f} GB; give a smaller "
                    "batch_size or chunk, or fewer seeds."
                )


def image_bytes(plan: Plan, method: Method, phase: PhaseConfig, images: int) -> int:
    """Return about how many bytes of a device's memory images and their tower take in a step."""
    encoder, tower = plan.study.encoder, plan.clip_config.vision
    if jax.local_devices()[0].platform != "cpu":  # there all devices live in one memory
        size, accumulate = method.config.batch_size, plan.study.training.accumulate
        images = -(-images // training_mesh(plan.study.devices, size, accumulate).size)
    learns = through_images(plan, method, phase)
    found = tower_bytes(tower, images, tower.num_patches + 1, encoder.remat, learns)
    pixels = 4 * 3 * images * plan.preprocess.size**2
    return pixels + found * jnp.dtype(encoder.compute_dtype).itemsize // 4
