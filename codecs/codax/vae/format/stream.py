"""Range-coded streams of integers whose tables are picked by a scale.

Integers are coded scale by scale, those of one scale in raster order, then the excess
of those at the ends of their tables: first the number of its bits, then the bits.
"""

import numpy as np

from codax.bitstream import BitstreamError
from codax.entropy import range_coder, tables
from codax.errors import CodaxError
from codax.vae.format.laws import ESCAPE_BITS, MAX_MAGNITUDE, SCALES, Laws

_LENGTHS = tables.uniform(2**ESCAPE_BITS)
_BIT = tables.uniform(2)


def put(
  encoder: range_coder.Encoder, laws: Laws, values: np.ndarray, index: np.ndarray
) -> float:
  """Appends integers to a stream.

  Args:
    encoder: stream under way.
    laws: tables.
    values: int [n], magnitudes below `MAX_MAGNITUDE`; 0 where the table has one entry.
    index: int [n], scale of each.

  Returns:
    Ideal code length in bits.

  Raises:
    CodaxError: a value is out of range.
  """
  reach = laws.reach[index]
  size = np.abs(values)
  if size.size and (size.max() >= MAX_MAGNITUDE or (size[reach == 0] != 0).any()):
    raise CodaxError('a coefficient is too large for its table')
  clipped = np.clip(values, -reach, reach)
  total, escaped = 0.0, []
  for scale, at in _by_scale(index):
    freqs, r = laws.freqs[scale], laws.reach[scale]
    symbols = clipped[at] + r
    encoder.put(symbols, freqs)
    total += tables.bits(freqs, symbols)
    if r:
      escaped.append(at[size[at] >= r])
  at = np.concatenate([np.zeros(0, np.int64), *escaped])
  excess = size[at] - reach[at] + 1  # 1 or more: its first bit is not coded
  lengths = np.floor(np.log2(np.maximum(excess, 1))).astype(np.int64)
  encoder.put(lengths, _LENGTHS)
  bits = _to_bits(excess, lengths)
  encoder.put(bits, _BIT)
  return total + ESCAPE_BITS * len(lengths) + len(bits)


def get(decoder: range_coder.Decoder, laws: Laws, index: np.ndarray) -> np.ndarray:
  """Takes integers from a stream: the inverse of `put`.

  Args:
    decoder: stream under way.
    laws: tables.
    index: int [n], scale of each integer.

  Returns:
    int64 [n].

  Raises:
    BitstreamError: the stream does not hold them.
  """
  decoder.expect(len(index))
  values = np.zeros(len(index), np.int64)
  escaped = []
  for scale, at in _by_scale(index):
    r = laws.reach[scale]
    values[at] = decoder.decode(laws.freqs[scale], len(at)) - r
    if r:
      escaped.append(at[np.abs(values[at]) == r])
  at = np.concatenate([np.zeros(0, np.int64), *escaped])
  lengths = decoder.decode(_LENGTHS, len(at)).astype(np.int64)
  bits = decoder.decode(_BIT, int(lengths.sum()))
  excess = _from_bits(bits, lengths) - 1
  if len(at):
    values[at] += np.sign(values[at]) * excess
    if np.abs(values[at]).max() >= MAX_MAGNITUDE:
      raise BitstreamError(f'a coefficient is {MAX_MAGNITUDE} or more')
  return values


def _by_scale(index: np.ndarray):
  """Yields (scale, positions in ascending order) of every scale that occurs."""
  order = np.argsort(index.astype(np.uint8), kind='stable')
  ends = np.cumsum(np.bincount(index, minlength=SCALES))
  for scale, at in enumerate(np.split(order, ends[:-1])):
    if len(at):
      yield scale, at


def _to_bits(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
  """Returns the last `lengths` bits of each value, most significant first."""
  owner, shift = _shifts(lengths)
  return (values[owner] >> shift) & 1


def _from_bits(bits: np.ndarray, lengths: np.ndarray) -> np.ndarray:
  """Inverts `_to_bits`, the bit before the first being 1."""
  owner, shift = _shifts(lengths)
  values = 1 << lengths
  np.add.at(values, owner, bits.astype(np.int64) << shift)
  return values


def _shifts(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Returns the value that each bit belongs to, and the bit's place in it."""
  owner = np.repeat(np.arange(len(lengths)), lengths)
  starts = np.cumsum(lengths) - lengths
  return owner, lengths[owner] - 1 - (np.arange(len(owner)) - starts[owner])
