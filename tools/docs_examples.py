"""A griffe extension: doctests of docstrings, which close them without a heading, shown as code."""

import re

import griffe


def fenced(text: str) -> str:
    """Return a docstring whose doctests are in fences, as Markdown shows code."""
    blocks = re.compile(r"^( *)>>> .*(?:\n\1\S.*|\n\1 +\S.*)*", re.M)
    return blocks.sub(lambda m: f"{m[1]}```pycon\n{m[0]}\n{m[1]}```", text)


class Examples(griffe.Extension):
    """Fences the doctests of everything that is documented."""

    def on_object(self, *, obj, **_):
        if obj.docstring:
            obj.docstring.value = fenced(obj.docstring.value)
