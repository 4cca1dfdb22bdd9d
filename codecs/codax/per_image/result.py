"""The files of a run of a codec that trains on every image, and its outcome."""

import hashlib
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
  new = {name: _hash_image(image) for name, image in images}
  files.write_text(Path(workdir) / _IMAGES, files.json_text(new))


def check_images(images: Sequence[tuple[str, np.ndarray]], workdir: Path) -> None:
  """Checks that a run which goes on still has the images that it began with.

  Args:
    images: all images, (name, uint8 [H, W, C]).
    workdir: work directory of the run.

  Raises:
    CodaxError: an image has changed, is new or is gone.
  """
  path = Path(workdir) / _IMAGES
  if not path.is_file():
    return
  new = {name: _hash_image(image) for name, image in images}
  try:
    old = json.loads(path.read_bytes())
    names = sorted({*old, *new})
  except (ValueError, TypeError) as e:
    raise CodaxError(f'{path} is damaged: {e}; use another --workdir') from e
  for name in names:
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


def has_damage(workdir: Path) -> bool:
  """Returns whether a file of a run is damaged; each is named in a warning."""
  files_of = sorted((Path(workdir) / FILES).rglob('*.json'))
  found = [path for path in files_of if not path.name.endswith(_MISSED)]
  return None in [_load(path) for path in found]


def _load(facts: Path) -> tuple[bytes, dict[str, Any]] | None:
  """Reads a file and its details by the path of the latter.

  Returns:
    None if they are not there, or damaged, which a warning says.
  """
  details = _read_json(facts) if facts.is_file() else None
  if details is None:
    return None
  file = facts.with_suffix('.cdx')
  try:
    data = file.read_bytes()
    if details.pop(_SEAL, None) != _seal(data, files.json_text(details)):
      raise ValueError(f'it does not match its checksum in {facts.name}')
    return data, details
  except (OSError, ValueError) as e:
    _warn_damaged(file, e)
    return None


def save_missed(workdir: Path, label: str, why: str) -> None:
  """Records that a file's target is out of reach."""
  path = _missed_path(workdir, label)
  files.write_text(path, files.json_text({'missed': why}))


def load_missed(workdir: Path, label: str) -> str | None:
  """Returns the reason of `save_missed`; None without one, or if it is damaged."""
  path = _missed_path(workdir, label)
  content = _read_json(path) if path.is_file() else None
  return None if content is None else str(content.get('missed'))


def _missed_path(workdir: Path, label: str) -> Path:
  return Path(workdir) / FILES / f'{label}{_MISSED}'


def _read_json(path: Path) -> dict[str, Any] | None:
  """Returns the object in a JSON file; None, with a warning, if there is none."""
  try:
    content = json.loads(path.read_bytes())
    if not isinstance(content, dict):
      raise ValueError('not a JSON object')
    return content
  except (OSError, ValueError) as e:
    _warn_damaged(path, e)
    return None


def _warn_damaged(path: Path, error: Exception) -> None:
  logging.warning('%s is damaged (%s): it is made again', path, error)


def _seal(data: bytes, details: str) -> str:
  return hashlib.sha256(data + details.encode()).hexdigest()


def _hash_image(image: np.ndarray) -> str:
  found = hashlib.sha256(str(image.shape).encode())
  found.update(np.ascontiguousarray(image))
  return found.hexdigest()
