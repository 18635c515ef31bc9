"""The configs that come with clipjax: `from clipjax.configs import common, dann`.

Their files lie in the folder configs/ of a checkout; a wheel has them here (pyproject.toml).
"""

import pathlib

__path__ = [str(pathlib.Path(__file__).parents[2] / "configs")]
