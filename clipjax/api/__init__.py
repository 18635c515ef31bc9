"""clipjax from Python in a few lines: `clipjax.load`, `clipjax.open_dataset`, `clipjax.Adapter`."""
