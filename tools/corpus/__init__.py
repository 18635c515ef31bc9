"""Parts of `tools/build_icon_corpus.py`: image-text pairs to pretrain the tiny CLIP."""
