"""Network weights to bits: Laplace tables per tensor, long values escaped.

Each tensor is coded with the integer Laplace distribution of mean zero whose scale, one
of `laplace.LEVELS`, the encoder chose for it. Values beyond the alphabet are coded as
its end and, after all others of the tensor, an Exp-Golomb code of the excess.
"""

import functools

import numpy as np

from codax.bitstream import BitstreamError
from codax.entropy import laplace, range_coder, tables

REACH = 31  # the alphabet of a weight is -REACH .. REACH, its ends being escapes
MAX_WEIGHT = 2**20
_LEVELS = np.arange(laplace.LEVELS)


@functools.cache
def _all_freqs() -> np.ndarray:
  """int64 [LEVELS, 2 * REACH + 1]."""
  table = laplace.make(2 * REACH)
  return laplace.freqs(table, _LEVELS, 0 * _LEVELS, -REACH, REACH)


def uniform(size: int) -> np.ndarray:
  """The table of `size` equally likely symbols."""
  return tables.quantize_pmf(np.ones(size))


_BIT = np.array([1 << (tables.PRECISION - 1)] * 2, np.int64)


def _golomb_bits(excess: np.ndarray) -> np.ndarray:
  """Length of the order-0 Exp-Golomb code of integers >= 0."""
  return 2 * np.floor(np.log2(excess + 1.0)) + 1


def cost(values: np.ndarray) -> tuple[int, float]:
  """The best level of a tensor, and its bits with that level."""
  flat = np.asarray(values).ravel()
  price = tables.PRECISION - np.log2(_all_freqs())  # [LEVELS, symbols]
  kept = np.clip(flat, -REACH, REACH)
  histogram = np.bincount(kept + REACH, minlength=2 * REACH + 1)
  total = price @ histogram
  beyond = np.abs(flat)[np.abs(flat) >= REACH] - REACH
  level = int(np.argmin(total))
  header = float(np.log2(laplace.LEVELS))
  return level, float(total[level]) + float(_golomb_bits(beyond).sum()) + header


def put(encoder: range_coder.Encoder, values: np.ndarray) -> float:
  """Codes one tensor; returns its ideal length in bits."""
  flat = np.asarray(values).ravel().astype(np.int64)
  level, bits = cost(flat)
  encoder.put(np.array([level]), uniform(laplace.LEVELS))
  kept = np.clip(flat, -REACH, REACH)
  encoder.put(kept + REACH, _all_freqs()[level])
  for value in np.abs(flat[np.abs(flat) >= REACH]) - REACH:
    text = bin(int(value) + 1)[2:]
    code = [0] * (len(text) - 1) + [int(c) for c in text]
    encoder.put(np.array(code), _BIT)
  return bits


def get(decoder: range_coder.Decoder, shape: tuple[int, ...]) -> np.ndarray:
  """Inverse of `put`: int64 of `shape`.

  Raises:
    BitstreamError: a weight of 2**20 or more, or data that end early.
  """
  level = int(decoder.decode(uniform(laplace.LEVELS), 1)[0])
  count = int(np.prod(shape))
  flat = decoder.decode(_all_freqs()[level], count).astype(np.int64) - REACH
  for i in np.flatnonzero(np.abs(flat) == REACH):
    zeros = 0
    while not decoder.decode(_BIT, 1)[0]:
      zeros += 1
      if zeros > MAX_WEIGHT.bit_length():
        raise BitstreamError('a network weight is out of range')
    value = 1
    for bit in decoder.decode(_BIT, zeros) if zeros else ():
      value = value << 1 | int(bit)
    flat[i] = np.sign(flat[i]) * (REACH + value - 1)
    if abs(flat[i]) > MAX_WEIGHT:
      raise BitstreamError('a network weight is out of range')
  return flat.reshape(shape)
