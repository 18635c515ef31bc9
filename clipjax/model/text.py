"""The tokenizer and the zero-shot classifier."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from clipjax.errors import CheckpointError
from clipjax.model.clip import normalize
from clipjax.model.hf.config import config_from_hf
from clipjax.model.hf.hub import find_tokenizer
from clipjax.model.hf.weights import read_json
from clipjax.model.prompts import fill_prompts


def load_tokenizer(
    name_or_path: str | os.PathLike, *, revision: str | None = None, context: int | None = None
) -> Callable[[Sequence[str]], np.ndarray]:
    """The tokenizer of a CLIP as a pure function. Needs transformers, not torch.

    Args:
      name_or_path: as `clipjax.load_clip` takes it; of a Hub id only config.json and the
        tokenizer's files are fetched, no weights.
      revision: of a Hub id.
      context: tokens a text; None takes the text tower's from config.json.

    Returns:
      `tokenize(texts) -> int32 [len(texts), context]`, padded; texts that are too long are cut and
      keep their EOS token.

    Raises:
      CheckpointError: there is no vocabulary (the message names the files looked for), or no
        such model, revision, network or permission.
    """
    directory = find_tokenizer(name_or_path, revision)
    if not any((directory / f).exists() for f in ("vocab.json", "tokenizer.json")):
        raise CheckpointError(
            f"{directory} holds no tokenizer: neither vocab.json (with merges.txt) nor "
            "tokenizer.json is there; copy them from the model's repository."
        )
    if context is None:
        context = _context(directory)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # no advice about a missing torch
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(str(directory))

    def tokenize(texts: Sequence[str]) -> np.ndarray:
        out = tokenizer(list(texts), padding="max_length", truncation=True, max_length=context)[
            "input_ids"
        ]
        return np.asarray(out, np.int32)

    return tokenize


def _context(directory: pathlib.Path) -> int:
    config = config_from_hf(read_json(directory / "config.json"))
    if config.text is None:
        raise CheckpointError(f"{directory} holds an image tower only; it cannot read texts.")
    return config.text.max_position_embeddings


def zero_shot_classifier(
    encode_text: Callable[[np.ndarray], jnp.ndarray],
    tokenize: Callable[[Sequence[str]], np.ndarray],
    class_names: Sequence[str],
    prompts: str | Sequence[str] = "simple",
    *,
    batch_size: int = 64,
) -> jnp.ndarray:
    """Class weights from text: normalise each prompt's embedding, average, normalise again.

    Radford et al. 2021, section 3.1.4. `features @ weights.T` are cosine similarities.

    Args:
      encode_text: token ids int32 [B, T] -> embeddings [B, P], T at most the tokenizer's context: a
        causal tower, which does not look at the padding that is cut off. Compile it with the
        parameters as an argument: as constants they would be in memory twice.
      tokenize: texts -> token ids, see `load_tokenizer`.
      class_names: K names.
      prompts: a template, a list of them, or the name of a set (`clipjax.model.prompts.PROMPTS`).
      batch_size: texts encoded at a time (bounds memory; the last batch is padded).

    Returns:
      float32 [K, P], rows of length 1.
    """
    per_class = [fill_prompts(name, prompts) for name in class_names]
    texts = [text for filled in per_class for text in filled]
    ids = without_padding(tokenize(texts))
    batch_size = min(batch_size, len(ids))
    rows = []
    for start in range(0, len(ids), batch_size):
        part = ids[start : start + batch_size]
        padded = np.concatenate([part, ids[: batch_size - len(part)]])  # one shape
        rows.append(normalize(encode_text(padded))[: len(part)])
    embedded = jnp.concatenate(rows).reshape(len(per_class), len(per_class[0]), -1)
    return normalize(embedded.mean(axis=1))


def without_padding(ids: np.ndarray, multiple: int = 8) -> np.ndarray:
    """Cuts columns of padding off token ids, int32 [N, T] -> [N, t]; every text keeps its EOS.

    A causal tower pooled at the EOS token gives the same embeddings; prompts of a dozen tokens in a
    context of 77 are encoded several times as fast. The length is rounded up to a multiple, so that
    few shapes are compiled.

    >>> without_padding(np.array([[7, 1, 9, 9, 9, 9], [7, 1, 2, 9, 9, 9]]), multiple=1).tolist()
    [[7, 1, 9, 9], [7, 1, 2, 9]]
    """
    # What repeats at a row's end is padding, except the first of it, which may be the EOS.
    repeats = np.cumprod((ids == ids[:, -1:])[:, ::-1], axis=1).sum(axis=1)
    longest = ids.shape[1] - int(repeats.min()) + 1
    return ids[:, : min(ids.shape[1], -(-longest // multiple) * multiple)]
