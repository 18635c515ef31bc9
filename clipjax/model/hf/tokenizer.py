"""The tokenizer of a CLIP, its ids checked against the text tower that reads them."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from clipjax.errors import CheckpointError
from clipjax.model.clip import TextConfig
from clipjax.model.hf.config import config_from_hf
from clipjax.model.hf.hub import TOKENIZER_FILES, find_tokenizer
from clipjax.model.hf.weights import read_json


def load_tokenizer(
    name_or_path: str | os.PathLike,
    *,
    revision: str | None = None,
    context: int | None = None,
    tower: TextConfig | None = None,
) -> Callable[[Sequence[str]], np.ndarray]:
    """The tokenizer of a CLIP as a pure function. Needs transformers, not torch.

    Args:
      name_or_path: as `clipjax.load_clip` takes it; of a Hub id only config.json and the
        tokenizer's files are fetched, no weights.
      revision: of a Hub id.
      context: tokens a text; None takes the text tower's.
      tower: that reads the ids, which are checked against it; None takes that of config.json.

    Returns:
      `tokenize(texts) -> int32 [len(texts), context]`, padded; texts that are too long are cut and
      keep their EOS token. It raises CheckpointError where tokenizer and tower disagree: an id
      that the tower has no embedding for, or a text whose end is not where the tower looks for it.

    Raises:
      CheckpointError: there is no vocabulary (the message names the files looked for), it is
        damaged, or no such model, revision, network or permission.
    """
    directory = find_tokenizer(name_or_path, revision)
    if not any((directory / f).exists() for f in ("vocab.json", "tokenizer.json")):
        raise CheckpointError(
            f"{directory} holds no tokenizer: neither vocab.json (with merges.txt) nor "
            "tokenizer.json is there; copy them from the model's repository."
        )
    if tower is None and (context is None or (directory / "config.json").exists()):
        tower = _text_tower(directory)
    context = tower.max_position_embeddings if context is None else context
    if context < 2:
        raise CheckpointError(
            f"{directory}: a text of {context} token{'s' * (context != 1)} has no room for its "
            "begin and its end; correct max_position_embeddings in config.json."
        )
    tokenizer = _open_tokenizer(directory)

    def tokenize(texts: Sequence[str]) -> np.ndarray:
        texts = list(texts)
        found = tokenizer(texts, padding="max_length", truncation=True, max_length=context)
        ids = np.asarray(found["input_ids"], np.int32)
        if tower is not None:
            last = np.asarray(found["attention_mask"]).sum(axis=1) - 1
            _check_tokens(ids, last, tower, lambda row, at: _told(tokenizer, texts, ids, row, at))
        return ids

    return tokenize


def _text_tower(directory: pathlib.Path) -> TextConfig:
    config = config_from_hf(read_json(directory / "config.json"))
    if config.text is None:
        raise CheckpointError(f"{directory} holds an image tower only; it cannot read texts.")
    return config.text


def _open_tokenizer(directory: pathlib.Path):
    """transformers' tokenizer, padding on the right.

    Raises:
      CheckpointError: files that are damaged or do not fit each other.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # no advice about a missing torch
    from transformers import CLIPTokenizer

    there = [file for file in TOKENIZER_FILES if (directory / file).exists()]
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        data = read_json(directory / file) if file in there else {}
        for key in ("bos_token", "eos_token"):
            if data.get(key, "") is None:
                raise CheckpointError(
                    f"{directory / file}: {key} is null, and a CLIP's texts need one; name the "
                    "token, as the model's repository does."
                )
    try:
        # Ids depend on no padding; left padding would put the end where no tower looks for it.
        tokenizer = CLIPTokenizer.from_pretrained(str(directory), padding_side="right")
    except Exception as error:  # tokenizers raises bare ones
        why = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"the tokenizer's files in {directory} ({', '.join(there)}) are damaged or do not fit "
            f"each other ({why}); copy them from the model's repository again."
        ) from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if "tokenizer.json" not in there:
        _check_merges(directory, tokenizer)
    return tokenizer


def _check_merges(directory: pathlib.Path, tokenizer) -> None:
    """Refuses a merges.txt that was cut short: words would fall into other, shorter tokens."""
    lines = (directory / "merges.txt").read_text(encoding="utf-8").splitlines()
    made = {"".join(line.split()) for line in lines}
    learned = {t for t in read_json(directory / "vocab.json") if len(t.removesuffix("</w>")) > 1}
    named = {t for t in learned if t[0] + t[-1] in ("<>", "[]")}  # special, or kept for later use
    if lost := sorted(learned - named - made - set(tokenizer.get_added_vocab())):
        raise CheckpointError(
            f"{directory / 'merges.txt'} does not belong to vocab.json: it makes no token "
            f"{lost[0]!r} ({len(lost)} like it); copy both from the model's repository again."
        )


def _told(tokenizer, texts: Sequence[str], ids: np.ndarray, row: int, at: int) -> str:
    """A token of a text, for people."""
    found = int(ids[row, at])
    where = f"token {tokenizer.convert_ids_to_tokens(found)!r} (id {found}) of {texts[row]!r}"
    return f"the tokenizer in {tokenizer.name_or_path} and its config.json disagree: {where}"


def _check_tokens(
    ids: np.ndarray, last: np.ndarray, tower: TextConfig, told: Callable[[int, int], str]
) -> None:
    """Refuses ids that a text tower would read as something else than was written.

    Args:
      ids: int32 [N, T].
      last: int [N], where each text's last token is, behind which there is padding.
      tower: that reads them.
      told: (row, column) -> the beginning of a sentence about that token.

    Raises:
      CheckpointError: an id outside of the vocabulary (JAX would take the nearest row), a text
        that is pooled elsewhere than at its end, or one that begins with another token.
    """
    remedy = "take both from one model, or correct the file that is wrong."
    for row, at in np.argwhere((ids < 0) | (ids >= tower.vocab_size))[:1]:
        raise CheckpointError(
            f"{told(row, at)} is not below vocab_size {tower.vocab_size}; {remedy}"
        )
    quirk = tower.eos_token_id == 2  # see clipjax.model.clip.pool_positions
    pooled = np.argmax(ids if quirk else ids == tower.eos_token_id, axis=1)
    for row in np.flatnonzero(pooled != last)[:1]:
        rule = "the largest id" if quirk else f"the first id {tower.eos_token_id}"
        raise CheckpointError(
            f"{told(row, last[row])} is its end, and a tower with eos_token_id "
            f"{tower.eos_token_id} looks for that at {rule}; {remedy}"
        )
    begin = tower.bos_token_id
    if quirk or begin is None or begin >= tower.vocab_size:  # as in files that say nothing of it
        return
    for row in np.flatnonzero(ids[:, 0] != begin)[:1]:
        raise CheckpointError(f"{told(row, 0)} is its begin, not bos_token_id {begin}; {remedy}")
