"""Texts from users: files in any Unicode encoding with its mark, names in one Unicode form."""

import codecs
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence

from clipjax.errors import ClipjaxError, DataError
from clipjax.io import as_path, check_reachable, is_remote, write_errors

# The longer ones first: a UTF-32 file begins like a UTF-16 one.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
GLANCE = 1 << 16  # bytes, to see what a file is


def shown(path: str | os.PathLike) -> str:
    r"""Return a file's name as printable text: bytes that are not UTF-8 are escaped.

    >>> shown("caf\udce9.png"), shown("café.png")
    ('caf\\xe9.png', 'café.png')
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def nfc(name: str) -> str:
    r"""Return a name in Unicode's NFC, in which names are compared; macOS writes another form.

    >>> nfc("cafe\u0301") == "caf\xe9", nfc("cat")
    (True, 'cat')
    """
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def class_name(text: str) -> str:
    """Return the name of a class in NFC, without blanks around it."""
    return nfc(text).strip("\ufeff").strip()


def brief(text: str, most: int = 80) -> str:
    """Shorten a long text for a message."""
    return text if len(text) <= most else text[: most - 3] + "..."


def some(names: Iterable[str], most: int = 10) -> str:
    """Join the first few names, for messages.

    >>> some(["a", "b", "c"], 2)
    'a, b, ...'
    """
    names = list(names)
    return ", ".join([*map(brief, names[:most]), *(["..."] if len(names) > most else [])])


def counted(number: int, noun: str, plural: str = "") -> str:
    """Write a number and its noun.

    >>> counted(1, "file"), counted(2000, "entry", "entries")
    ('1 file', '2,000 entries')
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def check_class_names(names: Sequence[str], where: str) -> tuple[str, ...]:
    """Clean the names of a table of classes; DataError: one is empty, no text, or there twice.

    >>> check_class_names(["cat", " dog"], "x.txt")
    ('cat', 'dog')
    """
    first: dict[str, int] = {}
    for number, name in enumerate(names):
        if not isinstance(name, str) or not class_name(name):
            fault = "an empty name" if isinstance(name, str) else f"{name!r} for a name"
            raise DataError(f"{where} gives class {number} {fault}; give it a text.")
        if (known := first.setdefault(class_name(name), number)) != number:
            fault = f"classes {known} and {number} the same name {class_name(name)!r}"
            raise DataError(f"{where} gives {fault}; give each class a name of its own.")
    return tuple(first)


def read_text(
    file: str | os.PathLike, what: str = "", error: type[ClipjaxError] = DataError
) -> str:
    r"""Read a text file, here or in an object store, with "\n" at the end of all its lines.

    UTF-8, or UTF-16 and UTF-32 with their mark (BOM), which is left out. `what` is the kind of
    file, for messages; `error` is raised if it cannot be read or decoded, with the line.
    """
    name, path = f"{what} {shown(file)}".strip(), as_path(file)
    if is_remote(file):
        check_reachable(path)
    try:
        data = path.read_bytes()
    except write_errors(file) as fault:
        known = isinstance(fault, OSError)
        why = fault.strerror or fault if known else f"{type(fault).__name__}: {fault}"
        raise error(f"{name} cannot be read ({why}); restore it.") from None
    return decoded(data, name, error)


def decoded(data: bytes, name: str, error: type[ClipjaxError] = DataError) -> str:
    """Decode the bytes of a file as `read_text` does; `name` is for messages."""
    mark, encoding = _encoding(data)
    data = data[len(mark) :]
    if not mark and b"\0" in data:
        at = data.index(b"\0")
        line, width = _line_after(data[:at].decode("latin-1")), 32 if b"\0\0\0" in data[:8] else 16
        order = "BE" if at % (width // 8) == 0 else "LE"
        fault = f"a zero byte; it is UTF-{width} without its mark or no text at all"
        remedy = f"save it as UTF-8, as by `iconv -f UTF-{width}{order} -t UTF-8 OLD > NEW`"
        raise error(f"{name}, line {line}: {fault}: {remedy}.")
    try:
        text = _lines_joined(data.decode(encoding))
    except UnicodeDecodeError as fault:
        line = _line_after(data[: fault.start].decode(encoding, "replace"))
        latin = "" if mark else ", if it is Latin-1 by `iconv -f ISO-8859-1 -t UTF-8 OLD > NEW`"
        place = f"{name}, line {line}: byte 0x{data[fault.start]:02x}"
        raise error(f"{place} is no {encoding.upper()}; save the file as UTF-8{latin}.") from None
    if "\0" in text:
        line = _line_after(text[: text.index("\0")])
        raise error(f"{name}, line {line}: a zero character, which no text holds; take it out.")
    return text


def begin_text(data: bytes) -> str:
    """Decode the beginning of any file; what cannot be decoded is replaced."""
    mark, encoding = _encoding(data)
    text = data[len(mark) :].decode(encoding, "replace")
    return _lines_joined(text.replace("\0", ""))  # UTF-16 without a mark is told when it is read


def _encoding(data: bytes) -> tuple[bytes, str]:
    return next(((m, e) for m, e in _MARKS if data.startswith(m)), (b"", "utf-8"))


def _lines_joined(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _line_after(text: str) -> int:
    return _lines_joined(text).count("\n") + 1


def capital(words: str) -> str:
    """Write a sentence out: a capital, unless it begins with the name of a field, and a full stop.

    >>> [capital(words) for words in ("take blend", "name=auto: lists", "upper_bound is cut")]
    ['Take blend.', 'name=auto: lists.', 'upper_bound is cut.']
    """
    named = re.match(r"\w*[_=.]\w", words)
    return f"{words if named else words[0].upper() + words[1:]}."
