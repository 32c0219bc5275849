"""Bundles damaged on purpose, to see whether a release gate notices: `python -m training.damage`."""
