"""Prompt templates and class names: what a class is called when CLIP is asked for it."""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence

from clipjax.errors import ConfigError

# Ten views of eight kinds of picture: 80 texts a class, our own words. Averaging many prompts is
# what Radford et al. 2021 (section 3.1.4) found to help; their templates are theirs.
_VIEWS = (
    "",
    "clear ",
    "blurry ",
    "bright ",
    "dark ",
    "small ",
    "close-up ",
    "cropped ",
    "black and white ",
    "cluttered ",
)
_KINDS = (
    "a {view}photo of a {}.",
    "a {view}photo of the {}.",
    "a {view}photo of many {}.",
    "a {view}picture of a {}.",
    "a {view}drawing of a {}.",
    "a {view}painting of a {}.",
    "a {view}rendering of a {}.",
    "a {view}image of one {}.",
)


def _style(*words: str) -> tuple[str, ...]:
    return tuple(f"{word} of a {{}}." for word in words)


# Named prompt sets; `{}` stands for the class name.
PROMPTS: dict[str, tuple[str, ...]] = {
    "name": ("{}",),
    "simple": ("a photo of a {}.",),
    "ensemble": tuple(kind.replace("{view}", view) for kind in _KINDS for view in _VIEWS),
    "drawings": ("{}", "a picture of a {}", "a drawing of a {}", "an icon of a {}"),
    # One set a style, named after the domains of DomainNet and the embedded dataset.
    "real": _style("a photo", "a real photo", "a photograph"),
    "sketch": _style("a sketch", "a pencil sketch", "a line drawing"),
    "quickdraw": _style("a quick doodle", "a simple line doodle", "a scribble"),
    "painting": _style("a painting", "an oil painting", "a watercolor"),
    "clipart": _style("a clipart picture", "a clipart drawing", "an illustration"),
    "infograph": _style("an infographic", "a diagram", "a poster with a picture"),
    "cartoon": _style("a cartoon", "a flat cartoon drawing", "an emoji"),
    "render": _style("a 3D render", "a glossy 3D model", "a computer graphic"),
    "flat": _style("a flat icon", "a flat colour drawing", "a vector drawing"),
    "stencil": _style("a stencil", "a black silhouette", "a pictogram"),
}


def clean_class_name(name: str) -> str:
    """A class name as it would stand in a sentence: no underscores, no capital article.

    >>> clean_class_name("The_Eiffel_Tower"), clean_class_name("alarm_clock ")
    ('the Eiffel Tower', 'alarm clock')
    """
    words = re.sub(r"[_\s]+", " ", name).strip()
    return re.sub(r"^(The|A|An) (?=\S)", lambda article: article.group(0).lower(), words)


def fill_prompts(class_name: str, prompts: str | Sequence[str]) -> list[str]:
    """Puts a class name into prompt templates: one template, a list, or the name of a set.

    A name that brings its own article replaces the template's.

    >>> fill_prompts("The_Eiffel_Tower", "a photo of a {}.")
    ['a photo of the Eiffel Tower.']
    >>> len(fill_prompts("cat", "ensemble"))
    80

    Raises:
      ConfigError: a text that is neither a set's name nor a template with `{}`, no text at all, or
        a class name of nothing but underscores and spaces.
    """
    if isinstance(prompts, str):
        prompts = PROMPTS.get(prompts, (prompts,))
    if not prompts:
        raise ConfigError("prompts is empty; give a template with {} or the name of a set.")
    for prompt in prompts:
        if "{}" not in prompt:
            raise ConfigError(
                f"prompt {prompt!r} has no {{}} for the class name and is no named set; "
                f"sets: {', '.join(PROMPTS)}."
            )
    name = clean_class_name(class_name)
    if not name:
        raise ConfigError(
            f"class name {class_name!r} leaves nothing to put into a prompt; rename the class, or "
            "say by the file class_names what it is called."
        )
    if re.match(r"(the|an?) ", name):
        prompts = [re.sub(r"\b(a|an|the) \{\}", "{}", prompt) for prompt in prompts]
    return [prompt.replace("{}", name) for prompt in prompts]


def read_class_names(path: str | os.PathLike, classes: Sequence[str]) -> dict[str, str]:
    """A JSON file {"class": "what to call it"} that overrides some class names.

    Raises:
      ConfigError: no such file, no JSON object of texts, or classes that the dataset lacks.
    """
    path = pathlib.Path(path)
    try:
        names = json.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"class_names file {path} cannot be read ({error.strerror}).") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"class_names file {path} is not valid JSON ({error}).") from None
    if not isinstance(names, Mapping) or not all(isinstance(v, str) for v in names.values()):
        raise ConfigError(f'class_names file {path} must hold {{"class": "name", ...}}.')
    if unknown := sorted(set(names) - set(classes)):
        raise ConfigError(
            f"class_names file {path} names classes that the dataset does not have: "
            f"{_first(unknown)}; it has {_first(classes)}."
        )
    return dict(names)


def _first(names: Sequence[str], most: int = 20) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
