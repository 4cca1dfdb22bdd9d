"""Initial networks: trained on photographs, shipped with the package.

The networks of an image learn faster from values that suit photographs. Only the
encoder uses these arrays (``launch/studies/overfit_init.py`` makes them from the
embedded training photographs), so a better set may replace them at any time: decoding
does not depend on it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from codax import files, pretrained
from codax.overfit.format import arch as archs
from codax.overfit.format.arch import Arch


def model_name(arch: Arch) -> str | None:
  """Returns the pretrained model of this architecture; None without one."""
  name = f'overfit_init_{archs.profile(arch)}'
  return name if any(model.name == name for model in pretrained.models()) else None


def for_image(arch: Arch, shape: tuple[int, int, int]) -> dict[str, Any] | None:
  """Makes `networks` for an image of shape (H, W, C)."""
  return networks(arch, len(archs.grid_shapes(arch, *shape[:2])), shape[2])


def networks(arch: Arch, grids: int, channels: int) -> dict[str, Any] | None:
  """Adapts the pretrained networks to an image's number of grids and channels.

  The arrays are of RGB images with all grids. Fewer grids leave out the coarsest. A
  grey image gets networks whose output is the mean of R, G and B.

  Args:
    arch: architecture.
    grids: number of latent grids.
    channels: 1 or 3.

  Returns:
    float32 arrays by module and name; None if no model has this architecture.
  """
  name = model_name(arch)
  if name is None:
    return None
  return from_arrays(pretrained.arrays(name), arch, grids, channels)


def from_arrays(
  arrays: Mapping[str, np.ndarray], arch: Arch, grids: int, channels: int
) -> dict[str, Any]:
  """Adapts arrays of a file of `save`, see `networks`."""
  found: dict[str, Any] = {module: {} for module in archs.MODULES}
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
  """Writes networks of an RGB image with all grids, in half precision."""
  arrays = {
    f'{t.module}/{t.name}': np.asarray(networks[t.module][t.name], np.float16)
    for t in archs.tensors(arch, arch.grids, 3)
  }
  files.write_bytes(file, safetensors.numpy.save(arrays))
