"""Integer tables of discretized Laplace distributions, the same on every machine.

An overfitted codec's entropy network gives each latent a mean and a scale, and the
latent is coded under the Laplace distribution integrated over its unit interval (C3,
Kim et al. 2023, section 3.1). Both numbers come on grids, means in 32nds and scales in
eighths of an octave, so all distributions that can occur are the rows of one table of
integers, built here by integer arithmetic alone. The grids cost under 0.001 bits a
symbol (see the tests).

An alphabet is a range of integers, low .. high; the probability outside it goes to the
two ends.
"""

import functools
from typing import NamedTuple

import numpy as np

from codax.entropy import tables
from codax.errors import CodaxError

MEAN_FRAC = 5  # means are multiples of 2**-5
SCALE_STEPS = 8  # levels an octave
MIN_LOG2_SCALE, MAX_LOG2_SCALE = -5, 7
LEVELS = SCALE_STEPS * (MAX_LOG2_SCALE - MIN_LOG2_SCALE) + 1
MAX_RANGE = 4096  # symbols of an alphabet

_ONE = 30  # fractional bits of probabilities
_EXPONENT_FRAC = 16  # fractional bits of exponents of 2
# log2(e) with tables.GUARD fractional bits
LOG2_E = 0x171547652B82FE1777D0FFDA0D23A7D12


class Table(NamedTuple):
  """Cumulative probabilities for alphabets of up to `reach` + 1 symbols.

  Attributes:
    cdf: int32 [LEVELS * 2**MEAN_FRAC, 2 * reach + 2]. Row (level, fraction), column j:
      2**30 times the probability of a value below j - reach - 1/2, for a mean of
      fraction / 2**MEAN_FRAC.
    reach: largest distance of a symbol from the whole part of a mean.
  """

  cdf: np.ndarray
  reach: int


@functools.cache
def _rates() -> np.ndarray:
  """Returns round(2**16 * log2(e) / scale) of every level, int64 [LEVELS]."""
  fine = tables.powers(tables.root_of_half(SCALE_STEPS), SCALE_STEPS)
  rates = []
  for level in range(LEVELS):
    octave, step = divmod(level, SCALE_STEPS)
    rate = LOG2_E * fine[step] >> tables.GUARD  # log2(e) * 2**(-step / 8)
    shift = tables.GUARD - _EXPONENT_FRAC + octave + MIN_LOG2_SCALE
    rates.append((rate + (1 << (shift - 1))) >> shift)
  return np.array(rates, np.int64)


@functools.cache
def _fine_table() -> np.ndarray:
  """Returns round(2**30 * 2**(-i / 2**16)) for i = 0 .. 255, int64."""
  shift = tables.GUARD - _ONE
  powers = tables.powers(
    tables.root_of_half(1 << _EXPONENT_FRAC), 1 << tables.LOGIT_FRAC
  )
  return np.array([(p + (1 << (shift - 1))) >> shift for p in powers], np.int64)


def _exp2_neg(t: np.ndarray) -> np.ndarray:
  """Returns 2**30 * 2**(-t / 2**16) for int64 t >= 0, within 2; never rises with t."""
  coarse = tables.exp2_table()
  high = np.minimum(t >> tables.LOGIT_FRAC, len(coarse) - 2)
  fine = _fine_table()[t & ((1 << tables.LOGIT_FRAC) - 1)]
  # The product, rounded down, could be below the next entry.
  product = np.maximum(coarse[high] * fine >> _ONE, coarse[high + 1])
  return np.where(t >> tables.LOGIT_FRAC < len(coarse) - 1, product, 0)


