"""The one exception type for bad input, and how commands report it.

Everything a user can get wrong (a name, a file, an image) raises a
:class:`CodaxError` whose message is one line that names the thing and what would be
valid. Commands print that line and exit with status 2; programming errors keep their
traceback.
"""

import argparse
import difflib
import sys
from collections.abc import Callable, Iterable

from codax import console, signals

_MAX_LISTED = 16  # names in a message at most; of more, those that are near
_MAX_NEAR = 4


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


class Diverged(CodaxError):
  """A training on one image that diverged; those on others may go on."""


class ArgumentParser(argparse.ArgumentParser):
  """Argument parser whose errors are one line, as all others are."""

  def error(self, message: str):
    self.exit(2, f'error: {message} (see {self.prog} --help)\n')


def unknown(
  what: str, name: object, valid: Iterable[str], listing: str = ''
) -> CodaxError:
  """Returns the error for a name that is not in `valid`, with the nearest valid ones.

  Args:
    what: kind of thing, for example ``'codec'``.
    name: name that is not valid.
    valid: all valid names; where they are many, the nearest alone are listed.
    listing: place of the whole list, for the message.

  Returns:
    A `CodaxError`, to be raised by the caller.
  """
  valid = sorted(valid)
  near = difflib.get_close_matches(str(name), valid, n=_MAX_NEAR)
  hint = f'; did you mean {near[0]!r}?' if near else ''
  if len(valid) <= _MAX_LISTED:
    return CodaxError(f'unknown {what} {str(name)!r}{hint} (valid: {", ".join(valid)})')
  others = ', '.join(near[1:])
  parts = [f'also near: {others}'] if others else []
  parts.append(f'{len(valid)} are valid' + (f', see {listing}' if listing else ''))
  return CodaxError(f'unknown {what} {str(name)!r}{hint} ({"; ".join(parts)})')


def renamed(old: str, new: str) -> CodaxError:
  """Returns the error for a config key that has another name now.

  Args:
    old: key as given, 'data.gain'.
    new: key as it is called today, 'data.jitter'.
  """
  return CodaxError(f'config key {old} was renamed to {new}')


@console.guard
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
    console.say(': '.join(['interrupted', *map(str, e.args)]), sys.stderr)
    return signals.status(e)


def _run(main: Callable[[], int | None], received: Callable[[], int | None]) -> int:
  """Runs `main`; returns its status, that of bad input, or that of a signal."""
  try:
    return main() or (128 + received() if received() else 0)
  except CodaxError as e:
    message = str(e)
  except BrokenPipeError:
    raise  # to `console.guard`: nobody reads on
  except OSError as e:
    message = f'{e.filename}: {e.strerror}' if e.filename else str(e)
  console.say('error: ' + ' '.join(message.split()), sys.stderr)
  return 2
