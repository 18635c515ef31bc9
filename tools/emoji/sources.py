"""The pinned npm packages, their download, and a uniform way to ask them for a drawing."""

import hashlib
import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path


class BuildError(Exception):
    """A problem that the user can solve; the message says how, in one sentence."""


@dataclass(frozen=True)
class Package:
    """A package at a pinned version, with the SHA-256 of its published archive."""

    name: str
    version: str
    sha256: str

    @property
    def filename(self) -> str:
        """The file name that ``npm pack`` gives to the archive."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


FLUENT_3D = Package(
    "@lobehub/fluent-emoji-3d", "1.1.0",
    "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
)  # fmt: skip
FLUENT_FLAT = Package(
    "@iconify-json/fluent-emoji-flat", "1.2.6",
    "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
)  # fmt: skip
NOTO = Package(
    "@iconify-json/noto", "1.2.9",
    "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
)  # fmt: skip
TWEMOJI = Package(
    "@iconify-json/twemoji", "1.2.5",
    "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
)  # fmt: skip
FLUENT_CONTRAST = Package(
    "@iconify-json/fluent-emoji-high-contrast", "1.2.6",
    "0b92d48c90d2200bd499e3cdd09a127ca6a8c8ddefd34c35eb5a1e4994012ae0",
)  # fmt: skip
NOTO_FONT = Package(
    "@expo-google-fonts/noto-emoji", "0.4.7",
    "6a25fd5a4da5bb34bbc2d300531bbf32de86afd866e119314d7e358f61a6104d",
)  # fmt: skip
EMOJIBASE = Package(
    "emojibase-data", "17.0.0",
    "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
)  # fmt: skip

# Domain -> package, in the order in which the dataset lists the domains.
DOMAIN_PACKAGES = {
    "render": FLUENT_3D,
    "flat": FLUENT_FLAT,
    "clipart": NOTO,
    "cartoon": TWEMOJI,
    "stencil": FLUENT_CONTRAST,
    "sketch": NOTO_FONT,
}
DOMAINS = tuple(DOMAIN_PACKAGES)
PACKAGES = (*DOMAIN_PACKAGES.values(), EMOJIBASE)
FONT_FILE = "300Light/NotoEmoji_300Light.ttf"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def fetch(package: Package, cache: Path) -> Path:
    """Return the package's archive in ``cache``, downloading it with ``npm pack`` if need be."""
    archive = cache / package.filename
    if archive.exists() and _sha256(archive) == package.sha256:
        return archive
    npm = shutil.which("npm")
    if npm is None:
        raise BuildError(
            f"npm is needed to download {package.name}; install Node.js, or put "
            f"{package.filename} into {cache} by hand."
        )
    cache.mkdir(parents=True, exist_ok=True)
    spec = f"{package.name}@{package.version}"
    run = subprocess.run(
        [npm, "pack", spec, "--silent", "--pack-destination", str(cache)],
        capture_output=True,
        text=True,
    )
    if run.returncode != 0 or not archive.exists():
        reason = (run.stderr.strip().splitlines() or ["no message"])[-1]
        raise BuildError(f"'npm pack {spec}' failed ({reason}); check the network and try again.")
    if _sha256(archive) != package.sha256:
        found = _sha256(archive)
        archive.unlink()
        raise BuildError(
            f"{package.filename} has SHA-256 {found} instead of {package.sha256}; the file was "
            "removed: run again, and if this repeats, the registry serves another archive."
        )
    return archive


class Archive:
    """Read-only view of an npm archive; paths are relative to its ``package/`` folder."""

    def __init__(self, path: Path):
        with tarfile.open(path) as tar:
            self._files = {
                member.name.removeprefix("package/"): tar.extractfile(member).read()
                for member in tar
                if member.isfile()
            }

    def names(self) -> list[str]:
        """All file names, sorted."""
        return sorted(self._files)

    def read(self, name: str) -> bytes:
        """The bytes of one file."""
        return self._files[name]

    def json(self, name: str):
        """One file, parsed as JSON."""
        return json.loads(self._files[name])


