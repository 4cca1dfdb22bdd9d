"""What training leaves of a group of pictures: what files are made of, and no more.

A training state is three float32 numbers for each latent. Files need the latents
rounded, and the networks; so a group trained on one machine can be written on another.
"""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from codax import provenance
from codax.errors import CodaxError
from codax.overfit import model, train
from codax.overfit.format import arch as archs
from codax.per_image import store as kept

FILE = 'trained.safetensors'
_LATENTS = 'latents.zlib'


class Group(NamedTuple):
  """What `load` finds.

  Attributes:
    params: whose arrays lead with P (see `model`), their latents being whole steps.
    seconds: that the steps took.
    source: where: commit, versions and hardware, as results have them.
  """

  params: dict[str, Any]
  seconds: float
  source: dict[str, Any]


def save(file: Path, params: Mapping[str, Any], seconds: float) -> None:
  """Keeps parameters whose arrays lead with P (see `model`), trained here and now.

  Args:
    file: where.
    params: finite NumPy arrays.
    seconds: that the steps took.
  """
  arrays = {
    f'{module}/{name}': np.asarray(value, np.float32)
    for module in archs.MODULES
    for name, value in params[module].items()
  }
  hard = np.asarray(jax.device_get(train.hard(params['latents'])), np.int16)
  # Nine in ten are zero.
  packed = zlib.compress(hard.astype('<i2').tobytes(), 6)
  arrays[_LATENTS] = np.frombuffer(packed, np.uint8)
  facts = {
    'seconds': float(seconds), 'shape': hard.shape, 'source': provenance.source()
  }  # fmt: skip
  kept.save(file, arrays, facts)


def load(file: Path) -> Group:
  """Inverse of `save`.

  Raises:
    CodaxError: the file is not one of `save`.
  """
  with kept.opened(file) as (arrays, facts):
    raw = zlib.decompress(arrays.pop(_LATENTS).tobytes())
    hard = np.frombuffer(raw, '<i2').reshape(facts['shape'])
    params: dict[str, Any] = {module: {} for module in archs.MODULES}
    for key, value in arrays.items():
      module, name = key.split('/')
      params[module][name] = value
    seconds, source = float(facts['seconds']), dict(facts['source'])
  params['latents'] = hard.astype(np.float32) / np.float32(model.LATENT_GAIN)
  return Group(params, seconds, source)


def check(group: Group, count: int, name: str) -> None:
  """Raises `CodaxError` unless a group is of `count` problems."""
  found = len(group.params['latents'])
  if found != count:
    raise CodaxError(f'{name}: {FILE} holds {found} problems, not {count}; delete it')
