"""Writing files so that nobody ever sees half of one, reading them, locking folders.

Every file that a command leaves behind is first written under a temporary name
(``.codax-`` and eight digits) in the same folder and then renamed over its final name,
which POSIX and NTFS do in one step. A process killed at any moment leaves the old file
or the new one, and at worst the temporary one beside it.
"""

import contextlib
import errno
import json
import math
import os
import secrets
import shlex
import socket
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from codax.errors import CodaxError

try:
  import fcntl
except ImportError:  # Windows: folders are not locked
  fcntl = None

LOCK = '.codax.lock'
TEMPORARY = '.codax-'  # first letters of temporary names
# Errors of a file system that has no such operation, not of one that failed at it.
_UNABLE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)
# Errors of renaming over a file that may still be written: it is a mount point, or in
# a sticky folder and another user's.
_NOT_REPLACED = (errno.EBUSY, errno.EPERM, errno.EACCES)
_MAX_LABEL = 255 - 15  # bytes, as the longest suffix of a file of a run is shorter
_TRIED_BYTES = 4096  # one block of most file systems: a full one has none
_MAX_COMMAND = 150  # characters of a command in messages
_MAX_OWNER = 1000  # bytes of the owner's description in a lock
_locked: set[tuple[int, str]] = set()  # (process, folder)


# --- Writing --------------------------------------------------------------------------


def write_bytes(path: str | os.PathLike, data: bytes) -> None:
  """Writes `data` to `path`, whole or not at all. Makes the folder if it is missing.

  A link stays a link, and the file behind it is replaced. A file that is replaced
  keeps its permission bits and, where the system lets it, its owner and group; other
  hard links to it keep the old content. A file that cannot be replaced, since it is a
  mount point, is written in place, and so are devices and pipes. File systems that
  have no permission bits, or that cannot flush a file, are written to all the same.

  Raises:
    OSError: no space, no permission; it names the path.
  """
  path = Path(path)
  with _naming(path):
    if is_device(path):  # of a pipe, links have no end that could be resolved
      path.write_bytes(data)
      return
    real = _resolve(path)
    real.parent.mkdir(parents=True, exist_ok=True)
    before = _status(real)
    handle, temporary = _make_temporary(real.parent, before)
    try:
      with os.fdopen(handle, 'wb') as f:
        _write_all(f, data)
      _copy_status(before, temporary)
      _replace(temporary, real, data)
    except BaseException:
      Path(temporary).unlink(missing_ok=True)
      raise
    _flush_folder(real.parent)


def try_writing(path: str | os.PathLike) -> None:
  """Makes and removes a temporary file as `write_bytes` would, before long work.

  Raises:
    OSError: `path` is a folder or write-protected, its folder cannot be written to or
      has no space, or the name is too long; it names the path.
  """
  path = Path(path)
  with _naming(path):
    if is_device(path):
      if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
      return
    real = _resolve(path)
    before = _status(real)  # of a name that is too long it raises
    if before is not None and stat.S_ISDIR(before.st_mode):
      raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if before is not None:
      os.close(os.open(real, os.O_WRONLY))
    handle, temporary = _make_temporary(real.parent, before)
    try:
      with os.fdopen(handle, 'wb') as f:
        _write_all(f, bytes(_TRIED_BYTES))
    finally:
      os.unlink(temporary)


def check_labels(labels: Iterable[str]) -> None:
  """Checks that names of images can be those of the files that a run makes of them.

  Raises:
    CodaxError: a name is too long for a suffix behind it.
  """
  for label in labels:
    name = os.fsencode(os.path.basename(label))
    if len(name) > _MAX_LABEL:
      raise CodaxError(
        f'the name {label} has {len(name)} bytes; valid for an image of a run: up to '
        f'{_MAX_LABEL}, as files get their names from it'
      )


