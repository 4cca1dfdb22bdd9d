"""Runs the `codax` command as ``python -m codax.cli``."""

import sys

from codax.cli import main

sys.exit(main())
