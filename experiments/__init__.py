"""The commands of a checkout that is not installed: `python -m experiments.main ...`."""
