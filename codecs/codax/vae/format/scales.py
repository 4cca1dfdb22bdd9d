"""The integer path from hyper-latents to the scales of coefficients.

Whatever picks a table has to be the same number on every machine, so all of this is
integer arithmetic: rows of the tables between two rate levels, hyper-latents in units
of 2**-8, and a network in fixed point (`codax.entropy.fixed_point`).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from codax.entropy import fixed_point
from codax.errors import CodaxError
from codax.vae.format import integer_context, laws

STEPS = 16  # positions from a rate level to the next
MAX_LEVELS = 16
FRAC = laws.FRAC  # fractional bits of hyper-latents, their means and log2 of scales
INVERSE_FRAC = 12  # fractional bits of 1 / gain of hyper-latents
MAX_INPUT = 2**15  # magnitude of a hyper-latent, in units of 2**-FRAC
_MAX_TABLE = 2**24  # magnitude of a number of a table
_ROWS = 2**14  # positions of the network at a time


class Hyper(NamedTuple):
  """Integer tables of hyper-latents.

  Attributes:
    mean: int64 [L, D], mean of the rounded hyper-latents, units of 2**-FRAC.
    scale: int64 [L, D], log2 of their scale, units of 2**-FRAC.
    inverse: int64 [L, D], a hyper-latent of one step, units of 2**-INVERSE_FRAC.
    network: integer network from 3 x 3 hyper-latents to log2 of 2 x 2 x C scales.
  """

  mean: np.ndarray
  scale: np.ndarray
  inverse: np.ndarray
  network: fixed_point.IntMLP


class Tables(NamedTuple):
  """All that picks the tables of a file's integers.

  Attributes:
    laws: tables by scale.
    scale: int64 [L, C], log2 of the scale of rounded coefficients, units of 2**-FRAC;
      with hyper-latents the network's output is added.
    hyper: tables of the hyper-latents, or None: a factorized prior.
    context: networks of the stages that see decoded coefficients, or ().
  """

  laws: laws.Laws
  scale: np.ndarray
  hyper: Hyper | None
  context: tuple[integer_context.Network, ...] = ()

  @property
  def positions(self) -> int:
    """Number of positions between the first and the last rate level, both included."""
    return STEPS * (len(self.scale) - 1) + 1


def row(table: np.ndarray, position: int) -> np.ndarray:
  """Returns the row of a table [L, n] at a position between rate levels, int64 [n]."""
  level, step = divmod(position, STEPS)
  above = table[min(level + 1, len(table) - 1)]
  return (table[level] * (STEPS - step) + above * step) >> 4


def latents(hyper: Hyper, symbols: np.ndarray, position: int) -> np.ndarray:
  """Returns hyper-latents in units of 2**-FRAC, int64, of rounded ones [h, w, D]."""
  value = (symbols << FRAC) + row(hyper.mean, position)
  value = value * row(hyper.inverse, position) + (1 << (INVERSE_FRAC - 1))
  return np.clip(value >> INVERSE_FRAC, -MAX_INPUT, MAX_INPUT)


def latent_index(hyper: Hyper, position: int) -> np.ndarray:
  """Returns the scale index of each channel of hyper-latents, int64 [D]."""
  return laws.scale_index(row(hyper.scale, position))


def coefficient_scale(
  tables: Tables, values: np.ndarray | None, position: int, shape: tuple[int, int]
) -> np.ndarray:
  """Returns log2 of the scale of every coefficient, without context.

  Args:
    tables: tables of the bundle.
    values: hyper-latents of `latents` [ceil(h / 2), ceil(w / 2), D]; None without.
    position: rate position of the file.
    shape: rows h and columns w of coefficients.

  Returns:
    int64 [h, w, C], in units of 2**-FRAC.
  """
  base, (h, w) = row(tables.scale, position), shape
  if tables.hyper is None:
    return np.broadcast_to(base, (h, w, len(base)))
  rows, columns, _ = values.shape
  padded = np.pad(values, ((1, 1), (1, 1), (0, 0)))
  dim = tables.scale.shape[1]
  out = np.empty((2 * rows, 2 * columns, dim), np.int64)
  step = max(1, _ROWS // columns)
  for top in range(0, rows, step):
    count = min(step, rows - top)
    near = [
      padded[top + i : top + i + count, j : j + columns]
      for i in range(3)
      for j in range(3)
    ]
    found = fixed_point.apply_int(tables.hyper.network, np.concatenate(near, -1))
    found = found.reshape(count, columns, 2, 2, dim) + base
    block = found.transpose(0, 2, 1, 3, 4)
    out[2 * top : 2 * (top + count)] = block.reshape(2 * count, 2 * columns, dim)
  return out[:h, :w]


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Tables:
  """Reads the tables of a bundle.

  Args:
    arrays: 'laws/*', 'scale'; with hyper-latents also 'hyper/mean', 'hyper/scale',
      'hyper/inverse' and 'hyper/network/*'; with context 'context/*'.

  Raises:
    CodaxError: arrays are missing, superfluous or no tables.
  """
  under = lambda prefix: {
    k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)
  }
  folders = ('laws/', 'hyper/', 'context/')
  names = {k for k in arrays if not k.startswith(folders)}
  if names != {'scale'}:
    raise CodaxError(f'entropy tables {sorted(names)}; valid: scale')
  scale = _table('scale', arrays['scale'], None)
  if not 1 <= len(scale) <= MAX_LEVELS:
    raise CodaxError(f'{len(scale)} rate levels; valid: 1 to {MAX_LEVELS}')
  found = under('hyper/')
  hyper = _hyper(found, *scale.shape) if found else None
  networks = integer_context.from_arrays(under('context/'), scale.shape[1])
  return Tables(laws.from_arrays(under('laws/')), scale, hyper, networks)


def _hyper(arrays: Mapping[str, np.ndarray], levels: int, dim: int) -> Hyper:
  """Reads the tables of hyper-latents."""
  prefix = 'network/'
  network = fixed_point.from_arrays(
    {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}
  )
  rest = {k for k in arrays if not k.startswith(prefix)}
  if rest != {'mean', 'scale', 'inverse'}:
    raise CodaxError(f'tables {sorted(rest)} of hyper-latents')
  mean, scale, inverse = (
    _table(f'hyper/{k}', arrays[k], levels) for k in ('mean', 'scale', 'inverse')
  )
  sizes = {mean.shape, scale.shape, inverse.shape}
  inputs, outputs = network.kernels[0].shape[0], network.kernels[-1].shape[1]
  if len(sizes) != 1 or inputs != 9 * mean.shape[1] or outputs != 4 * dim:
    raise CodaxError(
      f'a network from {inputs} to {outputs} numbers for {mean.shape[1]} hyper-latents '
      f'and {dim} coefficients'
    )
  if inverse.min() < 1 or network.input_max < MAX_INPUT:
    raise CodaxError('hyper-latents out of the range of their network')
  return Hyper(mean, scale, inverse, network)


def _table(name: str, array: Any, levels: int | None) -> np.ndarray:
  """Checks a table of integers [L, n]."""
  array = np.asarray(array)
  if array.ndim != 2 or array.dtype.kind != 'i' or not array.size:
    raise CodaxError(f'{name} is {array.dtype} {array.shape}; valid: integers [L, n]')
  if levels is not None and len(array) != levels:
    raise CodaxError(f'{name} has {len(array)} rate levels, not {levels}')
  if max(int(array.max()), -int(array.min())) > _MAX_TABLE:
    raise CodaxError(f'{name} has a number above {_MAX_TABLE}')
  return array.astype(np.int64)
