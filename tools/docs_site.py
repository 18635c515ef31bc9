"""Hooks of mkdocs: files of the repository as pages, the API's list, links between them.

README.md, ARCHITECTURE.md and the cards of the embedded assets lie where people and tools look for
them; the site shows them without a second copy. The reference is made of what `clipjax` exports, of
the methods in `clipjax/adapt` and of the configs, so that nothing is left out.
"""

import ast
import pathlib
import posixpath
import re
import textwrap

from mkdocs.structure.files import File

import clipjax
from clipjax.study import Study, entry_fields
from clipjax.study.fields import dotted, flat, groups, meanings

ROOT = pathlib.Path(__file__).parents[1]
# Pages that are files elsewhere in the repository.
PAGES = {
    "index.md": "README.md",
    "architecture.md": "ARCHITECTURE.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "emoji.md": "clipjax/assets/emoji/README.md",
    "tiny_clip.md": "clipjax/assets/tiny_clip/README.md",
}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def linked(text: str, place: str) -> str:
    """Return a page's Markdown with links as the site needs them.

    A link to a file that is a page leads to that page; one to another file of the repository is
    shown as its path. `place` is where the text lies in the repository.

    >>> linked("[data](docs/your-data.md#splits), [notice](NOTICE)", "README.md")
    '[data](your-data.md#splits), notice (`NOTICE`)'
    >>> linked("[card](../clipjax/assets/emoji/README.md)", "docs/your-data.md")
    '[card](emoji.md)'
    """
    of = {source: page for page, source in PAGES.items()}

    def mend(match: re.Match) -> str:
        image, label, target, anchor = match.groups()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(place), target))
        if path in of or path.startswith("docs/"):
            return f"{image}[{label}]({of.get(path, path.removeprefix('docs/'))}{anchor or ''})"
        if not (ROOT / path).exists():
            return match[0]  # mkdocs says so
        return label if label.strip("`") == path else f"{label} (`{path}`)"

    return _LINK.sub(mend, text)


def api() -> str:
    """Return the page of everything that `clipjax` exports, by module."""
    lines = [
        "# Names",
        "",
        "What `import clipjax` offers; nothing heavy is loaded before it is used.",
    ]
    for module, names in clipjax._MODULES.items():
        lines += ["", f"## `{module}`"]
        lines += ["", *(f"::: {module}.{name}" for name in names.split())]
    return "\n\n".join(lines) + "\n"


def methods() -> str:
    """Return the page of the methods: each file's own account, formula and source."""
    lines = ["# Methods", "", "The `loss` of a config's method is a file of `clipjax/adapt`."]
    for file in sorted((ROOT / "clipjax/adapt").glob("*.py")):
        if "def make_method(" in file.read_text():
            options = "    options:\n      members: [make_method]\n      show_root_full_path: true"
            lines += ["", f"::: clipjax.adapt.{file.stem}\n{options}"]
    return "\n\n".join(lines) + "\n"


def configs() -> str:
    """Return the page of the configs that come with clipjax: what each says of itself."""
    folder = ROOT / "configs"
    lines = ["# Configs", "What `clipjax run NAME` runs, as each file of `configs/` says it."]
    for file in sorted(folder.glob("*.py")) + sorted(folder.glob("recipes/*.py")):
        if "def get_config(" in (text := file.read_text()):
            lines += [f"## `{file.relative_to(folder).with_suffix('')}`"]
            lines += map(_paragraph, ast.get_docstring(ast.parse(text)).split("\n\n"))
    return "\n\n".join(lines) + "\n"


def _paragraph(text: str) -> str:
    """Return a paragraph of a docstring, commands as a code block."""
    block = textwrap.dedent(text)
    return f"```\n{block}\n```" if block.startswith(("clipjax ", "python ")) else block


def _table(lines: dict[str, tuple]) -> str:
    """Return {name: (value, meaning)} as a table."""
    cell = lambda text: f"`{text}`" if text else ""
    shown = lambda text: text.replace("|", "\\|").replace("{", "&#123;").replace("<", "&lt;")
    rows = [
        f"| `{k}` | {cell(entry_fields.typed(v))} | {shown(told)} |"
        for k, (v, told) in lines.items()
    ]
    return "\n".join(["| field | default | meaning |", "| --- | --- | --- |", *rows])


def fields() -> str:
    """Return the page of every field of a config, as `clipjax run --help` has them."""
    lines = ["# Fields of a config", "`clipjax run CONFIG FIELD=VALUE ...` sets any of them."]
    values, heads = dotted(flat(Study())), entry_fields.HEADS
    for title, block in groups(Study):
        lines += [
            f"## {title.rstrip('.')}",
            _table({k: (values.get(k, {}), v) for k, v in block.items()}),
        ]
    lines += ["## A method: `methods.NAME.FIELD`"]
    lines += [_table({field: ("", told) for field, told in entry_fields.FIELDS.items()})]
    lines += ["### Its heads", _table({f"heads.{k}": ("", told) for k, told in heads.items()})]
    for name in ("augment", "average", "episodes"):
        of, kind = flat(entry_fields.BLOCKS[name]()), entry_fields.BLOCKS[name]
        table = {f"{name}.{k}": (of[k], told) for k, told in meanings(kind).items()}
        lines += [f"### {kind.__doc__.splitlines()[0].rstrip('.')}", _table(table)]
    for loss in losses():
        options = entry_fields.options(loss).items()
        lines += [f"### Options of `{loss}`", entry_fields.summary(loss)]
        lines += [_table({k: (value, entry_fields.told(loss, k)) for k, value in options})]
    return "\n\n".join(lines) + "\n"


def losses() -> list[str]:
    """Return the files of clipjax/adapt that are methods of a study."""
    files = sorted((ROOT / "clipjax/adapt").glob("*.py"))
    made = [file.stem for file in files if "def make_method(" in file.read_text()]
    return [name for name in made if name != "contrastive"]  # of pretraining


def on_files(files, config):
    """Add the pages that are not in docs/."""
    made = {page: (ROOT / source).read_text() for page, source in PAGES.items()}
    for page, content in (made | _generated()).items():
        files.append(File.generated(config, page, content=content))
    return files


def _generated() -> dict[str, str]:
    made = {"api.md": api(), "methods.md": methods(), "configs.md": configs()}
    return made | {"config.md": fields()}


def on_page_markdown(markdown, page, config, files):
    """Mend a page's links."""
    return linked(markdown, PAGES.get(page.file.src_uri, f"docs/{page.file.src_uri}"))
