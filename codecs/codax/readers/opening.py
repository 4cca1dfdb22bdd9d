"""Opening of image files: limits, Pillow's settings, repairs, errors of one line."""

import contextlib
import io
import os
import stat
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import PIL.ImageFile
from PIL import Image, UnidentifiedImageError

from codax import bitstream
from codax.errors import CodaxError
from codax.readers import formats, repairs

_MAX_FILE = 2**31  # bytes of a pipe, which is read whole
_PILLOW_LIMIT = Image.MAX_IMAGE_PIXELS

Use = Callable[[PIL.ImageFile.ImageFile, BinaryIO], Any]


def use_image(
  source: str | os.PathLike | bytes, name: str, use: Use
) -> tuple[Any, tuple[str, ...]]:
  """Opens an image file and calls a function with it.

  Files that only lack what no pixel depends on are repaired (`repairs`).

  Args:
    source: path of a file, a pipe or a device; or the bytes of a file.
    name: name of the file in messages.
    use: called with the image, not loaded yet, and with its file.

  Returns:
    The result of `use`, and sentences on what was repaired.

  Raises:
    CodaxError: no such file, no image, damaged, or too large. One line with `name`.
  """
  try:
    with _pillow_settings(), _open_file(source) as f, _check_unchanged(f):
      head = f.read(formats.HEAD)
      if (reason := formats.explain_refusal(head)) is not None:
        raise CodaxError(reason)
      formats.register_for(head)
      try:
        return _use_pillow(f, use), ()
      except (OSError, ValueError, SyntaxError) as error:
        return _use_repaired(f, use, error)
  except UnidentifiedImageError as e:
    raise CodaxError(f'{name}: {formats.explain_unidentified(head)}') from e
  except Image.DecompressionBombError as e:
    raise CodaxError(f'{name}: {_explain_size(e)}') from e
  except MemoryError as e:
    text = 'does not fit into memory: cut the image into pieces, or shrink it first'
    raise CodaxError(f'{name}: {text}') from e
  except CodaxError as e:
    raise CodaxError(f'{name}: {e}') from e
  except IsADirectoryError as e:
    raise CodaxError(f'{name}: is a folder, not an image') from e
  except OSError as e:
    raise CodaxError(f'{name}: {e.strerror or _one_line(e)}') from e
  # A damaged file can surface anywhere in Pillow's parsers, as nearly any exception.
  except Exception as e:
    raise CodaxError(f'{name}: not readable as an image: {_one_line(e)}') from e


def _use_pillow(f: BinaryIO, use: Use) -> Any:
  """Opens a file with Pillow and returns the result of `use`."""
  f.seek(0)
  with Image.open(f) as im:
    if im.format in formats.EXCLUDED:
      raise UnidentifiedImageError
    return use(im, f)


def _use_repaired(f: BinaryIO, use: Use, error: Exception) -> Any:
  """Repairs a file that Pillow refused; raises Pillow's error if that is no use."""
  if isinstance(error, (CodaxError, UnidentifiedImageError)):
    raise error
  f.seek(0)
  if formats.guess(f.read(formats.HEAD)) not in repairs.FORMATS:
    raise error
  f.seek(0)
  repaired = repairs.repair(f.read())
  if repaired is None:
    raise error
  data, notes = repaired
  return _use_pillow(io.BytesIO(data), use), notes


def _explain_size(error: Exception) -> str:
  """Explains Pillow's refusal of an image with many pixels."""
  words = str(error).replace('(', ' ').split()
  pixels = next((int(word) for word in words if word.isdigit()), 0)
  return (
    f'has {pixels:,} pixels, more than the limit of {_pixel_limit():,}: cut it into'
    ' pieces, or shrink it first'
  )


def _pixel_limit() -> int:
  """Returns the most pixels that an image may have here.

  It is the format's limit; a limit that the application set for Pillow holds as well.
  """
  limit = bitstream.DEFAULT_LIMITS.max_pixels
  own = _settings.limit_before
  return limit if own in (None, _PILLOW_LIMIT) else min(limit, 2 * own)


@contextlib.contextmanager
def _open_file(source: str | os.PathLike | bytes) -> Iterator[BinaryIO]:
  """Opens a file at its start; a pipe or a device, which has no place, is read whole.

  The file is held open while it is used, so that it may be renamed or replaced.
  """
  if isinstance(source, bytes):
    yield io.BytesIO(source)
    return
  with open(source, 'rb') as f:
    if stat.S_ISREG(os.fstat(f.fileno()).st_mode):
      yield f
      return
    data = f.read(_MAX_FILE + 1)
  if len(data) > _MAX_FILE:
    raise CodaxError(f'gives more than {_MAX_FILE:,} bytes')
  yield io.BytesIO(data)


@contextlib.contextmanager
def _check_unchanged(f: BinaryIO) -> Iterator[None]:
  """Raises `CodaxError` if a file was written to while the body ran."""
  if isinstance(f, io.BytesIO):
    yield
    return

  def look() -> tuple[int, int]:
    facts = os.fstat(f.fileno())
    return facts.st_size, facts.st_mtime_ns

  before, error = look(), None
  try:
    yield
  except Exception as e:  # of the changes, perhaps
    error = e
  if look() != before:
    text = 'was changed by another program while it was read: try again'
    raise CodaxError(text) from error
  if error is not None:
    raise error


def _one_line(error: Exception) -> str:
  """Returns an error's message without line breaks, or its kind if it has none."""
  return ' '.join(str(error).split()) or type(error).__name__


# --- Settings of Pillow ---------------------------------------------------------------


class _Settings:
  """State of Pillow's settings, which are global: how many threads read images now."""

  def __init__(self):
    self.lock = threading.Lock()
    self.readers = 0
    self.stack = contextlib.ExitStack()
    self.limit_before = None


_settings = _Settings()


@contextlib.contextmanager
def _pillow_settings() -> Iterator[None]:
  """Sets Pillow's limits and silences its warnings while any thread reads an image.

  Pillow warns of harmless oddities in metadata, and of images over its own limit. It
  raises an error over twice its limit.
  """
  with _settings.lock:
    if not _settings.readers:
      _settings.limit_before = Image.MAX_IMAGE_PIXELS
      _settings.stack.enter_context(warnings.catch_warnings())
      warnings.simplefilter('ignore')
      _swap(Image, 'MAX_IMAGE_PIXELS', (_pixel_limit() + 1) // 2)
      _swap(PIL.ImageFile, 'LOAD_TRUNCATED_IMAGES', False)
    _settings.readers += 1
  try:
    yield
  finally:
    with _settings.lock:
      _settings.readers -= 1
      if not _settings.readers:
        _settings.stack.close()


def _swap(module: Any, name: str, value: Any) -> None:
  """Sets a global of a module until the last reader is done."""
  _settings.stack.callback(setattr, module, name, getattr(module, name))
  setattr(module, name, value)
