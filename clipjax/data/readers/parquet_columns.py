"""The columns of a Parquet file: which hold images, labels and domains, and what is in them."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from clipjax.data.readers.labels import MOST, Meaning, is_missing
from clipjax.errors import DataError, UnreachableError
from clipjax.io.texts import brief, check_class_names, class_name, shown, some

IMAGE_NAMES = ("image", "img", "images", "picture")
LABEL_NAMES = ("label", "labels", "class", "category", "fine_label")


class Column(NamedTuple):
    """A column of few different values."""

    codes: np.ndarray  # int64 [rows]; -1 where there is no value
    names: list[str]  # what the codes number
    found: bool  # the names are those that occur, not those that were declared


@contextlib.contextmanager
def explained(path: pathlib.Path) -> Iterator[None]:
    """Turn what goes wrong in reading a file into a DataError that names it."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError, LookupError) as error:
        name, reason = shown(path), str(error).strip().split("\n")[0]
        if isinstance(error, OSError) and error.errno:  # pyarrow's own, of damage, have no number
            raise UnreachableError(f"{name} cannot be read now ({reason}); restore it.") from None
        raise DataError(f"{name} is damaged ({reason}); copy or download it again.") from None


def features_of(schema) -> dict[str, dict]:
    """The features that `datasets` noted for the columns."""
    noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    for key in ("info", "features"):
        noted = noted.get(key) if isinstance(noted, dict) else None
    noted = noted if isinstance(noted, dict) else {}
    return {name: feature for name, feature in noted.items() if isinstance(feature, dict)}


def _is_class_label(features: dict[str, dict], name: str) -> bool:
    feature = features.get(name) or {}
    return feature.get("_type") == "ClassLabel" and bool(feature.get("names"))


def declared_names(path: pathlib.Path, features: dict[str, dict], name: str) -> list[str]:
    """The names of a ClassLabel; none for other columns.

    Raises:
      DataError: one that two classes have.
    """
    if not _is_class_label(features, name):
        return []
    names, where = features[name]["names"], f"the ClassLabel {name!r} of {shown(path)}"
    if isinstance(names, dict):  # as dataset cards have them: {"0": "cat", "1": "dog"}
        wanted = [str(number) for number in range(len(names))]
        if set(names) != set(wanted):
            raise DataError(f"{where} numbers {some(names)}; number its names from 0.")
        names = [names[number] for number in wanted]
    return list(check_class_names(names, where))


def check_column(path: pathlib.Path, schema, name: str) -> None:
    """Raises DataError, listing the columns there are, where one asked for is not."""
    if name and name not in schema.names:
        raise DataError(f"{shown(path)} has no column {name!r}; columns: {some(schema.names, 20)}.")


def image_column(path: pathlib.Path, schema, features: dict[str, dict], wanted: str) -> str:
    """The column of images: the one wanted, or found by its name and kind; else DataError."""
    check_column(path, schema, wanted)
    fits = [name for name in schema.names if _holds_images(schema.field(name).type)]
    noted = [name for name in fits if (features.get(name) or {}).get("_type") == "Image"]
    if wanted:
        found = [wanted] if wanted in fits else []
    else:
        found = [n for n in IMAGE_NAMES if n in fits] or noted or (fits if len(fits) == 1 else [])
    if not found:
        raise DataError(
            f"{shown(path)} has no column of images (bytes, or a struct with bytes); "
            f"columns: {some((f'{n} {schema.field(n).type}' for n in schema.names), 20)}."
        )
    return found[0]


