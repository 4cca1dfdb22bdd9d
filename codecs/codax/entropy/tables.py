"""Integer probability tables: all probabilities in the coding of files.

A table is a row of integer frequencies, each >= 1, that add up to ``2**precision``.
Tables are either made once and shipped (`quantize_pmf`), or rebuilt by the decoder from
fixed-point logits in integer arithmetic alone (`logits_to_freqs`), so that encoder and
decoder agree to the last unit on any machine. A float softmax would not do: the same
network gives different last bits at another batch size or on another machine.
"""

import functools
import math

import numpy as np

from codax.errors import CodaxError

# Bits of precision of constriction's models, hence of every table that is coded with.
PRECISION = 24
GUARD = 128  # fractional bits of big integers that tables are rounded from

# Fractional bits of a fixed-point logit. The rounding error of a logit is uniform in
# +-2**-9 bits, which costs about ln2/2 * 2**-18 / 3 < 1e-6 bits a symbol.
LOGIT_FRAC = 8

# Fractional bits of exp2. Below 2**-30 of the most likely symbol, the floor of one unit
# in 2**24 that every symbol gets is what counts.
_EXP2_BITS = 30


def quantize_pmf(p: np.ndarray, precision: int = PRECISION) -> np.ndarray:
  """Converts probabilities to integer frequencies.

  Every symbol gets one unit, the rest goes by share, and the units left over by
  rounding to the largest remainders (ties to the lower index).

  Args:
    p: float [..., K], finite, >= 0, not all zero in a row; need not be normalized.
    precision: log2 of the sum of a row, 1 to 30.

  Returns:
    int64 [..., K], each >= 1.

  Raises:
    CodaxError: p is not as above, or K > 2**precision.
  """
  p = np.asarray(p, np.float64)
  if p.ndim < 1 or not 1 <= p.shape[-1] <= 2**precision:
    raise CodaxError(f'a table of shape {p.shape} does not fit 2**{precision} units')
  total = p.sum(axis=-1, keepdims=True)
  if not (np.isfinite(total).all() and (p >= 0).all() and (total > 0).all()):
    raise CodaxError('probabilities must be finite, >= 0 and not all zero')
  k = p.shape[-1]
  share = (p / total) * (2**precision - k)
  freqs = np.floor(share).astype(np.int64)
  left = (2**precision - k) - freqs.sum(axis=-1, keepdims=True)
  order = np.argsort(freqs - share, axis=-1, kind='stable')
  rank = np.empty_like(order)
  np.put_along_axis(rank, order, np.broadcast_to(np.arange(k), order.shape), axis=-1)
  freqs += 1 + (rank < left)
  # A float sum that is off by an ulp can leave -1 or K + 1 units: give them to the top.
  top = np.argmax(freqs, axis=-1)[..., None]
  rest = 2**precision - freqs.sum(axis=-1, keepdims=True)
  np.put_along_axis(freqs, top, np.take_along_axis(freqs, top, -1) + rest, axis=-1)
  return freqs


def uniform(size: int, precision: int = PRECISION) -> np.ndarray:
  """Returns the table of `size` equally likely symbols; the first have a unit more."""
  each, rest = divmod(1 << precision, size)
  return each + (np.arange(size) < rest).astype(np.int64)


def root_of_half(steps: int) -> int:
  """Returns 2**(-1 / steps) with GUARD fractional bits; steps is a power of two."""
  root = 1 << (GUARD - 1)
  for _ in range(steps.bit_length() - 1):
    root = math.isqrt(root << GUARD)
  return root


def powers(root: int, count: int, first: int = 1 << GUARD) -> list[int]:
  """Returns first, first * root, first * root**2, ... with GUARD fractional bits."""
  out = []
  for _ in range(count):
    out.append(first)
    first = first * root >> GUARD
  return out


@functools.cache
def exp2_table() -> np.ndarray:
  """Returns round(2**30 * 2**(-i / 2**LOGIT_FRAC)) for i = 0, 1, ..., then a zero.

  Computed in big integers (repeated square roots), so that no machine's libm has a say.
  Returns int64 [31 * 2**LOGIT_FRAC + 1], read-only.
  """
  fine = powers(root_of_half(1 << LOGIT_FRAC), 1 << LOGIT_FRAC)
  table = []
  for whole in range(_EXP2_BITS + 1):
    shift = GUARD - _EXP2_BITS + whole
    table += [(x + (1 << (shift - 1))) >> shift for x in fine]
  result = np.array([*table, 0], np.int64)
  result.flags.writeable = False
  return result


def logits_to_freqs(logits: np.ndarray, precision: int = PRECISION) -> np.ndarray:
  """Converts fixed-point logits to integer frequencies in integer arithmetic.

  Args:
    logits: int64 [..., K], log2 of the unnormalized probabilities in units of
      ``2**-LOGIT_FRAC``, any offset; magnitudes below 2**62.
    precision: log2 of the sum of a row.

  Returns:
    int64 [..., K], each >= 1: one unit each, the rest by share and rounded down, and
    the remainder to the most likely symbol (the first of them).
  """
  table = exp2_table()
  k = logits.shape[-1]
  if not 1 <= k <= 2**precision:
    raise CodaxError(f'a table of {k} symbols does not fit 2**{precision} units')
  top = np.argmax(logits, axis=-1)[..., None]
  below = np.take_along_axis(logits, top, axis=-1) - logits
  freqs = table[np.minimum(below, len(table) - 1)]
  total = freqs.sum(axis=-1, keepdims=True)
  freqs *= 2**precision - k  # below 2**(30 + 24)
  freqs //= total
  freqs += 1
  rest = 2**precision - freqs.sum(axis=-1, keepdims=True)
  np.put_along_axis(freqs, top, np.take_along_axis(freqs, top, -1) + rest, axis=-1)
  return freqs


def check_freqs(freqs: np.ndarray, precision: int = PRECISION) -> np.ndarray:
  """Returns `freqs` [..., K] as int64 after checking entries >= 1 and row sums.

  Raises:
    CodaxError: it is no table.
  """
  freqs = np.asarray(freqs)
  if freqs.dtype.kind not in 'iu' or freqs.ndim < 1 or not freqs.shape[-1]:
    raise CodaxError(f'a table must be integers [..., K], not {freqs.dtype} '
                     f'{freqs.shape}')  # fmt: skip
  freqs = freqs.astype(np.int64, copy=False)
  # The upper bound first: it keeps a hostile row from wrapping round to the right sum.
  if freqs.size and (
    freqs.min() < 1
    or freqs.max() > 2**precision
    or (freqs.sum(axis=-1) != 2**precision).any()
  ):
    raise CodaxError(f'table entries must be >= 1 and add up to 2**{precision}')
  return freqs


def bits(freqs: np.ndarray, symbols: np.ndarray, precision: int = PRECISION) -> float:
  """Returns the ideal code length of `symbols` [...] under `freqs` [..., K] or [K]."""
  if freqs.ndim == 1:
    picked = freqs[symbols]
  else:
    picked = np.take_along_axis(freqs, symbols[..., None].astype(np.int64), -1)
  return float(np.sum(precision - np.log2(picked)))
