"""Standard streams of a command: closed, full, without a reader, or of few letters.

A message that cannot be printed fails nothing; where the output is all that a command
makes, a reader that has left ends it quietly, as with other tools.
"""

import contextlib
import functools
import os
import sys
from collections.abc import Callable
from typing import TextIO

READER_GONE = 141  # 128 + SIGPIPE, as shells report it
_NAMES = ('stdin', 'stdout', 'stderr')
_closed: set[str] = set()


class ReaderGone(Exception):
  """The reader of standard output has left: there is nobody to go on for."""


def guard(run: Callable[..., int]) -> Callable[..., int]:
  """Makes a function that runs a command between sound standard streams.

  Args:
    run: function that returns an exit status.
  """

  @functools.wraps(run)
  def guarded(*args, **options) -> int:
    open_closed_streams()
    try:
      return run(*args, **options)
    except ReaderGone:
      return READER_GONE
    except BrokenPipeError as e:
      if e.filename is not None:
        raise
      return READER_GONE
    finally:
      for stream in (sys.stdout, sys.stderr):
        _flush(stream)

  return guarded


def open_closed_streams() -> None:
  """Leads closed standard streams nowhere, and lets open ones print any letter.

  The next file that the process opened would be one of them otherwise, and get what
  libraries print there.
  """
  for number, name in enumerate(_NAMES):
    stream = getattr(sys, name)
    if stream is None:
      _closed.add(name)
      _open_nowhere(number)
      mode = 'r' if name == 'stdin' else 'w'
      setattr(sys, name, open(number, mode, encoding='utf-8', closefd=False))
    elif name == 'stdout' and getattr(stream, 'errors', None) == 'strict':
      with contextlib.suppress(AttributeError, OSError, ValueError):
        stream.reconfigure(errors='backslashreplace')


def is_stdout_closed() -> bool:
  """Tells whether the command began with a closed standard output."""
  return 'stdout' in _closed


def say(text: str, stream: TextIO | None = None) -> None:
  """Prints a line on stdout, or another stream; one that cannot be fails nothing."""
  stream = sys.stdout if stream is None else stream
  if stream is None:
    return
  try:
    print(_reduce(text, stream), file=stream, flush=True)
  except (OSError, ValueError):
    drop(stream)


def show(text: str) -> None:
  """Prints lines of the output for which the command was called, on stdout.

  Raises:
    ReaderGone: nobody reads it anymore.
    OSError: it cannot be printed, for example to a full disk.
  """
  if sys.stdout is None:
    return
  try:
    print(_reduce(text, sys.stdout), flush=True)
  except BrokenPipeError as e:
    drop(sys.stdout)
    raise ReaderGone from e
  except OSError as e:
    drop(sys.stdout)
    raise OSError(e.errno, e.strerror, 'standard output') from e


def drop(stream: TextIO) -> None:
  """Leads a broken stream nowhere: the interpreter flushes it at its end."""
  with contextlib.suppress(OSError, ValueError):
    number = stream.fileno()
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, number)
    os.close(nowhere)


def _reduce(text: str, stream: TextIO) -> str:
  """Escapes the letters that a stream cannot print."""
  encoding = getattr(stream, 'encoding', None) or 'utf-8'
  return text.encode(encoding, 'backslashreplace').decode(encoding)


def _open_nowhere(number: int) -> None:
  """Opens a descriptor that is closed, leading nowhere."""
  try:
    os.fstat(number)
  except OSError:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
      os.dup2(nowhere, number)
      os.close(nowhere)
    os.set_inheritable(number, True)


def _flush(stream: TextIO | None) -> None:
  """Flushes a stream; one that cannot be fails nothing."""
  if stream is None:
    return
  try:
    stream.flush()
  except (OSError, ValueError):
    drop(stream)
