"""Networks to start from: trained on photographs, shipped with the package.

A picture's networks learn faster when they begin as networks that suit photographs.
Only the encoder uses these arrays (`launch/studies/overfit_start.py` makes them from
the embedded training photographs), so a better set may replace them at any time: the
files do not depend on it.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from codax.overfit.format import arch as archs
from codax.overfit.format.arch import Arch

FOLDER = Path(__file__).parent / 'starts'


def path(arch: Arch) -> Path | None:
  """The file with networks of this shape; None for a shape that has none."""
  file = FOLDER / f'profile_{archs.profile(arch)}.safetensors'
  return file if file.is_file() else None


def of(arch: Arch, shape: tuple[int, int, int]) -> dict[str, Any] | None:
  """`networks` for a picture of a shape (H, W, C)."""
  return networks(arch, len(archs.grid_shapes(arch, *shape[:2])), shape[2])


@functools.cache
def _load(file: Path) -> Mapping[str, np.ndarray]:
  return safetensors.numpy.load_file(file)


def networks(arch: Arch, grids: int, channels: int) -> dict[str, Any] | None:
  """Networks for a picture with so many grids and channels, float32; or None.

  The arrays are of RGB pictures with all grids. Fewer grids leave out the coarsest.
  A grey picture's networks are those whose output is the mean of R, G and B.
  """
  file = path(arch)
  if file is None:
    return None
  found: dict[str, Any] = {module: {} for module in archs.MODULES}
  arrays = _load(file)
  for t in archs.tensors(arch, grids, channels):
    value = arrays[f'{t.module}/{t.name}'].astype(np.float32)
    if t.module == 'synthesis':
      if t.name in ('w0', 'linear'):
        value = value[:grids]
      if channels == 1 and value.shape != t.shape:
        if t.name[0] == 'k':
          value = value.sum(-2, keepdims=True)
        value = value.mean(-1, keepdims=True)
    found[t.module][t.name] = value.reshape(t.shape)
  return found


def save(arch: Arch, networks: Mapping[str, Any], file: Path) -> None:
  """Keeps networks of an RGB picture with all grids, in half precision."""
  arrays = {
    f'{t.module}/{t.name}': np.asarray(networks[t.module][t.name], np.float16)
    for t in archs.tensors(arch, arch.grids, 3)
  }
  file.parent.mkdir(parents=True, exist_ok=True)
  safetensors.numpy.save_file(arrays, file)