def write_text(path: str | os.PathLike, text: str) -> None:
  """Writes text in UTF-8 as `write_bytes` does; names that are no UTF-8 as they are."""
  write_bytes(path, text.encode('utf-8', 'surrogateescape'))


def is_device(path: str | os.PathLike) -> bool:
  """Tells whether `path` is a device or a pipe, which must not be replaced."""
  try:
    mode = os.stat(path).st_mode
  except OSError:
    return False
  return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
  """Makes errors of the system name the file that the caller asked for."""
  try:
    yield
  except OSError as e:
    raise OSError(e.errno, e.strerror, str(path)) from e


def _resolve(path: Path) -> Path:
  """Follows links.

  Raises:
    OSError: they lead in a circle.
  """
  real = Path(os.path.realpath(path))
  if real.is_symlink():  # only a circle of links leaves one
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
  return real


def _status(path: Path) -> os.stat_result | None:
  """Returns the status of a file, None if there is none."""
  try:
    return path.stat()
  except FileNotFoundError:
    return None


def _make_temporary(folder: Path, before: os.stat_result | None) -> tuple[int, str]:
  """Makes a temporary file, hidden, with a short name: the final one may be long.

  It is never more open than the file that it replaces; a new one is as the umask says.
  """
  mode = 0o666 if before is None else stat.S_IMODE(before.st_mode) & 0o666
  flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, 'O_BINARY', 0)
  while True:
    path = str(folder / f'{TEMPORARY}{secrets.token_hex(4)}')
    with contextlib.suppress(FileExistsError):
      return os.open(path, flags, mode), path


def _write_all(f: Any, data: bytes) -> None:
  """Writes bytes and flushes them to the disk where the file system can do that."""
  f.write(data)
  f.flush()
  try:
    os.fsync(f.fileno())
  except OSError as e:
    if e.errno not in _UNABLE:
      raise


