"""Network weights to bits: Laplace tables per tensor, long values escaped.

Each tensor is coded with the integer Laplace distribution of mean zero whose scale, one
of `laplace.LEVELS`, the encoder chose for it. Values beyond the alphabet are coded as
its end and, after all others of the tensor, an Exp-Golomb code of the excess: first the
numbers of digits of all of them, then the digits of all of them. (So a decoder reads
them in two calls, and a file of escapes takes no longer than another one.)
"""

import functools
import math

import numpy as np

from codax.bitstream import BitstreamError
from codax.entropy import laplace, range_coder, tables

REACH = 31  # the alphabet of a weight is -REACH .. REACH, its ends being escapes
MAX_WEIGHT = 2**20
MAX_TABULATED = 2**11  # magnitude of the weights in `code_lengths`
_LEVELS = np.arange(laplace.LEVELS)
# Largest number of digits of an excess + 1 after the leading one.
_MAX_DIGITS = 19


@functools.cache
def _all_freqs() -> np.ndarray:
  """Tabulates the frequencies of symbols, int64 [LEVELS, 2 * REACH + 1]."""
  table = laplace.make(2 * REACH)
  return laplace.freqs(table, _LEVELS, 0 * _LEVELS, -REACH, REACH)


@functools.cache
def _inside() -> np.ndarray:
  """Tabulates the bits of symbols, float64 [LEVELS, 2 * REACH + 1]."""
  return tables.PRECISION - np.log2(_all_freqs())


_BIT = np.array([1 << (tables.PRECISION - 1)] * 2, np.int64)
# n digits have probability 2**-(n + 1), as in a unary code; the last takes the rest.
_DIGITS = 1 << (tables.PRECISION - 1 - np.arange(_MAX_DIGITS + 1))
_DIGITS[-1] <<= 1


def _digits(excess: np.ndarray) -> np.ndarray:
  """Counts the binary digits of `excess` + 1 after the leading one, int64."""
  return np.frexp(excess + 1.0)[1].astype(np.int64) - 1


def _golomb_bits(excess: np.ndarray) -> np.ndarray:
  """Computes the bits of the codes of integers >= 0."""
  digits = _digits(excess)
  return tables.PRECISION - np.log2(_DIGITS[digits]) + digits


def cost(values: np.ndarray) -> tuple[int, float]:
  """Chooses the best level of a tensor; returns it and the bits with it."""
  flat = np.asarray(values).ravel()
  inside = np.clip(flat, -REACH, REACH)
  histogram = np.bincount(inside + REACH, minlength=2 * REACH + 1)
  total = _inside() @ histogram
  beyond = np.abs(flat)[np.abs(flat) >= REACH] - REACH
  level = int(np.argmin(total))
  header = float(np.log2(laplace.LEVELS))
  return level, float(total[level]) + float(_golomb_bits(beyond).sum()) + header


@functools.cache
def code_lengths() -> np.ndarray:
  """Tabulates the bits of single weights, given the level of their tensor.

  Returns:
    float64 [LEVELS, 2 * MAX_TABULATED + 1], value v in column v + MAX_TABULATED. The
    bits of the level itself are not in it.
  """
  value = np.arange(-MAX_TABULATED, MAX_TABULATED + 1)
  out = _inside()[:, np.clip(value, -REACH, REACH) + REACH]
  beyond = np.abs(value) >= REACH
  out[:, beyond] += _golomb_bits(np.abs(value[beyond]) - REACH)
  return out


def put(encoder: range_coder.Encoder, values: np.ndarray) -> float:
  """Codes one tensor; returns its ideal length in bits."""
  flat = np.asarray(values).ravel().astype(np.int64)
  level, bits = cost(flat)
  encoder.put(np.array([level]), tables.uniform(laplace.LEVELS))
  inside = np.clip(flat, -REACH, REACH)
  encoder.put(inside + REACH, _all_freqs()[level])
  excess = np.abs(flat[np.abs(flat) >= REACH]) - REACH
  digits = _digits(excess)
  encoder.put(digits, _DIGITS)
  owner, place = _places(digits)
  encoder.put((excess[owner] + 1) >> place & 1, _BIT)
  return bits


def _places(digits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Lists the digits of all values: (index of the value, exponent), int64."""
  owner = np.repeat(np.arange(len(digits)), digits)
  ends = np.cumsum(digits)
  return owner, ends[owner] - 1 - np.arange(len(owner))


def get(decoder: range_coder.Decoder, shape: tuple[int, ...]) -> np.ndarray:
  """Inverts `put`.

  Returns:
    int64 of `shape`.

  Raises:
    BitstreamError: a weight of magnitude over 2**20, or data that end early.
  """
  level = int(decoder.decode(tables.uniform(laplace.LEVELS), 1)[0])
  flat = decoder.decode(_all_freqs()[level], math.prod(shape)).astype(np.int64) - REACH
  escaped = np.flatnonzero(np.abs(flat) == REACH)
  digits = decoder.decode(_DIGITS, len(escaped)).astype(np.int64)
  owner, place = _places(digits)
  bits = decoder.decode(_BIT, len(owner)).astype(np.int64) << place
  excess = (1 << digits) - 1
  np.add.at(excess, owner, bits)
  flat[escaped] += np.sign(flat[escaped]) * excess
  if np.abs(flat).max() > MAX_WEIGHT:
    raise BitstreamError('a network weight is out of range')
  return flat.reshape(shape)