def plain_code(hexcode: str) -> str:
    """A hexcode in upper case without variation selectors, the key shared by all packages."""
    return "-".join(part for part in hexcode.upper().split("-") if part != "FE0F")


class IconifySet:
    """Drawings of an Iconify set: SVG text by code point sequence."""

    def __init__(self, archive: Archive):
        self._data = archive.json("icons.json")
        self.slugs = {plain_code(k): v for k, v in archive.json("chars.json").items()}

    def codes(self) -> set[str]:
        """The plain codes that the set draws."""
        return set(self.slugs)

    def svg(self, code: str) -> tuple[str, float, float]:
        """SVG body, width and height of the drawing of a plain code (aliases resolved)."""
        name = self.slugs[code]
        props: dict = {}
        while name not in self._data["icons"]:
            alias = self._data["aliases"][name]
            props = {**alias, **props}
            name = alias["parent"]
        icon = self._data["icons"][name]
        width = icon.get("width", self._data.get("width", 16))
        height = icon.get("height", self._data.get("height", 16))
        body = icon["body"]
        if props.get("hFlip"):
            body = f'<g transform="translate({width} 0) scale(-1 1)">{body}</g>'
        if props.keys() - {"parent", "hFlip"}:
            raise BuildError(f"icon {name!r} needs a transformation that the tool lacks: {props}.")
        return body, float(width), float(height)


class WebpFolder:
    """Drawings stored as WebP files named by their code points."""

    def __init__(self, archive: Archive):
        self._archive = archive
        self._names = {
            plain_code(Path(name).stem): name for name in archive.names() if name.endswith(".webp")
        }

    def codes(self) -> set[str]:
        """The plain codes that the folder holds."""
        return set(self._names)

    def webp(self, code: str) -> bytes:
        """The stored WebP file of a plain code."""
        return self._archive.read(self._names[code])


class FontGlyphs:
    """Glyphs of a TrueType emoji font, joined sequences (GSUB ligatures) included."""

    def __init__(self, data: bytes):
        import io

        from fontTools.ttLib import TTFont

        self._font = TTFont(io.BytesIO(data))
        self._cmap = self._font.getBestCmap()
        self._glyphs = self._font.getGlyphSet()
        self._ligatures = self._read_ligatures()

    def _read_ligatures(self) -> dict[tuple[str, ...], str]:
        found: dict[tuple[str, ...], str] = {}
        for lookup in self._font["GSUB"].table.LookupList.Lookup:
            for table in lookup.SubTable:
                table = getattr(table, "ExtSubTable", table)
                for first, ligatures in getattr(table, "ligatures", {}).items():
                    for ligature in ligatures:
                        found.setdefault((first, *ligature.Component), ligature.LigGlyph)
        return found

    def _glyph_name(self, code: str) -> str | None:
        names = [self._cmap.get(int(part, 16)) for part in code.split("-")]
        if None in names:
            return None
        return names[0] if len(names) == 1 else self._ligatures.get(tuple(names))

    def has(self, code: str) -> bool:
        """Whether the font draws this plain code as one glyph with an outline."""
        name = self._glyph_name(code)
        return name is not None and self._font["glyf"][name].numberOfContours != 0

    def path(self, code: str) -> tuple[str, tuple[float, float, float, float]]:
        """SVG path (y axis up, font units) and bounding box x0, y0, x1, y1 of a plain code."""
        from fontTools.pens.boundsPen import BoundsPen
        from fontTools.pens.svgPathPen import SVGPathPen

        glyph = self._glyphs[self._glyph_name(code)]
        pen, bounds = SVGPathPen(self._glyphs), BoundsPen(self._glyphs)
        glyph.draw(pen)
        glyph.draw(bounds)
        return pen.getCommands(), bounds.bounds
