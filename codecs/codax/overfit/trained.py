"""What training leaves of a group of pictures: what files are made of, and no more.

A training state is three float32 numbers for each latent. Files need the latents
rounded, and the networks; so a group trained on one machine can be written on another.
"""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy

from codax import files, provenance
from codax.errors import CodaxError
from codax.overfit import arch as archs
from codax.overfit import model, train

FILE = 'trained.safetensors'
_LATENTS = 'latents.zlib'


class Group(NamedTuple):
  """What `load` finds.

  Attributes:
    params: whose arrays lead with P (see `model`), their latents being whole steps.
    seconds: that training took.
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
    seconds: that training took.
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
  about = {
    'seconds': json.dumps(float(seconds)),
    'shape': json.dumps(hard.shape),
    'source': json.dumps(provenance.source()),
  }
  files.write_bytes(file, safetensors.numpy.save(arrays, metadata=about))


def load(file: Path) -> Group:
  """Inverse of `save`.

  Raises:
    CodaxError: the file is not one of `save`.
  """
  try:
    with safetensors.safe_open(file, 'np') as opened:
      about = {key: json.loads(value) for key, value in opened.metadata().items()}
      arrays = {key: opened.get_tensor(key) for key in opened.keys()}
    raw = zlib.decompress(arrays.pop(_LATENTS).tobytes())
    hard = np.frombuffer(raw, '<i2').reshape(about['shape'])
    params: dict[str, Any] = {module: {} for module in archs.MODULES}
    for key, value in arrays.items():
      module, name = key.split('/')
      params[module][name] = value
    seconds, source = float(about['seconds']), dict(about['source'])
  except (OSError, KeyError, ValueError, TypeError, AttributeError, zlib.error,
          safetensors.SafetensorError) as e:  # fmt: skip
    raise CodaxError(f'{file} does not hold what training left: {e}; delete it') from e
  params['latents'] = hard.astype(np.float32) / np.float32(model.LATENT_GAIN)
  return Group(params, seconds, source)
