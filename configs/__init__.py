"""The configs that come with clipjax: `from clipjax.configs import common, dann`."""
