"""Writing files so that nobody ever sees half of one.

Every file that a command leaves behind is first written under a temporary name in the
same folder and then renamed over its final name, which POSIX and NTFS do in one step.
A process killed at any moment leaves the old file or the new one.
"""

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any


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
