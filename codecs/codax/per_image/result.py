"""The files of a run of a codec that trains on every image, and its outcome."""

import contextlib
import csv
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from codax import files
from codax.codec import Encoded
from codax.data.checks import BadImage
from codax.errors import CodaxError

FILES = 'files'
CSV = 'metrics.csv'
_IMAGES = 'images.json'
_SEAL = 'sha256'
_MISSED = '.missed.json'


class EncodedImage(NamedTuple):
  """One file of a run.

  Attributes:
    label: name of the file without suffix.
    image: uint8 [H, W, 3], the original.
    encoded: the file, its details included.
    facts: added to the file's row of the report, JSON-able.
  """

  label: str
  image: np.ndarray
  encoded: Encoded
  facts: dict[str, Any]


class RunResult(NamedTuple):
  """The end of a run.

  Attributes:
    stopped: None, or the reason for which the run is not complete; the same command
      goes on.
    images: all files, in the order of the configuration; empty if it stopped.
    metrics: metrics of the whole run, by name.
    sources: seconds, commit, versions and hardware of each file.
    missed: a line for each file whose target is out of reach.
    passed_over: images that could not be used.
  """

  stopped: str | None
  images: Sequence[EncodedImage] = ()
  metrics: dict[str, float] = {}
  sources: Sequence[dict[str, Any]] = ()
  missed: Sequence[str] = ()
  passed_over: Sequence[BadImage] = ()


def save_images(images: Sequence[tuple[str, np.ndarray]], workdir: Path) -> None:
  """Writes the hashes of all images, (name, uint8 [H, W, C]), for `check_images`."""
  new = {name: hash_image(image) for name, image in images}
  files.write_text(Path(workdir) / _IMAGES, files.json_text(new))


def check_images(images: Sequence[tuple[str, np.ndarray]], workdir: Path) -> None:
  """Checks that a run which goes on still has the images that it began with.

  Args:
    images: all images, (name, uint8 [H, W, C]).
    workdir: work directory of the run.

  Raises:
    CodaxError: an image has changed, is new or is gone.
  """
  try:
    old = files.read_json(Path(workdir) / _IMAGES)
  except FileNotFoundError:
    return
  except CodaxError as e:
    raise CodaxError(f'{e}; use another --workdir') from e
  new = {name: hash_image(image) for name, image in images}
  for name in sorted({*old, *new}):
    if old.get(name) != new.get(name):
      was = 'is new' if name not in old else 'is gone' if name not in new else 'changed'
      raise CodaxError(
        f'{workdir} holds a run over other images: {name} {was}; use another --workdir'
      )


def save_encoded(workdir: Path, label: str, encoded: Encoded) -> Encoded:
  """Writes ``files/LABEL.cdx`` and then ``files/LABEL.json``, its details.

  Returns:
    The argument with the details as they are read back.
  """
  details = {'estimated_bits': float(encoded.estimated_bits), **encoded.details}
  text = files.json_text(details)
  content = json.loads(text)
  sealed = {**content, _SEAL: _seal(encoded.data, text)}
  folder = Path(workdir) / FILES
  files.write_bytes(folder / f'{label}.cdx', encoded.data)
  # the last to be written says that the file is complete
  files.write_text(folder / f'{label}.json', files.json_text(sealed))
  return encoded._replace(details=content)


def load_encoded(
  workdir: Path, label: str, decode: Callable[[bytes], np.ndarray]
) -> Encoded | None:
  """Loads and decodes a file of `save_encoded`.

  Returns:
    None if there is nothing, or if it is damaged, which a warning says.
  """
  found = _load(Path(workdir) / FILES / f'{label}.json')
  if found is None:
    return None
  data, details = found
  return Encoded(data, decode(data), float(details['estimated_bits']), details)


