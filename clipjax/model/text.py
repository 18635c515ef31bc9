"""The zero-shot classifier: class weights from texts."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from clipjax.errors import CheckpointError, ConfigError
from clipjax.model.clip import normalize
from clipjax.model.prompts import fill_prompts

GROUPS = 5  # of indistinguishable classes, and names in a group, that a sentence lists


def zero_shot_classifier(
    encode_text: Callable[[np.ndarray], jnp.ndarray],
    tokenize: Callable[[Sequence[str]], np.ndarray],
    class_names: Sequence[str],
    prompts: str | Sequence[str] = "simple",
    *,
    batch_size: int = 64,
) -> jnp.ndarray:
    """Compute class weights: normalise each prompt's embedding, average, normalise again.

    Radford et al. 2021, section 3.1.4. `features @ weights.T` are cosine similarities.

    Args:
      encode_text: token ids int32 [B, T] -> embeddings [B, P] of a causal tower; padding is cut
        off. Compile it with the parameters as an argument, or they are in memory twice.
      tokenize: texts -> token ids, see `clipjax.load_tokenizer`.
      class_names: K names.
      prompts: a template, a list of them, or the name of a set (`clipjax.model.prompts.PROMPTS`).
      batch_size: texts encoded at a time; the last batch is padded.

    Returns:
      float32 [K, P], rows of length 1.
    """
    return class_weights(encode_text, class_tokens(tokenize, class_names, prompts), batch_size)


def class_tokens(
    tokenize: Callable[[Sequence[str]], np.ndarray],
    class_names: Sequence[str],
    prompts: str | Sequence[str],
) -> np.ndarray:
    """Tokenize every class in every prompt, int32 [K, prompts, T]; see `zero_shot_classifier`."""
    per_class = [fill_prompts(name, prompts) for name in class_names]
    ids = tokenize([text for filled in per_class for text in filled])
    return ids.reshape(len(per_class), len(per_class[0]), -1)


def class_weights(
    encode_text: Callable[[np.ndarray], jnp.ndarray], tokens: np.ndarray, batch_size: int = 64
) -> jnp.ndarray:
    """Compute class weights float32 [K, P] of ids [K, prompts, T]; see `zero_shot_classifier`."""
    tokens = without_padding(tokens)
    ids = tokens.reshape(-1, tokens.shape[-1])
    batch_size = min(batch_size, len(ids))
    rows = []
    for start in range(0, len(ids), batch_size):
        part = ids[start : start + batch_size]
        padded = np.concatenate([part, ids[: batch_size - len(part)]])  # one shape
        rows.append(normalize(encode_text(padded))[: len(part)])
    embedded = jnp.concatenate(rows).reshape(*tokens.shape[:2], -1)
    return normalize(embedded.mean(axis=1))


def check_class_weights(weights: np.ndarray, origin: object) -> None:
    """Raise CheckpointError for class weights [K, P] that are not finite, or all the same."""
    weights = np.asarray(weights, np.float32)
    fault = ""
    if not np.isfinite(weights).all():
        fault = "NaN or infinity; set compute_dtype to float32"
    elif len(weights) > 1 and np.abs(weights - weights[0]).max() < 1e-6:  # float32's rounding
        fault = f"all {len(weights)} classes one embedding; take all its files from one model"
    if fault:
        raise CheckpointError(f"{origin}: its text tower gives {fault}.")


def confusable(tokens: np.ndarray, classes: Sequence[str], texts: Sequence[str]) -> list[str]:
    """Return warnings of classes with the same tokens; ConfigError if all classes have the same.

    `tokens` are int32 [K, prompts, T], `texts` the first class's prompts.
    """
    if len(classes) < 2:
        return []
    same = (tokens == tokens[:1]).all(axis=(0, 2))
    if same.all():
        fault = f"of all {len(classes)} classes are the same {tokens.shape[-1]} tokens"
        remedy = "use a shorter template, or class_names that differ."
        raise ConfigError(f"the prompts {fault}, as of {texts[0]!r}; {remedy}")
    found = []
    if same.any():
        prompt, share = texts[int(np.argmax(same))], f"{same.sum()} of {len(same)} prompts do"
        fault = f"the same of every class, cut at {tokens.shape[-1]} tokens ({share})"
        found.append(f"the prompt {prompt!r} says {fault}; shorten it.")
    groups: dict[bytes, list[str]] = {}
    for name, ids in zip(classes, tokens, strict=True):
        groups.setdefault(ids.tobytes(), []).append(name)
    if alike := [names for names in groups.values() if len(names) > 1]:
        shown = "; ".join(_listed(names) for names in alike[:GROUPS])
        more = f"; and {len(alike) - GROUPS} more such groups" if len(alike) > GROUPS else ""
        found.append(
            f"CLIP reads the same prompts for {shown}{more}; zero-shot answers the first of them "
            "alone: give them other names by class_names."
        )
    return found


def _listed(names: Sequence[str]) -> str:
    *shown, last = map(repr, names)
    if len(names) > GROUPS:
        shown, last = map(repr, names[:GROUPS]), f"{len(names) - GROUPS} more"
    return f"{', '.join(shown)} and {last}"


def without_padding(ids: np.ndarray, multiple: int = 8) -> np.ndarray:
    """Cut columns of padding off token ids, int32 [..., T] -> [..., t]; every text keeps its EOS.

    A causal tower gives the same embeddings, faster. The length is rounded up to a multiple, so
    that few shapes are compiled.

    >>> without_padding(np.array([[7, 1, 9, 9, 9, 9], [7, 1, 2, 9, 9, 9]]), multiple=1).tolist()
    [[7, 1, 9, 9], [7, 1, 2, 9]]
    """
    # Equal tokens at a row's end are padding, except the first, which may be the EOS.
    repeats = np.cumprod((ids == ids[..., -1:])[..., ::-1], axis=-1).sum(axis=-1)
    longest = ids.shape[-1] - int(repeats.min()) + 1
    return ids[..., : -(-longest // multiple) * multiple]
