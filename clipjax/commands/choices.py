"""What the flags of `clipjax suite` say of data and model."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from clipjax.errors import ConfigError

if TYPE_CHECKING:
    from ml_collections import ConfigDict


class Choices(NamedTuple):
    """What the flags say of data and model."""

    data: str = ""
    root: str = ""
    source: str = ""
    target: str = ""
    model: str = ""
    smoke: bool = False

    def put_into(self, config: ConfigDict) -> None:
        """Set a config's data and model, its domains apart; ConfigError: no such data."""
        _check_data(self.data, self.root)
        config.model, config.data.root = self.model or config.model, self.root
        config.data.name = self.data or config.data.name


def _check_data(data: str, root: str) -> None:
    """Raise ConfigError for data that the flags do not make known."""
    from clipjax.data.open import EMBEDDED, KNOWN

    prepared = data.startswith("tfds:")  # where TFDS keeps its data unless told otherwise
    if data and data not in KNOWN and not prepared:
        raise ConfigError(f"--data={data} is unknown; known: {', '.join(KNOWN)}, tfds:NAME.")
    if data not in ("", "auto", *EMBEDDED) and not root and not prepared:
        raise ConfigError(f"--data={data} needs --data_root=/path.")
