"""Tokenizer, prompts and the zero-shot classifier."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from clipjax.errors import CheckpointError
from clipjax.model.clip import normalize

# Named prompt sets; `{}` stands for the class name. The first text of a set is its plainest.
PROMPTS: dict[str, tuple[str, ...]] = {
    "name": ("{}",),
    "simple": ("a photo of a {}.",),
    "drawings": (
        "{}",
        "a picture of a {}",
        "a drawing of a {}",
        "an icon of a {}",
    ),
}


def load_tokenizer(directory: str | os.PathLike) -> Callable[[Sequence[str]], np.ndarray]:
    """The tokenizer of a Hugging Face CLIP directory as a pure function.

    Returns:
      `tokenize(texts) -> int32 [len(texts), context]`, padded to the model's context length; texts
      that are too long are cut and keep their EOS token.

    Raises:
      CheckpointError: the directory holds no vocabulary; the message names the files looked for.
    """
    if not any(
        os.path.exists(os.path.join(directory, f)) for f in ("vocab.json", "tokenizer.json")
    ):
        raise CheckpointError(
            f"{directory} holds no tokenizer: neither vocab.json (with merges.txt) nor "
            "tokenizer.json is there; copy them from the model's repository."
        )
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # no advice about a missing torch
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(str(directory))
    context = min(tokenizer.model_max_length, 77)

    def tokenize(texts: Sequence[str]) -> np.ndarray:
        out = tokenizer(list(texts), padding="max_length", truncation=True, max_length=context)[
            "input_ids"
        ]
        return np.asarray(out, np.int32)

    return tokenize


def fill_prompts(class_name: str, prompts: str | Sequence[str]) -> list[str]:
    """Puts a class name into prompt templates: one template, a list, or the name of a set.

    >>> fill_prompts("The_Eiffel_Tower", "a photo of a {}.")
    ['a photo of a The Eiffel Tower.']
    >>> len(fill_prompts("cat", "drawings"))
    4

    Raises:
      ValueError: a text that is neither a set's name nor a template with `{}`.
    """
    if isinstance(prompts, str):
        prompts = PROMPTS.get(prompts, (prompts,))
    for prompt in prompts:
        if "{}" not in prompt:
            raise ValueError(
                f"prompt {prompt!r} has no {{}} for the class name and is no named set; "
                f"sets: {', '.join(PROMPTS)}."
            )
    name = class_name.replace("_", " ").strip()
    return [prompt.replace("{}", name) for prompt in prompts]


def zero_shot_classifier(
    encode_text: Callable[[np.ndarray], jnp.ndarray],
    tokenize: Callable[[Sequence[str]], np.ndarray],
    class_names: Sequence[str],
    prompts: str | Sequence[str] = "simple",
    *,
    batch_size: int = 256,
) -> jnp.ndarray:
    """Class weights from text: normalise each prompt's embedding, average, normalise again.

    Radford et al. 2021, section 3.1.4. `features @ weights.T` are cosine similarities.

    Args:
      encode_text: token ids int32 [B, T] -> embeddings [B, P].
      tokenize: texts -> token ids, see `load_tokenizer`.
      class_names: K names.
      prompts: a template, a list of them, or a key of `PROMPTS`.
      batch_size: texts encoded at a time (bounds memory; the last batch is padded).

    Returns:
      float32 [K, P], rows of length 1.
    """
    per_class = [fill_prompts(name, prompts) for name in class_names]
    texts = [text for filled in per_class for text in filled]
    rows = []
    for start in range(0, len(texts), batch_size):
        part = texts[start : start + batch_size]
        padded = part + [""] * (min(batch_size, len(texts)) - len(part))
        rows.append(normalize(encode_text(tokenize(padded)))[: len(part)])
    embedded = jnp.concatenate(rows).reshape(len(per_class), len(per_class[0]), -1)
    return normalize(embedded.mean(axis=1))