def _copy_status(before: os.stat_result | None, temporary: str) -> None:
  """Gives a file the owner and the mode of the one that it replaces, if it can."""
  if before is None:
    return
  mode, now = stat.S_IMODE(before.st_mode), os.stat(temporary)
  if (now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
    try:
      os.chown(temporary, before.st_uid, before.st_gid)
    except OSError:
      mode &= 0o777  # a set-user-ID bit is for the owner that the file had
      with contextlib.suppress(OSError):
        os.chown(temporary, -1, before.st_gid)
  with contextlib.suppress(OSError):
    os.chmod(temporary, mode)


def _replace(temporary: str, path: Path, data: bytes) -> None:
  """Renames a file over another one, or writes that in place if it cannot go away."""
  try:
    os.replace(temporary, path)
  except OSError as e:
    if e.errno not in _NOT_REPLACED or not path.is_file():
      raise
    with open(path, 'r+b') as f:
      f.truncate(len(data))
      _write_all(f, data)
    os.unlink(temporary)


def _flush_folder(folder: Path) -> None:
  """Flushes a new name to the disk, where the system can do that."""
  with contextlib.suppress(OSError):
    handle = os.open(folder, os.O_RDONLY)
    try:
      os.fsync(handle)
    finally:
      os.close(handle)


# --- JSON -----------------------------------------------------------------------------


def json_text(value: Any) -> str:
  """Formats `value` as indented JSON; inf and NaN, which JSON lacks, as strings."""

  def strict(x: Any) -> Any:
    if isinstance(x, dict):
      return {key: strict(y) for key, y in x.items()}
    if isinstance(x, list | tuple):
      return [strict(y) for y in x]
    return str(x) if isinstance(x, float) and not math.isfinite(x) else x

  return json.dumps(strict(value), indent=1, allow_nan=False) + '\n'


def read_json(path: str | os.PathLike) -> dict[str, Any]:
  """Reads the object in a JSON file.

  Raises:
    CodaxError: the file is damaged, or holds no object; it names the path.
    FileNotFoundError: there is no such file.
    OSError: the file cannot be read; it names the path.
  """
  data = Path(path).read_bytes()
  try:
    content = json.loads(data)
  except (ValueError, RecursionError) as e:
    reason = str(e) if data.strip() else 'it is empty'
    raise CodaxError(f'{path} is damaged: {reason}') from e
  if not isinstance(content, dict):
    raise CodaxError(f'{path} is damaged: it holds no JSON object')
  return content


# --- Locks ----------------------------------------------------------------------------


@contextlib.contextmanager
def lock(folder: str | os.PathLike) -> Iterator[None]:
  """Locks a folder for this process while the body of a ``with`` runs.

  The folder is made if it is missing. The lock ends with its process, however that
  ends. A process may lock a folder again that it has locked already, and folders in it
  need no lock of their own. On file systems without locks a note says so, and only a
  process of this machine is found.

  Raises:
    CodaxError: another process has locked the folder; it is named.
    OSError: the folder cannot be made or written to; it names the folder.
  """
  folder = Path(folder)
  with _naming(folder):
    folder.mkdir(parents=True, exist_ok=True)
    real = Path(os.path.realpath(folder))
    key = os.getpid(), str(real)
    is_locked = any((os.getpid(), str(p)) in _locked for p in (real, *real.parents))
  if fcntl is None or is_locked:
    yield
    return
  with _naming(folder / LOCK):
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
  try:
    _take_lock(folder, handle)
    _locked.add(key)
    try:
      yield
    finally:
      _locked.discard(key)
      with contextlib.suppress(OSError):
        os.ftruncate(handle, 0)
  finally:
    os.close(handle)


def hold(folder: str | os.PathLike) -> contextlib.AbstractContextManager:
  """Locks a folder as `lock` does, for as long as the caller keeps the result.

  For long functions: a local variable frees the folder when they end.
  """
  owner = lock(folder)
  owner.__enter__()
  return owner


def _take_lock(folder: Path, handle: int) -> None:
  """Locks an open file and writes this process's description into it."""
  from absl import logging  # this late: most commands lock nothing

  owner = os.pread(handle, _MAX_OWNER, 0).decode(errors='replace').strip()
  owner = ''.join(x if x.isprintable() else '?' for x in owner)
  words, is_ours = owner.split(), f' on {socket.gethostname()} ' in owner
  in_use = CodaxError(
    f'{folder} is in use by {owner or "another process"}; wait for it or use another '
    'folder'
  )
  try:
    fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except (BlockingIOError, PermissionError) as e:
    raise in_use from e
  except OSError as e:
    if is_ours and words[1] != str(os.getpid()) and _is_alive(words[1]):
      raise in_use from e
    logging.warning(
      '%s cannot be locked (%s): let no other process work in it', folder, e.strerror
    )
  if owner and not is_ours:
    logging.warning(
      '%s was last used by %s, which did not end by itself: go on only if it no longer '
      'runs', folder, owner,
    )  # fmt: skip
  with contextlib.suppress(OSError):  # the description is for messages only
    os.ftruncate(handle, 0)
    os.pwrite(handle, _describe_process().encode('utf-8', 'replace')[:_MAX_OWNER], 0)


def _describe_process() -> str:
  """Describes this process in the words of a message about its lock."""
  since = time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())
  command = shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]])
  if len(command) > _MAX_COMMAND:
    command = f'{command[:_MAX_COMMAND]} ...'
  name = f'process {os.getpid()} on {socket.gethostname()} since {since} UTC'
  return f'{name} ({command})'


def _is_alive(process: str) -> bool:
  """Tells whether a process of this machine, given by its number, runs."""
  try:
    os.kill(int(process), 0)
  except PermissionError:
    return True
  except (OSError, ValueError, OverflowError):
    return False
  return True


def make_printable(name: str) -> str:
  """Returns a name that is text: other bytes of a file's name as '\\xff'."""
  return name.encode('utf-8', 'surrogateescape').decode('utf-8', 'backslashreplace')