def _holds_images(kind) -> bool:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        at = kind.get_field_index("bytes")
        return at >= 0 and _holds_images(kind.field(at).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def label_column(path: pathlib.Path, schema, features: dict[str, dict], wanted: str) -> str:
    """The column of labels: the one wanted, or found by its name; else DataError."""
    check_column(path, schema, wanted)
    numbered = [n for n in schema.names if _is_class_label(features, n) and n != "domain"]
    found = [n for n in LABEL_NAMES if n in schema.names]
    found = [wanted] if wanted else found or (numbered if len(numbered) == 1 else [])
    if not found:
        raise DataError(
            f"{shown(path)} has no column {LABEL_NAMES[0]!r}; columns: {some(schema.names, 20)}."
        )
    return found[0]


def coded(path: pathlib.Path, name: str, column, declared: Sequence[str]) -> Column:
    """A column as codes: numbers, of whatever type, as they are; texts by those that occur.

    Texts with declared names are numbers of these, or the names themselves.

    Raises:
      DataError: another kind of column, numbers that are no whole ones or below -1, or texts that
        no declared name belongs to.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    where = f"column {name!r} of {shown(path)}"
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        return Column(_whole_numbers(where, column), list(declared), False)
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return Column(_whole_numbers(where, column.cast(pa.float64())), list(declared), False)
    if not _is_text(kind):
        raise DataError(f"{where} is {kind}; it must be integers or strings.")
    try:
        text = column.cast(pa.string()).combine_chunks().dictionary_encode()
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{where} holds texts that are no UTF-8 ({error}); save it as such."
        ) from None
    codes = pc.fill_null(text.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    names = [class_name(value) for value in text.dictionary.to_pylist()]
    found = [n for n in dict.fromkeys(names) if n]
    number = {n: k for k, n in enumerate(found)}
    codes = np.array([*(number.get(n, -1) for n in names), -1])[codes]
    column = Column(codes, found, True)
    return by_names(column, declared, where) if declared else column


def _is_text(kind) -> bool:
    import pyarrow as pa

    is_kind = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary)
    is_kind += (pa.types.is_large_binary, pa.types.is_string_view, pa.types.is_null)
    return any(is_one(kind) for is_one in is_kind)


def _whole_numbers(where: str, column) -> np.ndarray:
    """int64 [rows]: numbers, -1 for none.

    Raises:
      DataError: a fraction, or a number that no class has.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_floating(column.type):
        values = np.array(column.to_numpy())  # NaN where there is none
        values[np.isnan(values)] = -1
        if len(wrong := values[(values != np.floor(values)) | (np.abs(values) >= MOST)]):
            raise DataError(
                f"{where} holds {wrong[0]:g}, which is no number of a class; correct it."
            )
        codes = values.astype(np.int64)
    else:
        column = column.cast(pa.uint8()) if pa.types.is_boolean(column.type) else column
        largest = pc.max(column).as_py() or 0
        if largest >= MOST:
            raise DataError(f"{where} holds {largest}, which is no number of a class; correct it.")
        codes = pc.fill_null(column.cast(pa.int64()), -1).to_numpy()
    if len(codes) and codes.min() < -1:  # -1 is what `datasets` writes for no label
        raise DataError(f"{where} holds {codes.min()}; numbers start at 0.")
    return codes


def by_names(column: Column, names: Sequence[str], where: str, table: str = "") -> Column:
    """A column of texts, or of numbers without names, as numbers of named classes.

    Args:
      column: whose own names are those that occur.
      names: of the classes, by number.
      where: the column, for messages.
      table: what the names are from, for messages; default: its ClassLabel.

    Raises:
      DataError: a text that no class belongs to, or two.
    """
    values = np.unique(column.codes[column.codes >= 0]).tolist()
    texts = column.names if column.found else [str(value) for value in values]
    given = {text for text in texts if text in names or not is_missing(text)}
    meaning = Meaning(given, names)
    if fault := meaning.fault(names, table or "its ClassLabel"):
        raise DataError(f"{where}: label {brief(fault[0])!r} {fault[1]}.")
    numbers = [meaning.numbers.get(text, -1) for text in texts]
    keys = list(range(len(texts))) if column.found else values
    places = np.searchsorted(keys, column.codes) if keys else np.zeros(len(column.codes), int)
    codes = np.where(column.codes < 0, -1, np.array([*numbers, -1])[places])
    return Column(codes, list(names), False)


def named_domains(path: pathlib.Path, name: str, domains: Column) -> Column:
    """Domains that are numbers without names are called like their numbers.

    Raises:
      DataError: numbers beyond the names that are declared.
    """
    if domains.names:
        if len(domains.codes) and domains.codes.max() >= len(domains.names):
            raise DataError(
                f"column {name!r} of {shown(path)} runs to {domains.codes.max()}, but has "
                f"{len(domains.names)} names; numbers must be 0 .. {len(domains.names) - 1}."
            )
        return domains
    values = np.unique(domains.codes[domains.codes >= 0])
    codes = np.where(domains.codes < 0, -1, np.searchsorted(values, domains.codes))
    return Column(codes, list(map(str, values.tolist())), True)


def imageless_rows(file, schema, image: str) -> tuple[list[str], np.ndarray]:
    """The columns that hold images and their paths, and which rows have no bytes, bool [rows]."""
    import pyarrow as pa

    kind = schema.field(image).type
    leaves = [image]
    if pa.types.is_struct(kind):
        named = [f"{image}.{n}" for n in ("bytes", "path") if kind.get_field_index(n) >= 0]
        leaves = named
    masks = []
    for group in range(file.num_row_groups):
        meta = file.metadata.row_group(group)
        columns = [meta.column(c) for c in range(meta.num_columns)]
        found = next(c for c in columns if c.path_in_schema == leaves[0])
        counted = found.statistics if found.is_stats_set else None
        if counted is not None and counted.has_null_count and not counted.null_count:
            masks.append(np.zeros(meta.num_rows, bool))
        else:
            data, _ = parts_of(file.read_row_group(group, columns=leaves[:1]))
            masks.append(data.is_null().to_numpy())
    return leaves, np.concatenate(masks) if masks else np.zeros(0, bool)


def parts_of(table) -> tuple[Any, Any]:
    """The bytes and, if there are any, the paths in a table of one image column."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = table.column(0)
    if not pa.types.is_struct(column.type):
        return column, None
    has_path = column.type.get_field_index("path") >= 0
    return pc.struct_field(column, "bytes"), pc.struct_field(column, "path") if has_path else None
