"""The integer path from decoded coefficients to the scales of others.

Integers alone, as in `format.scales`: the networks of `codax.vae.scale_context` in
fixed point. The first layer runs on every block; the others on a block's 3 x 3
neighbours, together with the scales that the hyper-latents say.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from codax.entropy import fixed_point
from codax.errors import CodaxError
from codax.vae.format import laws

FRAC = laws.FRAC  # fractional bits of sizes and of all that goes into the networks
MAX_SIZE = 2**12  # above the size of any integer that a stream can hold
MAX_INPUT = 2**11  # of the second network, and the limit of what the first one says
_ROWS = 2**14  # blocks at a time


class Network(NamedTuple):
  """Network of a stage.

  Attributes:
    entry: integer network of one layer, from C sizes of a block to n numbers.
    rest: integer network from 3 x 3 x n numbers and C scales to what is added to log2
      of the scales of the stage.
  """

  entry: fixed_point.IntMLP
  rest: fixed_point.IntMLP


def sizes(values: np.ndarray) -> np.ndarray:
  """Returns the sizes of integers, int64 in units of 2**-FRAC.

  Of v = 1 + |value| with the power of two 2**b below or at it: b + v / 2**b - 1.
  """
  grown = 1 + np.abs(values.astype(np.int64))
  power = np.frexp(grown.astype(np.float64))[1].astype(np.int64) - 1
  return (power << FRAC) + ((grown << FRAC) >> power) - (1 << FRAC)


def log2_scales(
  network: Network, known: np.ndarray, base: np.ndarray, at: np.ndarray
) -> np.ndarray:
  """Computes what is added to log2 of the scales of a stage.

  Args:
    network: network of the stage.
    known: int64 [h, w, C], sizes of decoded integers, 0 where there are none.
    base: int64 [h, w, C], log2 of scales from the hyper-latents.
    at: bool [h, w], blocks of the stage.

  Returns:
    int64 [n, channels of the stage], for the blocks in raster order.
  """
  seen = np.clip(fixed_point.apply_int(network.entry, known), 0, MAX_INPUT)
  seen = np.pad(seen, ((1, 1), (1, 1), (0, 0)))
  low, high = laws.MIN_LOG2_SCALE << FRAC, laws.MAX_LOG2_SCALE << FRAC
  out = [np.zeros((0, network.rest.kernels[-1].shape[1]), np.int64)]
  rows, columns = np.nonzero(at)
  for begin in range(0, len(rows), _ROWS):
    y, x = (one[begin : begin + _ROWS] for one in (rows, columns))
    near = [seen[y + i, x + j] for i in range(3) for j in range(3)]
    near.append(np.clip(base[y, x], low, high))
    out.append(fixed_point.apply_int(network.rest, np.concatenate(near, -1)))
  return np.concatenate(out)


def from_arrays(arrays: Mapping[str, np.ndarray], dim: int) -> tuple[Network, ...]:
  """Reads the networks of a bundle.

  Args:
    arrays: 'k/entry/*' and 'k/rest/*' for the networks k = 0, 1, 2; or nothing.
    dim: number C of coefficients of a block.

  Raises:
    CodaxError: arrays are missing, superfluous or no such networks.
  """
  parts: dict[tuple[str, str], dict[str, np.ndarray]] = {}
  for name, array in arrays.items():
    number, part, rest = (*name.split('/', 2), '', '')[:3]
    parts.setdefault((number, part), {})[rest] = array
  numbers = sorted({number for number, _ in parts})
  wanted = {(str(i), part) for i in range(len(numbers)) for part in ('entry', 'rest')}
  if set(parts) != wanted:
    raise CodaxError(f'context networks {sorted(parts)}; valid: {sorted(wanted)}')
  networks = []
  for number in numbers:
    entry, rest = (fixed_point.from_arrays(parts[number, k]) for k in ('entry', 'rest'))
    inputs, width = entry.kernels[0].shape[0], entry.kernels[-1].shape[1]
    if inputs != dim or rest.kernels[0].shape[0] != 9 * width + dim:
      raise CodaxError(f'context network {number} is not one of {dim} coefficients')
    if entry.input_max < MAX_SIZE or rest.input_max < MAX_INPUT:
      raise CodaxError(f'integers are out of the range of context network {number}')
    networks.append(Network(entry, rest))
  return tuple(networks)
