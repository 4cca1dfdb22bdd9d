"""Runs the `codax` command as a process, also as ``python -m codax.cli``."""

from codax import signals
from codax.cli import main


def run() -> None:
  """Runs the command and ends the process."""
  signals.end_process(main())


if __name__ == '__main__':
  run()
