"""Writing files so that nobody ever sees half of one.

Every file that a command leaves behind is first written under a temporary name in the
same folder and then renamed over its final name, which POSIX and NTFS do in one step.
A process killed at any moment leaves the old file or the new one.
"""

import contextlib
import json
import math
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from codax.errors import CodaxError

try:
  import fcntl
except ImportError:  # Windows: folders are not locked
  fcntl = None

LOCK = '.codax.lock'
_locked: set[str] = set()


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
  """Writes `data` to `path`, whole or not at all. Makes the folder if it is missing.

  Raises:
    OSError: no space, no permission; it names the path.
  """
  path = Path(path)
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f'.{path.name}.', dir=path.parent)
  except OSError as e:
    raise OSError(e.errno, e.strerror, str(path)) from e
  try:
    with os.fdopen(handle, 'wb') as f:
      f.write(data)
      f.flush()
      os.fsync(f.fileno())
    os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes it private
    os.replace(temporary, path)
  except BaseException as e:
    Path(temporary).unlink(missing_ok=True)
    if isinstance(e, OSError):
      raise OSError(e.errno, e.strerror, str(path)) from e
    raise


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes text in UTF-8 as `write_bytes` does."""
  write_bytes(path, text.encode())


@contextlib.contextmanager
def lock(folder: str | os.PathLike) -> Iterator[None]:
  """Locks a folder for this process while the body of a ``with`` runs.

  The folder is made if it is missing. The lock ends with its process, however that
  ends. A process may lock a folder again that it has locked already. File systems
  without locks are used without one.

  Raises:
    CodaxError: another process has locked the folder; it is named.
  """
  folder = Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  key = os.path.realpath(folder)
  if fcntl is None or key in _locked:
    yield
    return
  handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
  try:
    try:
      fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as e:
      owner = os.pread(handle, 200, 0).decode(errors='replace').strip()
      raise CodaxError(
        f'{folder} is in use by {owner or "another process"}; wait for it or use '
        'another folder'
      ) from e
    except OSError:
      pass
    os.ftruncate(handle, 0)
    os.pwrite(handle, f'process {os.getpid()} on {socket.gethostname()}'.encode(), 0)
    _locked.add(key)
    try:
      yield
    finally:
      _locked.discard(key)
      os.ftruncate(handle, 0)
  finally:
    os.close(handle)


def json_text(value: Any) -> str:
  """Formats `value` as indented JSON; inf and NaN, which JSON lacks, as strings."""

  def strict(x: Any) -> Any:
    if isinstance(x, dict):
      return {key: strict(y) for key, y in x.items()}
    if isinstance(x, list | tuple):
      return [strict(y) for y in x]
    return str(x) if isinstance(x, float) and not math.isfinite(x) else x

  return json.dumps(strict(value), indent=1, allow_nan=False) + '\n'


def _umask() -> int:
  """Returns the process's umask, which can only be read by setting it."""
  mask = os.umask(0)
  os.umask(mask)
  return mask
