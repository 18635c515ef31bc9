"""The columns of a Parquet file: which hold images, labels and domains, and what is in them."""

from __future__ import annotations

import contextlib
import itertools
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np

from clipjax.data.dataset import check_labels
from clipjax.data.readers.files import explained
from clipjax.data.readers.labels import MOST, class_numbers, is_missing
from clipjax.data.readers.list_files import CLASSES
from clipjax.errors import DataError
from clipjax.io.texts import brief, check_class_names, class_name, shown, some

IMAGE_NAMES = ("image", "img", "images", "picture")
LABEL_NAMES = ("label", "labels", "class", "category", "fine_label")
TEXTS = ("string", "large_string", "string_view", "binary", "large_binary", "null")


class Column(NamedTuple):
    """A column of few different values."""

    codes: np.ndarray  # int [rows]; -1 where there is no value
    names: Sequence[str]  # of the codes
    found: bool  # whether the names are the values that occur, not those that were declared

    def over(self, numbers: Mapping[str, int]) -> np.ndarray:
        """Return the codes of the same values under other numbers, int32 [rows]; -1 for none."""
        return np.array([*(numbers.get(name, -1) for name in self.names), -1], np.int32)[self.codes]

    def only(self, names: Iterable[str]) -> Column:
        """Keep these values, in this order."""
        names = list(names)
        return Column(self.over({name: k for k, name in enumerate(names)}), names, self.found)

    def as_texts(self) -> Column:
        """Return numbers without names as the texts that they are written as."""
        if self.found:
            return self
        values = np.unique(self.codes[self.codes >= 0])
        codes = np.where(self.codes < 0, -1, np.searchsorted(values, self.codes))
        return Column(codes, list(map(str, values.tolist())), True)

    def numbered(self, names: Sequence[str], where: str, table: str) -> Column:
        """Turn texts, or numbers without names, into numbers of the named classes of a table."""

        def refuse(label: str, fault: str) -> NoReturn:
            raise DataError(f"{where}: label {brief(label)!r} {fault}.")

        texts = self.as_texts()
        given = [text for text in texts.names if text in names or not is_missing(text)]
        numbers, _ = class_numbers(given, names, table, refuse)
        return Column(texts.over(numbers), names, False)


def reading(path: pathlib.Path) -> contextlib.AbstractContextManager[None]:
    """Turn errors in reading a file into a DataError that names it."""
    import pyarrow

    return explained(shown(path), "copy or download it again", pyarrow.ArrowException)


class Schema:
    """The columns of a file, and what `datasets` noted of them."""

    def __init__(self, path: pathlib.Path, schema: Any):
        self.file, self.schema, self.names = shown(path), schema, schema.names
        noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        for key in ("info", "features"):
            noted = noted.get(key) if isinstance(noted, dict) else None
        noted = noted if isinstance(noted, dict) else {}
        self.features = {n: feature for n, feature in noted.items() if isinstance(feature, dict)}

    def _feature(self, name: str, kind: str) -> dict:
        feature = self.features.get(name, {})
        return feature if feature.get("_type") == kind else {}

    def declared_names(self, name: str) -> Sequence[str]:
        """Return the names of a ClassLabel, each a different one; none for other columns."""
        names = self._feature(name, "ClassLabel").get("names")
        where = f"the ClassLabel {name!r} of {self.file}"
        if isinstance(names, dict):  # as dataset cards have them: {"0": "cat", "1": "dog"}
            wanted = [str(number) for number in range(len(names))]
            if set(names) != set(wanted):
                raise DataError(f"{where} numbers {some(names)}; number its names from 0.")
            names = [names[number] for number in wanted]
        return check_class_names(names or (), where)

    def check(self, name: str) -> None:
        """Raise DataError, listing the columns, if this one does not exist."""
        if name and name not in self.names:
            raise DataError(f"{self.file} has no column {name!r}; columns: {some(self.names, 20)}.")

    def image(self, wanted: str) -> str:
        """Return the column of images: the one wanted, or found by its name and kind."""
        self.check(wanted)
        fits = [name for name in self.names if holds_images(self.schema.field(name).type)]
        noted = [n for n in fits if self._feature(n, "Image")]
        usual = [name for name in IMAGE_NAMES if name in fits]
        found = usual or noted or (fits if len(fits) == 1 else [])
        if wanted:
            found = [wanted] if wanted in fits else []
        if not found:
            columns = some((f"{name} {self.schema.field(name).type}" for name in self.names), 20)
            wanted = "column of images (bytes, or a struct with bytes)"
            raise DataError(f"{self.file} has no {wanted}; columns: {columns}.")
        return found[0]

    def label(self, wanted: str) -> str:
        """Return the column of labels: the one wanted, or found by its name or kind; "" of none."""
        usual = [name for name in LABEL_NAMES if name in self.names]
        others = (name for name in self.names if name != "domain")
        noted = [name for name in others if self._feature(name, "ClassLabel").get("names")]
        self.check(wanted)
        return wanted or next(iter(usual or (noted if len(noted) == 1 else [])), "")


