"""Learns the tiny CLIP's byte-pair vocabulary from the corpus's texts.

    python tools/train_tokenizer.py --texts=corpus_texts.txt --out=clipjax/assets/tiny_clip

Writes vocab.json and merges.txt in CLIP's layout (Sennrich et al. 2016, arXiv 1508.07909; bytes as
alphabet, `</w>` ends a word, the two special tokens come last), which `transformers.CLIPTokenizer`
reads. Same texts, same files.
"""

from __future__ import annotations

import argparse
import json
import pathlib

BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def train(lines: list[str], vocab_size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Learns merges until the vocabulary, special tokens included, has `vocab_size` entries."""
    from tokenizers import models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    backend = CLIPTokenizer().backend_tokenizer  # for CLIP's own normaliser and word splitting
    backend.model = models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix="")
    backend.train_from_iterator(
        sorted(lines),
        trainers.BpeTrainer(
            vocab_size=vocab_size - 256 - 2,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            end_of_word_suffix="</w>",
            special_tokens=[],
            show_progress=False,
        ),
    )
    learned = json.loads(backend.to_str())["model"]["merges"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in learned]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # Every byte, alone and at the end of a word, so that no text at all is unknown.
    entries = alphabet + [c + "</w>" for c in alphabet]
    for left, right in merges:
        if left + right not in entries[:512]:
            entries.append(left + right)
    entries = list(dict.fromkeys(entries))[: vocab_size - 2]
    kept = set(entries)
    merges = [(a, b) for a, b in merges if a + b in kept and a in kept and b in kept]
    return {token: i for i, token in enumerate([*entries, BOS, EOS])}, merges


def save(out: pathlib.Path, vocab: dict, merges: list, context: int) -> None:
    """Writes the four files that `transformers.CLIPTokenizer.from_pretrained` looks for."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False))
    (out / "merges.txt").write_text(
        "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8"
    )
    special = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": EOS}
    (out / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": context, **special}
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=pathlib.Path, required=True, help="one text per line")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="directory to write")
    parser.add_argument("--vocab-size", type=int, default=3072)
    parser.add_argument("--context", type=int, default=16, help="longest text in tokens")
    args = parser.parse_args()
    if not args.texts.exists():
        raise SystemExit(f"{args.texts} does not exist; build it with tools/build_icon_corpus.py.")
    vocab, merges = train(args.texts.read_text().splitlines(), args.vocab_size)
    save(args.out, vocab, merges, args.context)
    print(f"{len(vocab)} tokens, {len(merges)} merges -> {args.out}")


if __name__ == "__main__":
    main()
