"""Prompt templates and class names."""

import json
import os
import re
from collections.abc import Sequence

from clipjax.errors import ConfigError
from clipjax.io.texts import class_name, read_text, shown, some

# Ten views of eight kinds of picture: 80 texts per class. Averaging many prompts follows Radford et
# al. 2021 (section 3.1.4); the templates are our own.
_VIEWS = "", "clear ", "blurry ", "bright ", "dark ", "small ", "close-up ", "cropped "
_VIEWS += "black and white ", "cluttered "
_KINDS = "photo of a", "photo of the", "photo of many", "picture of a", "drawing of a"
_KINDS += "painting of a", "rendering of a", "image of one"


def _style(*words: str) -> tuple[str, ...]:
    return tuple(f"{word} of a {{}}." for word in words)


# Named prompt sets; `{}` stands for the class name.
PROMPTS: dict[str, tuple[str, ...]] = {
    "name": ("{}",),
    "simple": ("a photo of a {}.",),
    "ensemble": tuple(f"a {view}{kind} {{}}." for kind in _KINDS for view in _VIEWS),
    "drawings": ("{}", "a picture of a {}", "a drawing of a {}", "an icon of a {}"),
    # Styles, named after the domains of DomainNet and the embedded dataset.
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
    """Rewrite a class name for a sentence: no underscores, no capital article.

    >>> clean_class_name("The_Eiffel_Tower"), clean_class_name("alarm_clock ")
    ('the Eiffel Tower', 'alarm clock')
    """
    words = re.sub(r"[_\s]+", " ", name).strip()
    return re.sub(r"^(The|A|An) (?=\S)", lambda article: article.group(0).lower(), words)


def fill_prompts(class_name: str, prompts: str | Sequence[str]) -> list[str]:
    """Put a class name into prompt templates: one template, a list, or the name of a set.

    An article of the name replaces the template's. ConfigError for no template, one without `{}`
    that names no set, or an empty class name.

    >>> fill_prompts("The_Eiffel_Tower", "a photo of a {}.")
    ['a photo of the Eiffel Tower.']
    >>> len(fill_prompts("cat", "ensemble"))
    80
    """
    if isinstance(prompts, str):
        prompts = PROMPTS.get(prompts, (prompts,))
    if not prompts:
        raise ConfigError("prompts is empty; give a template with {} or the name of a set.")
    if bad := [prompt for prompt in prompts if "{}" not in prompt]:
        fault = f"prompt {bad[0]!r} has no {{}} and is no named set"
        raise ConfigError(f"{fault}; sets: {', '.join(PROMPTS)}.")
    if not (name := clean_class_name(class_name)):
        fault = f"class name {class_name!r} leaves nothing to put into a prompt"
        raise ConfigError(f"{fault}; give it a name.")
    if re.match(r"(the|an?) ", name):
        prompts = [re.sub(r"\b(a|an|the) \{\}", "{}", prompt) for prompt in prompts]
    return [prompt.replace("{}", name) for prompt in prompts]


def named_in(path: str | os.PathLike) -> dict[str, str]:
    """Read a JSON file {"class": "its name in prompts"}, of whatever classes.

    ConfigError: no JSON object of texts, a class twice, an empty name.
    """
    where = f"class_names file {shown(path)}"
    text = read_text(path, "class_names file", ConfigError)
    try:
        names = json.loads(text, object_pairs_hook=tuple)  # a dict would drop equal keys
    except (json.JSONDecodeError, RecursionError) as error:
        fault = error if text.strip() else "it is empty"
        raise ConfigError(f"{where} is not valid JSON ({fault}).") from None
    if not isinstance(names, tuple) or not all(isinstance(v, str) for _, v in names):
        raise ConfigError(f'{where} must hold {{"class": "name", ...}}.')
    found: dict[str, str] = {}
    for name, called in ((class_name(key), class_name(called)) for key, called in names):
        if name in found:
            raise ConfigError(f"{where} names class {name!r} twice; keep one.")
        if not called or re.search("[\ud800-\udfff]", called):
            fault = "half a character" if called else "an empty name"
            raise ConfigError(f"{where} gives class {name!r} {fault}; give it a text.")
        found[name] = called
    return found


def read_class_names(path: str | os.PathLike, classes: Sequence[str]) -> dict[str, str]:
    """Read a JSON file {"class": "its name in prompts"} that overrides some class names.

    ConfigError: as `named_in`, a class that is not in the dataset, two of one name.
    """
    where, found = f"class_names file {shown(path)}", named_in(path)
    if unknown := sorted(set(found) - set(classes)):
        hint = " Classes go by their names, not by numbers." * all(n.isdecimal() for n in unknown)
        fault = f"names classes that the dataset does not have: {some(unknown)}"
        raise ConfigError(f"{where} {fault}; it has {some(classes, 20)}.{hint}")
    owners: dict[str, str] = {}
    for name in sorted(classes, key=lambda name: name in found):
        owner = owners.setdefault(clean_class_name(found.get(name, name)), name)
        if owner != name and name in found:
            fault = f"calls class {name!r} {found[name]!r}, as class {owner!r} is called"
            raise ConfigError(f"{where} {fault}; give each a name of its own.")
    return found
