"""Inputs and outputs of the commands: paths, ``-`` for stdin and stdout, and messages.

Outputs are looked at before the work; a message that cannot be printed fails nothing.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from codax import bitstream, console, image_io
from codax.devices import NoDevice
from codax.errors import CodaxError, OutOfReach

STANDARD = '-'  # stdin as an input, stdout as an output
_MAX_FILE = 2**30


# --- Inputs ---------------------------------------------------------------------------


def name_input(path: str) -> str:
  """Returns the name of an input for messages."""
  return 'standard input' if path == STANDARD else path


def read_image(path: str) -> image_io.ImageFile:
  """Reads an image and says on stderr what that lost."""
  if path == STANDARD:
    image = image_io.read_bytes(sys.stdin.buffer.read(), name_input(path))
  else:
    image = image_io.read(path)
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


def check_paths(source: str, *outputs: str | None) -> None:
  """Checks that outputs can be written and are no other file of the command.

  Links are followed: writing through one would destroy the file behind it.

  Raises:
    CodaxError: an output is the input or another output, is a folder or a terminal, or
      its folder does not exist.
    OSError: an output cannot be written; names it.
  """
  seen = {} if source == STANDARD else {_resolve(source): source}
  if sum(map(is_stdout, outputs)) > 1:
    raise CodaxError('two outputs are standard output: choose another for one of them')
  for path in filter(None, outputs):
    if is_stdout(path):
      if console.is_stdout_closed():
        raise CodaxError('standard output is closed: name a file')
      if os.isatty(1) and path == STANDARD:
        raise CodaxError('standard output is a terminal: redirect it, or name a file')
      continue
    image_io.check_output(path)
    real = _resolve(path)
    same = next((text for other, text in seen.items() if _is_same(other, real)), None)
    if same is not None:
      raise CodaxError(f'{path} is the same file as {same}: choose another output')
    seen[real] = path


def write(path: str, data: bytes) -> None:
  """Writes an output whole or not at all; bytes that cannot be are kept elsewhere.

  Raises:
    CodaxError: the output could not be written; names the file that has the bytes.
    OSError: nor could any other file be.
  """
  try:
    if is_stdout(path):
      sys.stdout.flush()
      sys.stdout.buffer.write(data)
      sys.stdout.buffer.flush()
    else:
      image_io.write_file(path, data)
  except OSError as e:
    name = 'standard output' if is_stdout(path) else path
    if is_stdout(path):
      console.drop(sys.stdout)
    try:
      handle, kept = tempfile.mkstemp(prefix='codax-', suffix=Path(path).suffix)
      with os.fdopen(handle, 'wb') as f:
        f.write(data)
    except OSError:
      raise OSError(e.errno, e.strerror, name) from e
    raise CodaxError(f'{name}: {e.strerror}; the file is kept as {kept}') from e


def _resolve(path: str) -> Path:
  """Follows links; a circle of them is left as it is."""
  return Path(os.path.realpath(path))


def _is_same(a: Path, b: Path) -> bool:
  """Tells whether two resolved paths are one file, hard links included.

  Devices are none.
  """
  if a == b:
    return a.is_file() or not a.exists()
  return a.is_file() and b.is_file() and a.samefile(b)


# --- Messages -------------------------------------------------------------------------


def say(text: str, output: str | None = None) -> None:
  """Prints a line on stdout, or on stderr if `output` is stdout."""
  console.say(text, sys.stderr if is_stdout(output) else sys.stdout)


def note(text: str) -> None:
  """Prints a note on stderr."""
  console.say(f'note: {text}', sys.stderr)
