"""The one exception type for bad input, and how commands report it.

Everything a user can get wrong (a name, a file, an image) raises a
:class:`CodaxError` whose message is one line that names the thing and what would be
valid. Commands print that line and exit with status 2; programming errors keep their
traceback.
"""

import argparse
import contextlib
import difflib
import sys
from collections.abc import Callable, Iterable

from codax import signals


class CodaxError(ValueError):
  """Bad input. The message is one line, fit to be shown to a user."""


class OutOfReach(CodaxError):
  """A target of rate or quality that a codec cannot meet for an image.

  Attributes:
    nearest: `codec.Encoded`, the file nearest to the target, or None.
  """

  def __init__(self, message: str, nearest: object = None):
    super().__init__(message)
    self.nearest = nearest


class ArgumentParser(argparse.ArgumentParser):
  """Argument parser whose errors are one line, as all others are."""

  def error(self, message: str):
    self.exit(2, f'error: {message} (see {self.prog} --help)\n')


def unknown(what: str, name: object, valid: Iterable[str]) -> CodaxError:
  """Returns the error for a name that is not in `valid`, with the nearest valid one.

  Args:
    what: kind of thing, for example ``'codec'``.
    name: name that is not valid.
    valid: all valid names.

  Returns:
    A `CodaxError`, to be raised by the caller.
  """
  valid = sorted(valid)
  near = difflib.get_close_matches(str(name), valid, n=1)
  hint = f'; did you mean {near[0]!r}?' if near else ''
  return CodaxError(f'unknown {what} {str(name)!r}{hint} (valid: {", ".join(valid)})')


def renamed(old: str, new: str) -> CodaxError:
  """Returns the error for a config key that has another name now.

  Args:
    old: key as given, 'data.gain'.
    new: key as it is called today, 'data.jitter'.
  """
  return CodaxError(f'config key {old} was renamed to {new}')


def exit_status(main: Callable[[], int | None]) -> int:
  """Runs `main` and turns bad input into one line on stderr and status 2.

  `OSError` (no space, no permission, no such file) is bad input too: its text names
  the path and the reason. The body listens to signals (`codax.signals`); one that
  arrived makes the status 128 and its number.
  """
  try:
    with signals.listen() as received:
      return _run(main, received)
  except KeyboardInterrupt as e:
    _say(': '.join(['interrupted', *map(str, e.args)]))
    return signals.status(e)


def _say(text: str) -> None:
  """Prints a line on stderr, if there is one: a terminal may have been closed."""
  if sys.stderr is not None:
    with contextlib.suppress(OSError, ValueError):
      print(text, file=sys.stderr, flush=True)


def _run(main: Callable[[], int | None], received: Callable[[], int | None]) -> int:
  """Runs `main`; returns its status, that of bad input, or that of a signal."""
  try:
    return main() or (128 + received() if received() else 0)
  except CodaxError as e:
    message = str(e)
  except OSError as e:
    message = f'{e.filename}: {e.strerror}' if e.filename else str(e)
  _say('error: ' + ' '.join(message.split()))
  return 2
