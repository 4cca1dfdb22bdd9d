"""Stores of fits: named arrays with facts beside them, under a checksum.

A finished fit is one file of safetensors, so a fit made on one machine can be written
to a file on another. A fit that is under way is a checkpoint of
`training.checkpoints`.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy

from codax import files, provenance
from codax.errors import CodaxError
from codax.training import checkpoints

FILE = 'fits.safetensors'
CHECKPOINTS = 'checkpoints'
_FACTS = 'facts'  # JSON as bytes, among the arrays of a checkpoint


class Stored(NamedTuple):
  """The content of a store.

  Attributes:
    arrays: arrays by name.
    facts: JSON-able facts.
    seconds: time of the fit.
    source: commit, versions and hardware of the fit, as results have them.
  """

  arrays: dict[str, np.ndarray]
  facts: dict[str, Any]
  seconds: float
  source: dict[str, Any]


class Checkpoint(NamedTuple):
  """A fit that is under way.

  Attributes:
    step: number of steps made.
    arrays: arrays by name.
    facts: JSON-able facts.
  """

  step: int
  arrays: dict[str, np.ndarray]
  facts: dict[str, Any]


def save(
  file: Path,
  arrays: Mapping[str, np.ndarray],
  facts: Mapping[str, Any],
  seconds: float,
) -> None:
  """Writes a store of a fit of this process.

  Args:
    file: path to write.
    arrays: arrays by name.
    facts: JSON-able facts.
    seconds: time of the fit.
  """
  content = {
    'facts': json.dumps(facts),
    'seconds': json.dumps(float(seconds)),
    'source': json.dumps(provenance.source()),
  }
  content['sha256'] = _digest(arrays, content)
  files.write_bytes(file, safetensors.numpy.save(dict(arrays), metadata=content))


@contextlib.contextmanager
def open_store(file: Path) -> Iterator[Stored]:
  """Reads a store for the body of a ``with``.

  Raises:
    CodaxError: the file is damaged, or the body finds something missing or amiss.
  """
  try:
    with safetensors.safe_open(file, 'np') as held:
      content = dict(held.metadata())
      arrays = {key: held.get_tensor(key) for key in held.keys()}
    seal = content.pop('sha256')
    if seal != _digest(arrays, content):
      raise ValueError('it does not match its checksum')
    read = {key: json.loads(value) for key, value in content.items()}
    yield Stored(arrays, read['facts'], float(read['seconds']), read['source'])
  except CodaxError:
    raise
  except (OSError, KeyError, ValueError, TypeError, AttributeError, IndexError,
          ArithmeticError, safetensors.SafetensorError) as e:  # fmt: skip
    raise CodaxError(f'{file} is damaged: {e}') from e


def save_checkpoint(
  folder: Path,
  step: int,
  arrays: Mapping[str, np.ndarray],
  facts: Mapping[str, Any],
  keep: int,
) -> None:
  """Saves a fit that is under way, and removes all but the newest `keep` checkpoints.

  Args:
    folder: folder of the bucket.
    step: number of steps made, 1 or more.
    arrays: finite arrays by name.
    facts: JSON-able facts.
    keep: number of checkpoints that stay, 1 or more.
  """
  text = np.frombuffer(json.dumps(facts).encode(), np.uint8)
  state = {_FACTS: text, **arrays}
  checkpoints.save(Path(folder) / CHECKPOINTS, step, state, keep)


def load_checkpoint(folder: Path) -> Checkpoint | None:
  """Returns the newest checkpoint that is whole, None if there is none.

  Damaged ones are named in warnings; all that are newer are removed.
  """
  directory = Path(folder) / CHECKPOINTS
  step = checkpoints.newest(directory)
  checkpoints.discard_after(directory, step or 0)
  if step is None:
    return None
  arrays = checkpoints.load_arrays(directory, step)
  facts = json.loads(arrays.pop(_FACTS).tobytes())
  return Checkpoint(step, arrays, facts)


def _digest(arrays: Mapping[str, np.ndarray], content: Mapping[str, str]) -> str:
  """Returns the checksum of arrays and texts."""
  found = hashlib.sha256(json.dumps(content, sort_keys=True).encode())
  for name in sorted(arrays):
    value = np.ascontiguousarray(arrays[name])
    found.update(f'{name} {value.dtype.str} {value.shape}'.encode())
    found.update(value)
  return found.hexdigest()
