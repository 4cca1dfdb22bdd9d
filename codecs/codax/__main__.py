"""Runs the `codax` command as a process, also as ``python -m codax``."""

from codax import signals


def run() -> None:
  """Runs the command and ends the process."""
  signals.guard_imports('__main__')
  from codax.cli import main

  signals.end_process(main())


if __name__ == '__main__':
  run()
