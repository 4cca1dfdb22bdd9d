"""Inputs and outputs of the commands: paths, ``-`` for stdin and stdout, and messages.

Outputs are looked at before the work; a message that cannot be printed fails nothing.
"""

import contextlib
import os
import stat
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from codax import bitstream, console, image_io
from codax.devices import NoDevice
from codax.errors import CodaxError, OutOfReach

STANDARD = '-'  # stdin as an input, stdout as an output
_MAX_FILE = 2**30


# --- Inputs ---------------------------------------------------------------------------


def name_input(path: str) -> str:
  """Returns the name of an input for messages."""
  return 'standard input' if path == STANDARD else path


def read_image(path: str, *, keep_alpha: bool = False) -> image_io.ImageFile:
  """Reads an image and says on stderr what that lost; see `image_io.read`."""
  if path == STANDARD:
    data = sys.stdin.buffer.read()
    image = image_io.read_bytes(data, name_input(path), keep_alpha=keep_alpha)
  else:
    image = image_io.read(path, keep_alpha=keep_alpha)
  for text in image.notes:
    note(f'{name_input(path)}: {text}')
  return image


def read_cdx(path: str) -> bytes:
  """Reads the bytes of a file that starts like a `.cdx` file."""
  name = name_input(path)
  with contextlib.ExitStack() as stack:
    standard = path == STANDARD
    f = sys.stdin.buffer if standard else stack.enter_context(open(path, 'rb'))
    data = f.read(len(bitstream.MAGIC))
    if not bitstream.is_cdx(data):
      reason = 'the file is empty' if not data else 'it does not start like one'
      raise CodaxError(f'{name}: not a .cdx file: {reason}')
    data += f.read(_MAX_FILE)
  if len(data) > _MAX_FILE:
    raise CodaxError(f'{name}: over the limit of {_MAX_FILE} bytes')
  return data


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
  """Puts an input's name before the message of an error about its contents."""
  try:
    yield
  except OutOfReach as e:
    raise OutOfReach(f'{name_input(path)}: {e}', e.nearest) from e
  except NoDevice:
    raise  # not the input's fault
  except CodaxError as e:
    raise CodaxError(f'{name_input(path)}: {e}') from e


# --- Outputs --------------------------------------------------------------------------


def is_stdout(path: str | None) -> bool:
  """Tells whether an output is stdout, under this or another name ('/dev/stdout')."""
  if path is None:
    return False
  if path == STANDARD:
    return True
  try:
    return os.path.samestat(os.stat(path), os.fstat(1))
  except OSError:
    return False


def name_output(path: str) -> str:
  """Returns the name of an output for messages, in one line and without controls."""
  if is_stdout(path):
    return 'standard output'
  is_control = lambda x: unicodedata.category(x) == 'Cc'
  return ''.join(repr(x)[1:-1] if is_control(x) else x for x in path)


def check_paths(source: str, *outputs: str | None) -> None:
  """Checks that outputs can be written and are no other file of the command.

  Links are followed: writing through one would destroy the file behind it. Standard
  input and output that the shell has led to files are these files.

  Raises:
    CodaxError: an output is the input or another output, is a folder or a terminal, or
      its folder does not exist.
    OSError: an output cannot be written; names it.
  """
  seen = [_File(name_input(source), source, 0 if source == STANDARD else None)]
  if sum(map(is_stdout, outputs)) > 1:
    raise CodaxError('two outputs are standard output: choose another for one of them')
  for path in filter(None, outputs):
    to_stdout = is_stdout(path)
    if not to_stdout:
      image_io.check_output(path)
    elif console.is_stdout_closed():
      raise CodaxError('standard output is closed: name a file')
    elif os.isatty(1) and path == STANDARD:
      raise CodaxError('standard output is a terminal: redirect it, or name a file')
    file = _File(path, path, 1) if to_stdout else _File(path, path)
    same = next((other for other in seen if _is_same(other, file)), None)
    if same is not None:
      raise CodaxError(
        f'{name_output(path)} is the same file as {same.name}: choose another output'
      )
    seen.append(file)


def write(path: str, data: bytes) -> None:
  """Writes an output whole or not at all; bytes that cannot be are kept elsewhere.

  Raises:
    CodaxError: the output could not be written; names the file that has the bytes.
    OSError: nor could any other file be.
  """
  to_stdout = is_stdout(path)
  try:
    if to_stdout:
      sys.stdout.flush()
      sys.stdout.buffer.write(data)
      sys.stdout.buffer.flush()
    else:
      image_io.write_file(path, data)
  except OSError as e:
    name = name_output(path)
    if to_stdout:
      console.drop(sys.stdout)
    kept = _keep(data, Path(path).suffix)
    if kept is None:
      reason = f'{e.strerror}, nor can the file be kept elsewhere'
      raise OSError(e.errno, reason, name) from e
    raise CodaxError(f'{name}: {e.strerror}; the file is kept as {kept}') from e


def _keep(data: bytes, suffix: str) -> str | None:
  """Writes bytes to a new file wherever there is space; returns its path."""
  for find in (tempfile.gettempdir, os.getcwd, lambda: os.path.expanduser('~')):
    kept = None
    try:
      handle, kept = tempfile.mkstemp(prefix='codax-', suffix=suffix, dir=find())
      with os.fdopen(handle, 'wb') as f:
        f.write(data)
      return kept
    except OSError:
      if kept is not None:
        os.unlink(kept)
  return None


class _File(NamedTuple):
  """A file of a command.

  Attributes:
    name: name in messages.
    path: path that the user gave.
    handle: number of the open file in place of the path, None without one.
  """

  name: str
  path: str
  handle: int | None = None


def _is_same(a: _File, b: _File) -> bool:
  """Tells whether two are one file, hard links included; devices and pipes are none.

  Of two that do not exist yet, names that differ in case alone count as one: on some
  file systems they are.
  """
  first, second = _status(a), _status(b)
  if first is None or second is None:
    return first is second and _fold(a.path) == _fold(b.path)
  return stat.S_ISREG(first.st_mode) and os.path.samestat(first, second)


def _status(file: _File) -> os.stat_result | None:
  """Returns the status of a file, None if there is none."""
  try:
    return os.stat(file.path if file.handle is None else file.handle)
  except OSError:
    return None


def _fold(path: str) -> str:
  """Follows links, and makes spellings equal that some file systems take for equal."""
  folder, name = os.path.split(os.path.realpath(path))
  return os.path.join(folder, unicodedata.normalize('NFC', name).casefold())


# --- Messages -------------------------------------------------------------------------


def say(text: str, *outputs: str | None) -> None:
  """Prints a line on stdout, or on stderr if one of `outputs` is stdout."""
  console.say(text, sys.stderr if any(map(is_stdout, outputs)) else sys.stdout)


def note(text: str) -> None:
  """Prints a note on stderr."""
  console.say(f'note: {text}', sys.stderr)
