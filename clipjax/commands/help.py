"""What `--help` prints: a command's words and options and, where it takes a config, every field."""

import ast
import inspect
import shutil
import textwrap
from collections.abc import Iterable
from types import ModuleType

from absl import flags

from clipjax.commands.configfile import as_mapping, load_config, shipped_configs
from clipjax.study import entry_fields
from clipjax.study.config import kind_of
from clipjax.study.entries import FIELDS
from clipjax.study.fields import dotted, groups, meanings
from clipjax.study.options import meaning
from clipjax.study.segmentation_config import Segmentation, SegmentationMethod

WIDEST, LEFT = 110, 38  # columns: of a line, of what is typed
Line = tuple[str, str]  # what is typed, what it means


def command_help(command: str, module: ModuleType, config: str = "") -> str:
    """Return a command's help; ConfigError: its `config` cannot be read."""
    told, word = inspect.getdoc(module), {"config": "CONFIG", "workdir": "WORKDIR", "": ""}
    words = f" [{word[module.WORD]}]" * bool(module.WORD) + " [FIELD=VALUE ...]" * bool(config)
    found = [f"usage: clipjax {command}{words} [--OPTION=VALUE ...]\n\n{told}"]
    if config:
        files = shipped_configs().items()
        configs = [(name, _first_line(file.read_text())) for name, file in files]
        configs += [("FILE.py", "your own: `get_config()` returns an ml_collections.ConfigDict")]
        found.append(_section("CONFIG, one of these, as NAME or NAME:key=value,flag", configs))
    found.append(_section("Options", _options(module)))
    if config:
        short = [("source=, target=, root=", "short for data.source=, data.target=, data.root=")]
        title = f"Fields of {config}, as FIELD=VALUE or --config.FIELD=VALUE, with their values"
        found.append(_section(title, short))
        found += [_section(f"  {title}", lines) for title, lines in _fields(config)]
        found.append(
            "Write tuples as in Python, in quotes: freeze=\"('clip/.*',)\", seeds='(0, 1)'."
        )
    return "\n\n".join(found)


def _first_line(source: str) -> str:
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def _options(module: ModuleType) -> list[Line]:
    """Return the options that a command defines."""
    found = []
    for flag in flags.FLAGS.flags_by_module_dict().get(module.__name__, []):
        name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}=..."
        default = flag.default_as_str or "''"
        usual = "" if default.strip("'") in ("", "None") else f" (default {default.strip(chr(39))})"
        found.append((name, f"{flag.help}{usual}"))
    return found


def _fields(path: str) -> Iterable[tuple[str, list[Line]]]:
    """Yield (title, fields) of a config's blocks and methods."""
    config = as_mapping(load_config(path))
    kind = kind_of(config)
    values = dotted(config)
    for title, fields in groups(kind):
        lines = [
            (f"{name}={entry_fields.typed(values[name])}", told)
            for name, told in fields.items()
            if name in values
        ]
        yield title, lines
    methods = config.get("methods", {})
    if kind is Segmentation:
        told = meanings(SegmentationMethod)
        for name, entry in methods.items():
            typed = {f"{field}={entry_fields.typed(x)}": told[field] for field, x in entry.items()}
            yield f"methods.{name}", [(f"methods.{name}.{x}", means) for x, means in typed.items()]
        return
    for name in dict.fromkeys((*config.get("stages", ()), *methods)):
        entry = methods[name]
        has = dotted(entry)
        has |= {k: v for k, v in entry_fields.options(entry["loss"]).items() if k not in has}
        about = entry_fields.summary(entry["loss"])
        yield (
            f"methods.{name}{f': {about}' * bool(about)}",
            [
                (
                    f"methods.{name}.{field}={entry_fields.typed(value)}",
                    entry_fields.told(entry["loss"], field),
                )
                for field, value in has.items()
            ],
        )
    others = [(f"methods.NAME.{field}", told) for field, told in FIELDS.items()]
    yield "any method may have its own", others
    added = [
        (f"methods.NAME.{option}={entry_fields.typed(value)}", meaning("", option))
        for option, value in entry_fields.terms().items()
    ]
    yield "any method that answers by texts may have", added


def _section(title: str, lines: Iterable[Line]) -> str:
    """Return lines under a title, in two columns."""
    columns = min(WIDEST, shutil.get_terminal_size((WIDEST, 0)).columns)
    found = [title]
    for typed, told in lines:
        body = textwrap.wrap(told, max(columns - LEFT, 30), break_on_hyphens=False) or [""]
        typed = f"    {typed}"
        if len(typed) > LEFT - 2:
            found.append(typed)
            typed = ""
        found += [f"{typed:{LEFT}}{body[0]}".rstrip(), *(" " * LEFT + text for text in body[1:])]
    return "\n".join(found)
