"""One prepared TFDS builder: its features, records and labels, without TensorFlow."""

from __future__ import annotations

import contextlib
import hashlib
import os
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from clipjax.data.readers.files import explained
from clipjax.data.splits import split_of
from clipjax.errors import DataError
from clipjax.io import default_cache_dir, replaced
from clipjax.io.texts import check_class_names, some
from clipjax.log import progress

AT_ONCE = 256  # records read together for their labels


class Builder(NamedTuple):
    """A prepared builder's metadata, known without reading records."""

    folder: str
    name: str  # builder/config/version
    image: str  # features
    label: str
    classes: tuple[str, ...]
    splits: dict[str, str]  # ours -> its own
    counts: dict[str, int]  # examples of ours


def read_builder(folder: str) -> Builder:
    """Read a builder's metadata.

    Raises:
      DataError: not ArrayRecord, damaged metadata, no image or no label, unknown splits.
    """
    import tensorflow_datasets as tfds

    info = _open(folder).info
    formats = {f.value for f in info.available_file_formats()}
    if "array_record" not in formats:
        raise DataError(
            f"{folder} holds {', '.join(sorted(formats))} files, which need TensorFlow to be read. "
            "Write ArrayRecord beside them: pip install 'clipjax[tfds]' apache-beam && tfds "
            f"convert_format --dataset_version_dir={folder} --out_file_format=array_record"
        )
    image = _feature(folder, info.features, tfds.features.Image, "image")
    label = _feature(folder, info.features, tfds.features.ClassLabel, "label")
    sizes = {name: split.num_examples for name, split in info.splits.items() if split.num_examples}
    splits = {split: name for name in sizes if (split := split_of(name))}
    if not splits and len(sizes) == 1:
        splits = {"train": next(iter(sizes))}
    if not splits:
        raise DataError(f"{folder} has no split train, validation or test; splits: {list(sizes)}.")
    counts = {ours: sizes[own] for ours, own in splits.items()}
    classes = check_class_names(info.features[label].names, f"label {label!r} of {folder}")
    return Builder(folder, info.full_name, image, label, classes, splits, counts)


def _open(folder: str) -> Any:
    import tensorflow_datasets as tfds

    with reading(folder):
        return tfds.builder_from_directory(folder)


def reading(what: str) -> contextlib.AbstractContextManager[None]:
    """Turn errors in reading into a DataError that names `what`."""
    from google.protobuf.json_format import Error
    from google.protobuf.message import DecodeError

    return explained(what, "prepare the dataset again", RuntimeError, Error, DecodeError)


def _feature(folder: str, features: Any, kind: type, usual: str) -> str:
    """Return the name of the one feature of a kind; the usual name wins."""
    found = [name for name, feature in features.items() if isinstance(feature, kind)]
    if usual in found:
        return usual
    if len(found) != 1:
        listed = some((f"{name} {type(f).__name__}" for name, f in features.items()), 20)
        raise DataError(
            f"{folder} has no single {kind.__name__} feature for the {usual}; features: {listed}."
        )
    return found[0]


class Records:
    """The records of one split: images as encoded bytes, labels without their images."""

    def __init__(self, builder: Builder, split: str):
        import tensorflow_datasets as tfds

        self.builder, self.split, opened = builder, split, _open(builder.folder)
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        with reading(builder.folder):
            self._data = opened.as_data_source(
                split, file_format="array_record", deserialize_method=raw
            )
            files = opened.info.splits[split].file_instructions
            self.stamp = "\n".join([builder.name, split, *(_stamp(f.filename) for f in files)])
        # Of a record only these features are parsed; no image is decoded.
        features = opened.info.features
        self._skip = {builder.image: tfds.decode.SkipDecoding()}
        self._image = tfds.features.FeaturesDict({builder.image: features[builder.image]})
        self._label = tfds.features.FeaturesDict({builder.label: features[builder.label]})

    def __len__(self) -> int:
        return len(self._data)

    def image(self, row: int) -> bytes:
        """Return the encoded image of a record."""
        with reading(f"record {row} of {self.builder.folder}"):
            record = self._image.deserialize_example_np(self._data[row], decoders=self._skip)
        return record[self.builder.image]

    def labels(self, rows: Sequence[int]) -> list[int]:
        """Return the labels of records, as the builder numbers them."""
        with reading(f"a record of {self.builder.folder}"):
            raw = self._data.data_source.__getitems__(rows)
            read = [self._label.deserialize_example_np(record) for record in raw]
        return [int(record[self.builder.label]) for record in read]


def _stamp(file: str) -> str:
    stat = os.stat(file)
    return f"{os.path.basename(file)} {stat.st_size} {stat.st_mtime_ns}"


def read_labels(records: Records) -> np.ndarray:
    """Read all labels of a split, int32 [N], or take them from a cache on disk.

    Raises:
      DataError: labels that are no class, or damaged records.
    """
    builder, count = records.builder, len(records)
    text = "\n".join((builder.folder, builder.label, records.stamp))
    key = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    file = default_cache_dir() / "labels" / f"{key}.npy"
    try:
        labels = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):  # not there, or a damaged disk
        labels = np.zeros(0, np.int32)
    if fresh := labels.shape != (count,):
        labels = np.zeros(count, np.int32)
        # Rows from all files at a time: they are read side by side.
        apart = -(-count // AT_ONCE)
        for first in progress(range(apart), what=f"read labels of {builder.name}", unit="batch"):
            labels[first::apart] = records.labels(range(first, count, apart))
    if count and not 0 <= labels.min() <= labels.max() < len(builder.classes):
        raise DataError(
            f"labels of {builder.name} run from {labels.min()} to {labels.max()}, but it has "
            f"{len(builder.classes)} classes (-1 means that the split has no labels)."
        )
    if fresh:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with replaced(file, shared=True) as scratch, scratch.open("wb") as out:
                np.save(out, labels)
        except OSError as error:  # a full disk: labels can be read again
            warnings.warn(f"labels are not cached: {file}: {error.strerror}.", stacklevel=2)
    return labels
