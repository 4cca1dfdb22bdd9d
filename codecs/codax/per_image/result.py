"""What a run of a codec that trains on every picture leaves."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from codax import files
from codax.codec import Encoded
from codax.errors import CodaxError

_PICTURES = 'pictures.json'


class Finished(NamedTuple):
  """One picture encoded with one lambda.

  Attributes:
    label: names it: the picture's name, with the lambda if there are several.
    image: uint8 [H, W, 3].
    encoded: its file.
    facts: to be kept beside the file's measurements, JSON-able.
  """

  label: str
  image: np.ndarray
  encoded: Encoded
  facts: dict[str, Any]


class Outcome(NamedTuple):
  """How `run` ended.

  Attributes:
    stopped: None, or why it stopped early (see `loop.Result`).
    finished: every picture with every lambda; empty if it stopped.
    metrics: of the whole run.
    sources: where and for how long each group was trained: seconds, and what
      `codax.provenance.source` says.
    missed: a line for each file that could not be made as it was asked for.
  """

  stopped: str | None
  finished: list[Finished]
  metrics: dict[str, float]
  sources: list[dict[str, Any]] = []
  missed: Sequence[str] = ()


def check_pictures(found: Sequence[tuple[str, np.ndarray]], workdir: Path) -> None:
  """Checks that a run which goes on still has the pictures that it began with.

  Args:
    found: (name, uint8 [H, W, C]) of all.
    workdir: of the run; keeps their hashes.

  Raises:
    CodaxError: one of them is another picture now, is new or is gone.
  """
  new = {name: _digest(image) for name, image in found}
  path = Path(workdir) / _PICTURES
  if not path.is_file():
    files.write_text(path, files.json_text(new))
    return
  try:
    old = json.loads(path.read_bytes())
  except ValueError as e:
    raise CodaxError(f'{path} is damaged: {e}; use another --workdir') from e
  for name in sorted({*old, *new}):
    if old.get(name) != new.get(name):
      was = 'is new' if name not in old else 'is gone' if name not in new else 'changed'
      raise CodaxError(
        f'{workdir} holds a run over other pictures: {name} {was}; '
        'use another --workdir'
      )


def _digest(image: np.ndarray) -> str:
  made = hashlib.sha256(str(image.shape).encode())
  made.update(np.ascontiguousarray(image))
  return made.hexdigest()


def keep(folder: Path, label: str, encoded: Encoded) -> None:
  """Keeps a file and its details: a run that goes on need not make it again."""
  files.write_bytes(folder / f'{label}.cdx', encoded.data)
  facts = {'estimated_bits': encoded.estimated_bits, **encoded.details}
  # the last to be written says that it is done
  files.write_text(folder / f'{label}.json', files.json_text(facts))


def kept(
  folder: Path, label: str, decode: Callable[[bytes], np.ndarray]
) -> Encoded | None:
  """What `keep` kept, decoded again; None if there is nothing."""
  facts = folder / f'{label}.json'
  if not facts.is_file():
    return None
  details = json.loads(facts.read_text(encoding='utf-8'))
  data = (folder / f'{label}.cdx').read_bytes()
  return Encoded(data, decode(data), details['estimated_bits'], details)
