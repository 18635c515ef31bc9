"""The tokenizer of a CLIP, its ids checked against the text tower that reads them."""

import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from clipjax.errors import CheckpointError
from clipjax.io.texts import counted
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
    """Load the tokenizer of a CLIP as a pure function. Needs transformers, not torch.

    Args:
      name_or_path, revision: as for `clipjax.load_clip`, but no weights are fetched.
      context: tokens per text; None takes the text tower's.
      tower: text tower to check the ids against; None takes that of config.json.

    Returns:
      `tokenize(texts) -> int32 [len(texts), context]`, padded; long texts are cut and keep their
      EOS token. It raises CheckpointError for an id without an embedding, or a text whose end is
      not where the tower pools.

    CheckpointError as for `clipjax.load_clip`, and if there is no vocabulary, or a damaged one.
    """
    directory = find_tokenizer(name_or_path, revision)
    if not any((directory / f).exists() for f in ("vocab.json", "tokenizer.json")):
        files = "vocab.json (with merges.txt) nor tokenizer.json"
        raise CheckpointError(f"{directory} holds neither {files}; copy them.")
    if tower is None and (context is None or (directory / "config.json").exists()):
        tower = config_from_hf(read_json(directory / "config.json")).text
        if tower is None:
            raise CheckpointError(f"{directory} holds an image tower only; it cannot read texts.")
    context = tower.max_position_embeddings if context is None else context
    if context < 2:
        fault = f"{counted(context, 'token')} has no room for a text"
        raise CheckpointError(f"{directory}: {fault}; correct max_position_embeddings.")
    tokenizer = _open_tokenizer(directory)

    def tokenize(texts: Sequence[str]) -> np.ndarray:
        texts = list(texts)
        found = tokenizer(texts, padding="max_length", truncation=True, max_length=context)
        ids = np.asarray(found["input_ids"], np.int32)
        if tower is not None:
            last = np.asarray(found["attention_mask"]).sum(axis=1) - 1
            _check_tokens(tokenizer, texts, ids, last, tower)
        return ids

    return tokenize


def _open_tokenizer(directory: pathlib.Path):
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # no advice about a missing torch
    from transformers import CLIPTokenizer

    there = [file for file in TOKENIZER_FILES if (directory / file).exists()]
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        data = read_json(directory / file) if file in there else {}
        if null := [key for key in ("bos_token", "eos_token") if data.get(key, "") is None]:
            raise CheckpointError(f"{directory / file}: {null[0]} is null; name the token.")
    try:
        # With padding on the left the end would not be where towers look for it.
        tokenizer = CLIPTokenizer.from_pretrained(str(directory), padding_side="right")
    except Exception as error:  # tokenizers raises bare ones
        why = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"the tokenizer's files in {directory} ({', '.join(there)}) are damaged or do not fit "
            f"each other ({why}); copy them again."
        ) from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if "tokenizer.json" not in there:
        _check_merges(directory, tokenizer)
    return tokenizer


def _check_merges(directory: pathlib.Path, tokenizer) -> None:
    """Refuse a merges.txt that was cut short: words would fall into other, shorter tokens."""
    lines = (directory / "merges.txt").read_text(encoding="utf-8").splitlines()
    made = {"".join(line.split()) for line in lines}
    learned = {t for t in read_json(directory / "vocab.json") if len(t.removesuffix("</w>")) > 1}
    named = {t for t in learned if t[0] + t[-1] in ("<>", "[]")}  # special, or kept for later use
    if lost := sorted(learned - named - made - set(tokenizer.get_added_vocab())):
        lacks = f"it makes no token {lost[0]!r} ({len(lost)} like it)"
        file = directory / "merges.txt"
        raise CheckpointError(f"{file} does not belong to vocab.json: {lacks}; copy both again.")


def _check_tokens(
    tokenizer, texts: Sequence[str], ids: np.ndarray, last: np.ndarray, tower: TextConfig
) -> None:
    """Refuse ids [N, T] outside of the vocabulary, or whose begin or end [N] the tower misreads."""

    def refuse(row: int, at: int, fault: str):
        found = int(ids[row, at])
        raise CheckpointError(
            f"the tokenizer in {tokenizer.name_or_path} and its config.json disagree: token "
            f"{tokenizer.convert_ids_to_tokens(found)!r} (id {found}) of {texts[row]!r} {fault}; "
            "take both from one model, or correct the file that is wrong."
        )

    for row, at in np.argwhere((ids < 0) | (ids >= tower.vocab_size))[:1]:
        refuse(row, at, f"is not below vocab_size {tower.vocab_size}")
    old = tower.eos_token_id == 2  # see clipjax.model.clip.pool_positions
    pooled = np.argmax(ids if old else ids == tower.eos_token_id, axis=1)
    for row in np.flatnonzero(pooled != last)[:1]:
        rule = "the largest id" if old else f"the first id {tower.eos_token_id}"
        fault = f"is its end, and a tower with eos_token_id {tower.eos_token_id} looks for that at"
        refuse(row, last[row], f"{fault} {rule}")
    begin = tower.bos_token_id
    if old or begin is None or begin >= tower.vocab_size:  # as in files that do not set it
        return
    for row in np.flatnonzero(ids[:, 0] != begin)[:1]:
        refuse(row, 0, f"is its begin, not bos_token_id {begin}")


def read_words(directory: pathlib.Path, ids: Sequence[int]) -> list[str]:
    """Return what tokens stand for; "word-" where another token goes on with it.

    Read from the vocabulary's file, without transformers; a number that has no word is "#number".
    """
    file = directory / "vocab.json"
    vocabulary = read_json(file if file.exists() else directory / "tokenizer.json")
    vocabulary = vocabulary if file.exists() else vocabulary["model"]["vocab"]
    tokens = {number: token for token, number in vocabulary.items()}
    return [_word(tokens.get(int(i), f"#{i}</w>")) for i in ids]


def _word(token: str) -> str:
    if token.startswith("<|"):
        return token
    # Bytes that are no visible letters stand in a vocabulary as letters from 256 on (Radford 2019).
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in seen]
    undo = {chr(byte): byte for byte in seen}
    undo |= {chr(256 + place): byte for place, byte in enumerate(hidden)}
    stem = token.removesuffix("</w>")
    text = bytes(undo.get(letter, 63) for letter in stem).decode("utf-8", "replace")
    return text + "-" * (stem == token)
