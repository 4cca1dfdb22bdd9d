"""Runs the `codax` command as ``python -m codax.cli``."""

from codax.__main__ import run

run()
