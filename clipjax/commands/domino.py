"""`clipjax suite --study=domino`: the grid of Domino and its controls, as one run."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from clipjax.commands.choices import Choices
    from clipjax.study import Segmentation


def domino_study(given: Choices) -> Segmentation:
    """Return the run that the flags ask for; ConfigError for what cannot be.

    On data of the user's own nothing is mixed in, as there is no domain to say what.
    """
    from clipjax.configs import domino_grid
    from clipjax.study import parse

    config = domino_grid.get_config("smoke" if given.smoke else None)
    config.model = given.model or config.model
    if given.data or given.root:
        config.data.name, config.data.root = given.data or config.data.name, given.root
        config.mixing.shares = ()
    config.data.source = given.source or config.data.source
    config.data.targets = (given.target,) if given.target else config.data.targets
    return parse(config.to_dict())
