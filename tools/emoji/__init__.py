"""The parts of ``tools/build_emoji.py``, which builds the embedded emoji dataset."""
