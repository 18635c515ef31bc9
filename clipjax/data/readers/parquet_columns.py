"""The columns of a Parquet file: which hold images, labels and domains, and what is in them."""

from __future__ import annotations

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from clipjax.data.dataset import shown
from clipjax.errors import DataError, UnreachableError

IMAGE_NAMES = ("image", "img", "images", "picture")
LABEL_NAMES = ("label", "labels", "class", "category", "fine_label")


class Column(NamedTuple):
    """A column of few different values."""

    codes: np.ndarray  # int64 [rows]; -1 where there is no value
    names: list[str]  # what the codes number
    found: bool  # the names are those that occur, not those that were declared


@contextlib.contextmanager
def explained(path: pathlib.Path) -> Iterator[None]:
    """What goes wrong in reading a file is a DataError that names it."""
    import pyarrow

    try:
        yield
    except (pyarrow.ArrowException, OSError, ValueError, LookupError) as error:
        name, reason = shown(path), str(error).strip().split("\n")[0]
        if isinstance(error, OSError) and error.errno:  # pyarrow's own, of damage, have no number
            raise UnreachableError(f"{name} cannot be read now ({reason}); restore it.") from None
        raise DataError(f"{name} is damaged ({reason}); copy or download it again.") from None


def features_of(schema) -> dict[str, dict]:
    """What `datasets` noted about the columns."""
    noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    return noted.get("info", {}).get("features") or {}


def declared_names(features: dict[str, dict], name: str) -> list[str] | None:
    """The names of a ClassLabel."""
    feature = features.get(name) or {}
    return feature.get("names") if feature.get("_type") == "ClassLabel" else None


def check_column(path: pathlib.Path, schema, name: str) -> None:
    """Raises DataError, listing the columns there are, where one asked for is not."""
    if name and name not in schema.names:
        raise DataError(
            f"{shown(path)} has no column {name!r}; columns: {', '.join(schema.names)}."
        )


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
            f"columns: {', '.join(f'{n} {schema.field(n).type}' for n in schema.names)}."
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
    numbered = [n for n in schema.names if declared_names(features, n) and n != "domain"]
    found = [n for n in LABEL_NAMES if n in schema.names]
    found = [wanted] if wanted else found or (numbered if len(numbered) == 1 else [])
    if not found:
        raise DataError(
            f"{shown(path)} has no column {LABEL_NAMES[0]!r}; columns: {', '.join(schema.names)}."
        )
    return found[0]


def coded(path: pathlib.Path, name: str, column, declared: list[str] | None) -> Column:
    """A column of integers or strings as codes; DataError for other kinds and numbers below -1."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_integer(column.type):
        codes = pc.fill_null(column.cast(pa.int64()), -1).to_numpy()
        if len(codes) and codes.min() < -1:  # -1 is what `datasets` writes for no label
            raise DataError(
                f"column {name!r} of {shown(path)} holds {codes.min()}; numbers start at 0."
            )
        return Column(codes, declared or [], False)
    try:
        text = column.cast(pa.string()).combine_chunks().dictionary_encode()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        text = None
    if text is None or pa.types.is_floating(column.type):
        raise DataError(
            f"column {name!r} of {shown(path)} is {column.type}; it must be integers or strings."
        )
    codes = pc.fill_null(text.indices.cast(pa.int64()), -1).to_numpy(zero_copy_only=False)
    return Column(codes, text.dictionary.to_pylist(), True)


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