def has_damage(workdir: Path, count: int = 0) -> bool:
  """Returns whether a file of a run is damaged; each is named in a warning.

  Args:
    workdir: work directory of the run.
    count: number of files that are there if none is missing.
  """
  found = sorted((Path(workdir) / FILES).rglob('*.json'))
  missed = [path for path in found if path.name.endswith(_MISSED)]
  whole = [_load(path) is not None for path in found if path not in missed]
  if len(whole) < count:
    text = '%d of the %d files of %s are gone: they are made again'
    logging.warning(text, count - len(whole), count, workdir)
    return True
  reasons = [_load_missed(path) for path in missed]
  table = Path(workdir) / CSV
  if table.exists() and not _has_rows(table, len(whole) + len(missed)):
    _warn_damaged(f'{table} is damaged: it has not a row for each file')
    return True
  return not all(whole) or None in reasons


def _has_rows(path: Path, count: int) -> bool:
  """Returns whether a table has so many rows, each with a value in every column."""
  try:
    text = path.read_text('utf-8', 'surrogateescape')
    first, *rows = list(csv.reader(io.StringIO(text))) or [[]]
  except (OSError, csv.Error):
    return False
  is_whole = first[:1] == ['label'] and all(len(row) == len(first) for row in rows)
  return is_whole and len(rows) == count and text.endswith('\n')


def _load(facts: Path) -> tuple[bytes, dict[str, Any]] | None:
  """Reads a file and its details by the path of the latter.

  Returns:
    None if they are not there, or damaged, which a warning says.
  """
  details = _read_json(facts)
  if details is None:
    return None
  file = facts.with_suffix('.cdx')
  try:
    data = file.read_bytes()
    if details.pop(_SEAL, None) != _seal(data, files.json_text(details)):
      raise ValueError(f'it does not match its checksum in {facts.name}')
    return data, details
  except OSError as e:
    _warn_damaged(f'{file} is damaged: {e.strerror}')
  except ValueError as e:
    _warn_damaged(f'{file} is damaged: {e}')
  return None


def save_missed(workdir: Path, label: str, why: str) -> None:
  """Records that a file's target is out of reach."""
  path = _missed_path(workdir, label)
  files.write_text(path, files.json_text({'missed': why, _SEAL: _seal(b'', why)}))


def load_missed(workdir: Path, label: str) -> str | None:
  """Returns the reason of `save_missed`; None without one.

  A damaged one is named in a warning and removed.
  """
  path = _missed_path(workdir, label)
  why = _load_missed(path)
  if why is None:
    with contextlib.suppress(OSError):  # a folder in its place is in nobody's way
      path.unlink(missing_ok=True)
  return why


def _load_missed(path: Path) -> str | None:
  content = _read_json(path)
  if content is None:
    return None
  why = content.get('missed')
  # earlier versions wrote no checksum here
  if isinstance(why, str) and content.get(_SEAL, _seal(b'', why)) == _seal(b'', why):
    return why
  _warn_damaged(f'{path} is damaged: it does not match its checksum')
  return None


def _missed_path(workdir: Path, label: str) -> Path:
  return Path(workdir) / FILES / f'{label}{_MISSED}'


def _read_json(path: Path) -> dict[str, Any] | None:
  """Returns the object in a JSON file; None, with a warning, if it is damaged."""
  try:
    return files.read_json(path)
  except FileNotFoundError:
    pass
  except OSError as e:
    _warn_damaged(f'{path} is damaged: {e.strerror}')
  except CodaxError as e:
    _warn_damaged(str(e))
  return None


def _warn_damaged(text: str) -> None:
  logging.warning('%s; it is made again', text)


def _seal(data: bytes, details: str) -> str:
  return hashlib.sha256(data + details.encode()).hexdigest()


def hash_image(image: np.ndarray) -> str:
  """Returns the SHA-256 of the shape and the pixels of an image, in hex."""
  found = hashlib.sha256(str(image.shape).encode())
  found.update(np.ascontiguousarray(image))
  return found.hexdigest()
