"""Models that come with the package, and the search for the bundle that a file names.

``models.json`` is their card: for each model its family, SHA-256, data, licence and
metrics. Nothing is downloaded. Imports neither JAX nor any family.
"""

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from codax.errors import CodaxError, unknown

FOLDER = Path(__file__).parent
CARD = 'models.json'
MODEL_VARIABLE = 'CODAX_MODEL'
# Encodes large images where no codec is named; its family is that of its card.
DEFAULT_MODEL = 'vqvae_photos'


class BundleMissing(CodaxError):
  """The bundle that a file names is not found.

  Attributes:
    reason: the message without advice, as not every caller can pass a model.
  """

  def __init__(self, reason: str):
    super().__init__(
      f'{reason}: pass its run directory or bundle file (--model, or model=)'
    )
    self.reason = reason


class Model(NamedTuple):
  """A model of the package.

  Attributes:
    name: unique key.
    family: the registry's name of its family.
    kind: 'bundle', all that a decoder needs; 'init', initial values for an encoder.
    file: file name in this folder.
    sha256: hexadecimal digest of the file.
    data: the images that it was trained on.
    licence: terms of use.
    command: the command that made it.
    metrics: measured results, JSON-able.
    summary: one sentence on its use.
  """

  name: str
  family: str
  kind: str
  file: str
  sha256: str
  data: str
  licence: str
  command: str
  metrics: Mapping[str, Any]
  summary: str


@functools.cache
def models() -> tuple[Model, ...]:
  """Lists the models of the package in the order of their card.

  Raises:
    CodaxError: the card is missing or damaged.
  """
  path = FOLDER / CARD
  try:
    return tuple(Model(**entry) for entry in json.loads(path.read_bytes()))
  except OSError as e:
    raise CodaxError(f'{path}: {e.strerror}; install codax again') from e
  except (ValueError, TypeError, RecursionError) as e:
    raise CodaxError(f'{path} is damaged: {e}; install codax again') from e


def model(name: str) -> Model:
  """Finds a model by name.

  Raises:
    CodaxError: no such model; names the nearest.
  """
  found = {one.name: one for one in models()}
  if name not in found:
    raise unknown('pretrained model', name, found)
  return found[name]


def read(name: str) -> bytes:
  """Reads a model's file and checks it against the card.

  Raises:
    CodaxError: no such model, or the file is missing or damaged.
  """
  card = model(name)
  path = FOLDER / card.file
  try:
    data = path.read_bytes()
  except OSError as e:
    raise CodaxError(f'{path}: {e.strerror}; install codax again') from e
  if hashlib.sha256(data).hexdigest() != card.sha256:
    raise CodaxError(f'{path} is damaged: its SHA-256 is not that of {CARD}')
  return data


@functools.cache
def arrays(name: str) -> Mapping[str, np.ndarray]:
  """Reads the arrays of a model of kind 'init' by name.

  Raises:
    CodaxError: no such model, or the file is missing or damaged.
  """
  import safetensors.numpy

  return safetensors.numpy.load(read(name))


def bundle_path(name: str) -> Path:
  """Returns the file of a model of kind 'bundle', which `bundle.load` verifies.

  Raises:
    CodaxError: no such model.
  """
  return FOLDER / model(name).file


def find_bundle(bundle_id: bytes) -> Any:
  """Looks for the bundle that a file names, in the usual places.

  Searched in order: every entry of the environment variable CODAX_MODEL (bundle files
  or run directories, separated as in PATH), the models of the package, then
  ``runs/*/bundle.safetensors``. Unreadable files are passed over; a damaged one that
  may be meant is named if there is no other.

  Args:
    bundle_id: the 8 bytes from the header.

  Returns:
    The loaded and verified `bundle.Bundle`.

  Raises:
    BundleMissing: there is none; says how to pass one.
  """
  from codax import bundle

  damaged = ''
  for path in _candidates(bundle.FILE_NAME):
    # The stated id is enough to pass a file over: only a match is read in full.
    stated = _stated_id(path)
    if not stated and path.parent == FOLDER:
      damaged = f' ({path} is missing or damaged: install codax again)'
    if stated[: len(bundle_id)] == bundle_id:
      try:
        found = bundle.load(path)
      except (CodaxError, OSError) as e:
        damaged = f' ({e})'
        continue
      if found.id[: len(bundle_id)] == bundle_id:
        return found
  raise BundleMissing(
    f'the file needs bundle {bundle_id.hex()}, which is neither in ${MODEL_VARIABLE}, '
    f'nor in runs/*, nor among the models of the package (codax models){damaged}'
  )


def _candidates(file_name: str) -> list[Path]:
  """Lists the bundle files to look at, in order; they may not exist."""
  entries = os.environ.get(MODEL_VARIABLE, '').split(os.pathsep)
  paths = [Path(entry).expanduser() for entry in entries if entry]
  paths = [path / file_name if path.is_dir() else path for path in paths]
  paths += [FOLDER / one.file for one in models() if one.kind == 'bundle']
  return paths + sorted(Path('runs').glob(f'*/{file_name}'))


def _stated_id(path: Path) -> bytes:
  """Reads the id in the metadata of a bundle file, unverified; empty without one."""
  import safetensors

  try:
    with safetensors.safe_open(path, framework='numpy') as f:
      return bytes.fromhex((f.metadata() or {}).get('id', ''))
  except (OSError, ValueError, safetensors.SafetensorError):
    return b''
