"""Integer tables of a law at every scale: how a rounded coefficient is coded.

A bundle brings a table for every scale of a grid, eight to the octave. A table of
2 r + 1 entries codes the integers -r .. r; at its ends, r or more in size, an escape
follows. At the least scales r is 0: there the integer is 0 and takes no bits.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from codax.entropy import tables
from codax.errors import CodaxError

SCALE_STEPS = 8  # scales to the octave
MIN_LOG2_SCALE, MAX_LOG2_SCALE = -5, 6
SCALES = SCALE_STEPS * (MAX_LOG2_SCALE - MIN_LOG2_SCALE) + 1
FRAC = 8  # fractional bits of log2 of a scale
MAX_REACH = 2**11
# A law's probability beyond the last integer of its table is below this at the start.
_TAIL = 2.0**-18


class Laws(NamedTuple):
  """Tables of all scales.

  Attributes:
    freqs: tuple of int64 [2 r + 1], frequencies that add up to 2**tables.PRECISION.
    reach: int64 [SCALES], r of each table.
    costs: float32 [sum of 2 r + 3], bits of every integer of every table, from
      -(r + 1) to r + 1, the ends with an escape of one step more; one after the other.
    origin: int64 [SCALES], position in `costs` of the integer 0.
  """

  freqs: tuple[np.ndarray, ...]
  reach: np.ndarray
  costs: np.ndarray
  origin: np.ndarray


def scale_index(log2_scale: np.ndarray) -> np.ndarray:
  """Rounds log2 of scales, in units of 2**-FRAC, to the grid.

  Args:
    log2_scale: integers.

  Returns:
    int64, 0 to SCALES - 1.
  """
  unit = 2**FRAC // SCALE_STEPS
  index = (log2_scale - MIN_LOG2_SCALE * 2**FRAC + unit // 2) // unit
  return np.clip(index, 0, SCALES - 1).astype(np.int64)


def scale_of(index: np.ndarray | int) -> np.ndarray:
  """Returns the scale at an index, float64."""
  return 2.0 ** (np.asarray(index, np.float64) / SCALE_STEPS + MIN_LOG2_SCALE)


def logistic() -> dict[str, np.ndarray]:
  """Makes the tables of the logistic law as arrays for a bundle; see `from_arrays`."""
  rows, reaches = [], []
  for index in range(SCALES):
    scale = float(scale_of(index))
    reach = max(int(np.ceil(0.5 - scale * np.log(_TAIL) - 1)), 0)
    edges = (np.arange(-reach, reach) + 0.5) / scale
    cdf = np.concatenate([[0.0], 1 / (1 + np.exp(-edges)), [1.0]])
    # Differences of the upper half lose digits: the law is symmetric.
    lower = np.diff(cdf)[: reach + 1]
    rows.append(tables.quantize_pmf(np.concatenate([lower, lower[:reach][::-1]])))
    reaches.append(reach)
  return {
    'freqs': np.concatenate(rows).astype(np.int32),
    'reach': np.array(reaches, np.int32),
  }


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Laws:
  """Reads the tables of a bundle.

  Args:
    arrays: 'reach' integers [SCALES], 'freqs' integers [sum of 2 r + 1].

  Raises:
    CodaxError: they are no tables.
  """
  if set(arrays) != {'freqs', 'reach'}:
    raise CodaxError(f'laws of {sorted(arrays)}; valid: freqs and reach')
  reach, freqs = np.asarray(arrays['reach']), np.asarray(arrays['freqs'])
  if reach.shape != (SCALES,) or reach.dtype.kind != 'i' or freqs.ndim != 1:
    raise CodaxError(f'laws of {reach.shape} scales; valid: {SCALES}')
  reach = reach.astype(np.int64)
  if reach.min() < 0 or reach.max() > MAX_REACH:
    raise CodaxError(f'a law reaches to {reach.max()}; valid: 0 to {MAX_REACH}')
  ends = np.cumsum(2 * reach + 1)
  if len(freqs) != ends[-1]:
    raise CodaxError(f'laws of {len(freqs)} entries; valid: {ends[-1]}')
  rows = tuple(tables.check_freqs(row) for row in np.split(freqs, ends[:-1]))
  costs = []
  for r, row in zip(reach, rows):
    bits = tables.PRECISION - np.log2(row.astype(np.float64))
    outer = bits[[0, -1]] + ESCAPE_BITS + 2 if r else np.array([1e9, 1e9])
    if r:
      bits[[0, -1]] += ESCAPE_BITS
    costs.append(np.concatenate([outer[:1], bits, outer[1:]]).astype(np.float32))
  lengths = 2 * reach + 3
  return Laws(
    rows, reach, np.concatenate(costs), np.cumsum(lengths) - lengths + reach + 1
  )


ESCAPE_BITS = 4  # of the number of further bits, 0 to 15, of what is beyond a table
MAX_MAGNITUDE = 2**15  # of an integer, below


def bits(laws: Laws, values: np.ndarray, index: np.ndarray) -> np.ndarray:
  """Returns code lengths, float32, of integers `values` at scales `index`.

  Beyond a table the length is that of the next integer after it: a lower bound.
  """
  most = laws.reach[index] + 1
  return laws.costs[laws.origin[index] + np.clip(values, -most, most)]