@functools.lru_cache(maxsize=4)
def make(reach: int) -> Table:
  """Makes the table for alphabets of up to `reach` + 1 symbols.

  Args:
    reach: distance, 0 to MAX_RANGE - 1.

  Raises:
    CodaxError: another reach.
  """
  if not 0 <= reach < MAX_RANGE:
    raise CodaxError(f'an alphabet of {reach + 1} symbols; valid: 1 to {MAX_RANGE}')
  fractions = np.arange(1 << MEAN_FRAC)
  edges = np.arange(2 * reach + 2)
  # Edges in 64ths from the mean: 2 * 32 * (j - reach - 1/2) - 2 * fraction.
  unit = 2 << MEAN_FRAC
  x = unit * (edges - reach)[None] - unit // 2 - 2 * fractions[:, None]
  cdf = np.empty((LEVELS, *x.shape), np.int32)
  for level, rate in enumerate(_rates()):  # one at a time: a large table is 12 MB
    half = _exp2_neg(np.abs(x) * rate // unit) >> 1
    cdf[level] = np.where(x < 0, half, (1 << _ONE) - half)
  cdf.flags.writeable = False
  return Table(cdf.reshape(-1, len(edges)), reach)


class Alphabet(NamedTuple):
  """Symbols low .. low + size - 1, ready for look-ups.

  Attributes:
    cdf: cumulative probabilities of the `Table`.
    low: first symbol.
    size: number of symbols.
    place: int64, for each mean from low on, in units of 2**-MEAN_FRAC: position of the
      edge between the first two symbols in `cdf`, from the first row of a level.
    inner: int64 [size - 1], 0, 1, 2 ..: the edges from there.
  """

  cdf: np.ndarray
  low: int
  size: int
  place: np.ndarray
  inner: np.ndarray


def alphabet(table: Table, low: int, high: int) -> Alphabet:
  """Returns the symbols low .. high, for a table of reach >= high - low.

  Raises:
    CodaxError: there are none, or too many.
  """
  size = high - low + 1
  if not 1 <= size <= table.reach + 1:
    raise CodaxError(f'symbols {low} to {high} for a table of reach {table.reach}')
  mean = np.arange(low << MEAN_FRAC, (high << MEAN_FRAC) + 1)
  row = mean & ((1 << MEAN_FRAC) - 1)
  column = low + 1 + table.reach - (mean >> MEAN_FRAC)
  place = row * table.cdf.shape[1] + column
  return Alphabet(table.cdf, low, size, place, np.arange(size - 1))


def shares(symbols: Alphabet, level: np.ndarray, mean: np.ndarray) -> np.ndarray:
  """Returns frequencies less 1, for `range_coder.Decoder.decode_shares`.

  Args:
    symbols: alphabet of the n tables.
    level: int [n], 0 to LEVELS - 1.
    mean: int [n], in units of 2**-MEAN_FRAC; clipped to the alphabet.

  Returns:
    float64 [n, size], whole, each >= 0; rows add up to 2**tables.PRECISION - size.
  """
  # A wave of an image has few rows, so the number of calls counts.
  first = symbols.place.take(mean - (symbols.low << MEAN_FRAC), mode='clip')
  first += level * (symbols.cdf.shape[1] << MEAN_FRAC)
  rest = (1 << tables.PRECISION) - symbols.size
  edges = np.empty((len(first), symbols.size + 1), np.int64)
  edges[:, 0], edges[:, -1] = 0, rest << _ONE
  inner = symbols.cdf.take(first[:, None] + symbols.inner)
  np.multiply(inner, np.int64(rest), out=edges[:, 1:-1])
  edges >>= _ONE
  return np.subtract(edges[:, 1:], edges[:, :-1], dtype=np.float64)


def freqs(
  table: Table, level: np.ndarray, mean: np.ndarray, low: int, high: int
) -> np.ndarray:
  """Returns the frequencies of the symbols low .. high.

  Args:
    table: table of reach >= high - low.
    level: see `shares`.
    mean: see `shares`.
    low: first symbol.
    high: last symbol.

  Returns:
    int64 [n, high - low + 1], each >= 1; rows add up to 2**tables.PRECISION.
  """
  return shares(alphabet(table, low, high), level, mean).astype(np.int64) + 1
