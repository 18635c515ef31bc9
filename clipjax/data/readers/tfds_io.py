"""One prepared TFDS builder: its features, records and labels, without TensorFlow."""

import contextlib
import functools
import os
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from clipjax.data.dataset import check_labels, digest
from clipjax.data.readers.files import explained
from clipjax.data.splits import split_of
from clipjax.errors import DataError
from clipjax.io import default_cache_dir, replaced
from clipjax.io.texts import check_class_names, some
from clipjax.log.bars import progress

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
    """Read a builder's metadata; it must be ArrayRecord, with an image and a label."""
    import tensorflow_datasets as tfds

    with reading(folder):
        info = tfds.builder_from_directory(folder).info
    formats = {f.value for f in info.available_file_formats()}
    if "array_record" not in formats:
        fault = f"{folder} holds {', '.join(sorted(formats))} files, which need TensorFlow"
        install = "pip install 'clipjax[tfds-prepare]' apache-beam && tfds convert_format"
        options = f"--dataset_version_dir={folder} --out_file_format=array_record"
        raise DataError(f"{fault}. Write ArrayRecord beside them: {install} {options}")
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


def reading(what: str) -> contextlib.AbstractContextManager[None]:
    """Turn errors in reading into a DataError that names `what`."""
    from google.protobuf.json_format import Error
    from google.protobuf.message import DecodeError

    return explained(what, "prepare the dataset again", RuntimeError, Error, DecodeError)


def _feature(folder: str, features: Any, kind: type, usual: str) -> str:
    """Return the name of the one feature of a kind; the usual name wins."""
    found = [name for name, feature in features.items() if isinstance(feature, kind)]
    if usual not in found and len(found) != 1:
        listed = some((f"{name} {type(f).__name__}" for name, f in features.items()), 20)
        fault = f"{folder} has no single {kind.__name__} feature for the {usual}"
        raise DataError(f"{fault}; features: {listed}.")
    return usual if usual in found else found[0]


class Records:
    """The records of one split: images as encoded bytes, labels without their images.

    Picklable: files are opened again when first read; that two threads may do so is harmless.
    """

    def __init__(self, builder: Builder, split: str):
        self.builder, self.split = builder, split
        *_, files = self._opened
        with reading(builder.folder):
            stats = ((os.path.basename(file), os.stat(file)) for file in files)
            stamps = (f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats)
            self.stamp = "\n".join([builder.name, split, *stamps])

    def __getstate__(self) -> dict:
        return {key: value for key, value in self.__dict__.items() if key != "_opened"}

    @functools.cached_property
    def _opened(self) -> tuple[Any, Any, Any, list[str]]:
        """The data, parsers of the image and the label alone, and the files."""
        import tensorflow_datasets as tfds

        kind = {"deserialize_method": tfds.decode.DeserializeMethod.RAW_BYTES}
        with reading(self.builder.folder):
            opened = tfds.builder_from_directory(self.builder.folder)
            data = opened.as_data_source(self.split, file_format="array_record", **kind)
            files = [f.filename for f in opened.info.splits[self.split].file_instructions]
        parser = lambda name: tfds.features.FeaturesDict({name: opened.info.features[name]})
        return data, parser(self.builder.image), parser(self.builder.label), files

    @property
    def kind(self) -> str:  # begins a source's repr
        return f"Tfds({self.builder.name}, "

    def described(self, classes: Sequence[str]) -> list[str]:
        return [self.stamp, *classes]

    def read(self, row: int) -> tuple[bytes, str]:
        """Return the encoded image of a record, and its name."""
        from tensorflow_datasets.core.decode import SkipDecoding

        with reading(f"record {row} of {self.builder.folder}"):
            data, image, *_ = self._opened
            skip = {self.builder.image: SkipDecoding()}
            found = image.deserialize_example_np(data[row], decoders=skip)[self.builder.image]
        return found, self.name(row)

    def name(self, row: int) -> str:
        """Return the name of a record."""
        return f"{self.builder.name}/{self.split}:{row}"

    def labels(self, rows: Sequence[int]) -> list[int]:
        """Return the labels of records, as the builder numbers them."""
        with reading(f"a record of {self.builder.folder}"):
            data, _, label, _ = self._opened
            raw = data.data_source.__getitems__(rows)
            read = [label.deserialize_example_np(record) for record in raw]
        return [int(record[self.builder.label]) for record in read]


def read_labels(records: Records, count: int) -> np.ndarray:
    """Read all labels of a split, int32 [count], or take them from a cache on disk."""
    builder = records.builder
    key = digest(["\n".join((builder.folder, builder.label, records.stamp))], 32)
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
    check_labels(labels, len(builder.classes), builder.name)
    if fresh:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with replaced(file, shared=True) as scratch, scratch.open("wb") as out:
                np.save(out, labels)
        except OSError as error:  # a full disk: labels can be read again
            warnings.warn(f"labels are not cached: {file}: {error.strerror}.", stacklevel=2)
    return labels
