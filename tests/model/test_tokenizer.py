"""Tokenizers that do not belong to the text tower beside them, each way refused in a sentence."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from clipjax import load_tokenizer
from clipjax.errors import CheckpointError
from clipjax.model.clip import TextConfig, pool_positions
from tests.conftest import TINY, read_json

TEXTS = ["a photo of a cat.", "a photo of two dogs."]


@pytest.fixture
def model(tmp_path):
    """The tokenizer and config.json of the embedded CLIP, without its weights."""
    for file in ("config.json", "vocab.json", "merges.txt", "tokenizer_config.json"):
        shutil.copyfile(TINY / file, tmp_path / file)
    return tmp_path


def change(directory, file, **values):
    path = directory / file
    path.write_text(json.dumps(read_json(path) | values))


def tower(directory, **values):
    text = read_json(directory / "config.json")["text_config"]
    change(directory, "config.json", text_config=text | values)


def cut(directory, file, share):
    text = (directory / file).read_text()
    (directory / file).write_text(text[: int(len(text) * share)])


def shifted(directory):
    vocab = read_json(directory / "vocab.json")
    (directory / "vocab.json").write_text(json.dumps({k: v + 100 for k, v in vocab.items()}))


def whole_lines(directory):
    lines = (directory / "merges.txt").read_text().splitlines()
    (directory / "merges.txt").write_text("\n".join(lines[:300]) + "\n")


@pytest.mark.parametrize(
    "spoil, words",
    [
        (
            lambda d: (d / "added_tokens.json").write_text('{"cat": 3043}'),
            ("'cat' (id 3043)", "'a photo of a cat.'", "vocab_size 3043"),
        ),
        (lambda d: tower(d, vocab_size=3000), ("id 3041", "vocab_size 3000")),
        (shifted, ("id 3141", "vocab_size 3043")),
        (lambda d: change(d, "tokenizer_config.json", pad_token="<pad>"), ("'<pad>' (id 3043)",)),
        # 320 is the word "a", which every text holds.
        (lambda d: tower(d, eos_token_id=320), ("eos_token_id 320", "'<|endoftext|>' (id 3042)")),
        (lambda d: tower(d, eos_token_id=49407), ("eos_token_id 49407",)),
        (lambda d: tower(d, eos_token_id=None), ("eos_token_id is None",)),
        (lambda d: tower(d, eos_token_id=True), ("eos_token_id is True",)),
        (lambda d: tower(d, vocab_size="3043"), ("vocab_size is '3043'",)),
        (
            lambda d: change(d, "tokenizer_config.json", eos_token="dog</w>"),
            ("'dog</w>'", "its end"),
        ),
        (lambda d: change(d, "tokenizer_config.json", bos_token="dog</w>"), ("its begin", "3041")),
        (lambda d: change(d, "tokenizer_config.json", eos_token=None), ("eos_token is null",)),
        (lambda d: change(d, "tokenizer_config.json", bos_token=None), ("bos_token is null",)),
        (lambda d: tower(d, max_position_embeddings=1), ("1 token has no room",)),
        (lambda d: cut(d, "vocab.json", 0.5), ("vocab.json", "damaged")),
        (whole_lines, ("merges.txt does not belong to vocab.json",)),
        (lambda d: (d / "merges.txt").unlink(), ("damaged or do not fit each other",)),
        (lambda d: (d / "special_tokens_map.json").write_text("{"), ("special_tokens_map.json",)),
    ],
)
def test_what_a_tower_would_misread_is_refused(model, spoil, words):
    spoil(model)
    with pytest.raises(CheckpointError) as caught:
        load_tokenizer(model)(TEXTS)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert len(message.splitlines()) == 1


def test_an_end_token_within_a_text_is_refused(model):
    with pytest.raises(CheckpointError, match=r"'a <\|endoftext\|> cat'"):
        load_tokenizer(model)(["a dog", "a <|endoftext|> cat"])


@pytest.mark.parametrize(
    "harmless",
    [
        lambda d: tower(d, pad_token_id=None),
        lambda d: tower(d, eos_token_id=2, bos_token_id=0, pad_token_id=1),  # pooled by argmax
        lambda d: tower(d, bos_token_id=49406),  # what transformers assumes where a file is silent
        lambda d: change(d, "tokenizer_config.json", pad_token=None),
        lambda d: change(d, "tokenizer_config.json", padding_side="left"),
    ],
)
def test_what_changes_no_embedding_changes_no_token(model, harmless):
    wanted = load_tokenizer(model)(TEXTS)
    harmless(model)
    found = load_tokenizer(model)(TEXTS)
    text = read_json(model / "config.json")["text_config"]
    end = np.asarray(pool_positions(found, text["eos_token_id"]))
    assert end.tolist() == [7, 8]  # by hand: begin, 5 or 6 words and the full stop, end
    for row, at in enumerate(end):
        assert found[row, : at + 1].tolist() == wanted[row, : at + 1].tolist()


def test_ids_are_checked_against_the_tower_given(model):
    small = TextConfig(24, 48, 1, 3, vocab_size=100)
    with pytest.raises(CheckpointError, match="vocab_size 100"):
        load_tokenizer(model, context=8, tower=small)(TEXTS)
    words = {"vocab_size": 3043, "bos_token_id": 3041, "eos_token_id": 3042}
    fitting = dataclasses.replace(small, **words)
    (model / "config.json").unlink()
    assert load_tokenizer(model, context=8, tower=fitting)(TEXTS).shape == (2, 8)
    assert load_tokenizer(model, context=8)(TEXTS).shape == (2, 8)  # nothing to compare with
