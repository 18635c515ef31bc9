"""Class texts are tokenized and encoded once; a damaged or unwritable cache changes nothing."""

import dataclasses
import sys

import numpy as np
import pytest

from clipjax.adapt.linear import linear_logits, zero_shot_head
from clipjax.study import Encoder, Features, Study, encode, prompt_sets, words
from clipjax.study.encode import encode_texts
from clipjax.study.plan import prepare


def study(folder, **encoder):
    return Study(features=Features(cache_dir=str(folder)), encoder=Encoder(**encoder))


def never(*_, **__):
    raise AssertionError("the text side ran again")


def test_a_second_start_opens_neither_tokenizer_nor_text_tower(tmp_path, monkeypatch):
    first = encode_texts(prepare(study(tmp_path)))
    with monkeypatch.context() as patched:
        patched.setattr(prompt_sets, "load_tokenizer", never)
        patched.setattr(encode, "class_weights", never)
        for name in ("transformers", "tokenizers"):
            patched.setitem(sys.modules, name, None)  # an import of it fails
        again = encode_texts(prepare(study(tmp_path)))
        with pytest.raises(AssertionError, match="ran again"):  # other prompts are other texts
            prepare(study(tmp_path, prompts="simple"))
    np.testing.assert_array_equal(first.text_weights, again.text_weights)
    np.testing.assert_array_equal(first.tokens, again.tokens)
    for file in (tmp_path / "texts").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    mended = encode_texts(prepare(study(tmp_path)))
    np.testing.assert_array_equal(first.text_weights, mended.text_weights)


def test_other_prompt_sets_are_those_of_a_run_with_them(tmp_path, monkeypatch):
    opened = prepare(study(tmp_path))
    found = encode.text_weights(opened, words.other_tokens(opened, "simple"))
    with monkeypatch.context() as patched:  # from the cache, as that run finds them
        patched.setattr(prompt_sets, "load_tokenizer", never)
        patched.setattr(encode, "class_weights", never)
        own = encode_texts(prepare(study(tmp_path, prompts="simple")))
    np.testing.assert_array_equal(found, own.text_weights)
    # Zero-shot logits are of the texts that heads start at, whatever the prompts.
    features = np.random.default_rng(0).normal(size=(3, own.text_weights.shape[1]))
    start = linear_logits(zero_shot_head(own.classes), features.astype(np.float32))
    np.testing.assert_allclose(own.zero_shot(features), start, rtol=1e-5, atol=1e-5)


def test_a_cache_that_cannot_be_written_is_warned_of(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    found = encode_texts(prepare(study(tmp_path / "file" / "cache")))
    assert "cannot be kept" in capsys.readouterr().err
    off = study(tmp_path / "none")
    off = dataclasses.replace(off, features=dataclasses.replace(off.features, cache=False))
    np.testing.assert_array_equal(encode_texts(prepare(off)).text_weights, found.text_weights)
    assert not (tmp_path / "none").exists()
