"""Numbers and codes in the range coder, shared by all parts of a stream."""

import numpy as np

from codax.bitstream import BitstreamError
from codax.entropy import range_coder, tables

MAX_CODE = 2047  # magnitude of shapes and colors
# Differences from a prediction are -REACH .. REACH; the ends are escapes.
REACH = 63
_EXCESS = 4096  # number of values of the steps beyond them


def put_codes(encoder, codes: np.ndarray, whole: np.ndarray, freqs) -> float:
  """Codes integers [n] by their differences from predictions; returns the ideal bits.

  Args:
    encoder: range coder.
    codes: int64 [n].
    whole: int64 [n], predictions.
    freqs: int64 [n, 2 * REACH + 1], frequencies of the differences.
  """
  difference = codes - whole
  symbols = np.clip(difference, -REACH, REACH) + REACH
  encoder.put(symbols, freqs)
  excess = np.abs(difference[np.abs(difference) >= REACH]) - REACH
  encoder.put(excess, tables.uniform(_EXCESS))
  return tables.bits(freqs, symbols) + len(excess) * float(np.log2(_EXCESS))


def get_codes(decoder, whole: np.ndarray, freqs) -> np.ndarray:
  """Inverts `put_codes`: int64 [n]."""
  difference = decoder.decode(freqs).astype(np.int64) - REACH
  escaped = np.flatnonzero(np.abs(difference) == REACH)
  excess = decoder.decode(tables.uniform(_EXCESS), len(escaped))
  difference[escaped] += np.sign(difference[escaped]) * excess
  codes = whole + difference
  if np.abs(codes).max() > MAX_CODE:
    raise BitstreamError('a shape or color is out of range')
  return codes


def put_uniform(encoder: range_coder.Encoder, value: int, low: int, high: int) -> float:
  """Codes one of `high` - `low` + 1 equally likely numbers; returns its bits."""
  encoder.put(np.array([value - low]), tables.uniform(high - low + 1))
  return float(np.log2(high - low + 1))


def get_uniform(decoder: range_coder.Decoder, low: int, high: int) -> int:
  """Inverts `put_uniform`."""
  return low + int(decoder.decode(tables.uniform(high - low + 1), 1)[0])