def holds_images(kind: Any) -> bool:
    """Return whether a column of this type holds encoded images."""
    if str(kind).startswith("struct") and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return str(kind) in ("binary", "large_binary")


def coded(where: str, column: Any, declared: Sequence[str]) -> Column:
    """Turn a column into codes: numbers as they are, texts by the declared or occurring ones."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    column = column.cast(pa.uint8()) if str(column.type) == "bool" else column
    if pa.types.is_decimal(column.type) or pa.types.is_floating(column.type):
        column = column.cast(pa.float64())
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return Column(_whole_numbers(where, column), declared, False)
    if str(column.type) not in TEXTS:
        raise DataError(f"{where} is {column.type}; it must be integers or strings.")
    try:
        text = column.cast(pa.string()).combine_chunks().dictionary_encode()
    except pa.ArrowInvalid as error:
        raise DataError(f"{where} holds texts that are no UTF-8 ({error}).") from None
    codes = pc.fill_null(text.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    read = Column(codes, [class_name(value) for value in text.dictionary.to_pylist()], True)
    read = read.only(name for name in dict.fromkeys(read.names) if name)
    return read.numbered(declared, where, "its ClassLabel") if declared else read


def labels_of(
    where: str, column: Any, declared: Sequence[str], listed: Sequence[str], file: str
) -> Column:
    """Read a column of labels; numbers need declared names, or those listed in `classes.txt`."""
    read, numbers = coded(where, column, declared), {name: k for k, name in enumerate(listed)}
    if listed and (read.found or not read.names):
        read = read.numbered(listed, f"the labels of {file}", CLASSES)
    elif listed:
        for k, name in enumerate(read.names):
            if numbers.get(name, k) != k:
                both = f"numbers class {name!r} {k}, and {CLASSES} numbers it {numbers[name]}"
                raise DataError(f"{file} {both}; correct or remove {CLASSES}.")
        read = read._replace(names=listed)
    if read.found:
        return read.only(itertools.filterfalse(is_missing, read.names))
    codes = read.codes[read.codes >= 0]
    if len(codes) and not read.names:
        raise nameless(file, "numbers")
    check_labels(codes, len(read.names), file)
    return read


def nameless(file: str, kind: str) -> DataError:
    """Return the error for labels that name no class."""
    remedy = f"put {CLASSES}, one name a line, beside the files"
    return DataError(f"the labels of {file} are {kind} without names; {remedy}.")


def _whole_numbers(where: str, column: Any) -> np.ndarray:
    """Return numbers as int64 [rows], -1 for none; all are numbers that a class may have."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def fault(value: Any) -> DataError:
        return DataError(f"{where} holds {value}, which is no number of a class; correct it.")

    if pa.types.is_floating(column.type):
        values = np.array(column.to_numpy())  # NaN where there is none
        values[np.isnan(values)] = -1
        if len(wrong := values[(values != np.floor(values)) | (np.abs(values) >= MOST)]):
            raise fault(f"{wrong[0]:g}")
        codes = values.astype(np.int64)
    else:
        if (largest := pc.max(column).as_py() or 0) >= MOST:
            raise fault(largest)
        codes = pc.fill_null(column.cast(pa.int64()), -1).to_numpy()
    if len(codes) and codes.min() < -1:  # -1 is what `datasets` writes for no label
        raise DataError(f"{where} holds {codes.min()}; numbers start at 0.")
    return codes


def imageless_rows(file: Any, schema: Any, image: str) -> tuple[list[str], np.ndarray]:
    """Return the columns of images and their paths, and which rows have no bytes, bool [rows]."""
    import pyarrow as pa

    kind = schema.field(image).type
    leaves = [image]
    if pa.types.is_struct(kind):
        leaves = [f"{image}.{n}" for n in ("bytes", "path") if kind.get_field_index(n) >= 0]
    masks = [np.zeros(0, bool)]
    for group in range(file.num_row_groups):
        meta = file.metadata.row_group(group)
        columns = [meta.column(c) for c in range(meta.num_columns)]
        counted = next(c for c in columns if c.path_in_schema == leaves[0]).statistics
        if counted is not None and counted.has_null_count and not counted.null_count:
            masks.append(np.zeros(meta.num_rows, bool))
        else:
            data, _ = parts_of(file.read_row_group(group, columns=leaves[:1]))
            masks.append(data.is_null().to_numpy())
    return leaves, np.concatenate(masks)


def parts_of(table: Any) -> tuple[Any, Any]:
    """Return the bytes and, if there are any, the paths in a table of one image column."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = table.column(0)
    if not pa.types.is_struct(column.type):
        return column, None
    has_path = column.type.get_field_index("path") >= 0
    return pc.struct_field(column, "bytes"), pc.struct_field(column, "path") if has_path else None
