"""Range coding of symbols under integer tables, over constriction's range coder.

constriction is fast and exact, but trusts its caller: it takes any word stream, and a
bad model can panic. So everything is checked before a call, and a stream is accepted
only if encoding the decoded symbols again gives the very same bytes: that one rule
catches leftover bytes, missing bytes and damaged tails. Damage in the middle gives
other symbols, as with any entropy coder; the container's CRC is for that.

Tables are handed over as ``freqs - 1``: constriction gives every symbol one unit of
``2**-24`` and shares out the rest in proportion, so that with these numbers its own
table *is* ours, exactly, with no rounding anywhere.

The bytes are the shortest string that, extended with zeros, lies in the coder's final
interval, most significant byte first; often empty for a few likely symbols.
"""

import constriction
import numpy as np

from codax.bitstream import BitstreamError
from codax.entropy import tables
from codax.errors import CodaxError

MAX_SYMBOLS = 2**16  # K, the size of an alphabet

_categorical = constriction.stream.model.Categorical


def _weights(freqs: np.ndarray, precision: int) -> np.ndarray:
  """Checked `freqs` [..., K] as the float64 weights that constriction is given."""
  if not 1 <= precision <= tables.PRECISION:
    raise CodaxError(f'precision is {precision}; valid: 1 to {tables.PRECISION}')
  freqs = tables.check_freqs(freqs, precision)
  if freqs.shape[-1] > MAX_SYMBOLS:
    raise CodaxError(f'{freqs.shape[-1]} symbols; valid: up to {MAX_SYMBOLS}')
  return (freqs * 2 ** (tables.PRECISION - precision) - 1).astype(np.float64)


class Encoder:
  """Collects symbols; see `encode` for the arguments."""

  def __init__(self, precision: int = tables.PRECISION):
    self._precision = precision
    self._coder = constriction.stream.queue.RangeEncoder()

  def put(self, symbols: np.ndarray, freqs: np.ndarray) -> None:
    """Appends `symbols` [n] under `freqs` [K] (shared) or [n, K]."""
    symbols = np.asarray(symbols)
    if symbols.ndim != 1 or symbols.dtype.kind not in 'iu':
      raise CodaxError(f'symbols must be integers [N], not {symbols.dtype} '
                       f'{symbols.shape}')  # fmt: skip
    weights = _weights(freqs, self._precision)
    k = weights.shape[-1]
    if weights.shape not in ((k,), (symbols.size, k)):
      raise CodaxError(f'tables of shape {weights.shape} for {symbols.size} symbols')
    if symbols.size and not (symbols.min() >= 0 and symbols.max() < k):
      raise CodaxError(f'a symbol is outside its table; valid: 0 to {k - 1}')
    self._put(symbols.astype(np.int32), weights)

  def _put(self, symbols: np.ndarray, weights: np.ndarray) -> None:
    if not symbols.size or weights.shape[-1] == 1:
      return  # a symbol without an alternative has no bits
    if weights.ndim == 1:
      self._coder.encode(symbols, _categorical(weights, perfect=False))
    else:
      self._coder.encode(symbols, _categorical(perfect=False), weights)

  def finish(self) -> bytes:
    """The bytes of everything put so far."""
    words = self._coder.get_compressed()
    position, (lower, size) = self._coder.pos()
    # The interval starts at `lower`, 64 bits wide, after `position` words, and the
    # coder's own choice of final words lies in it.
    words = np.concatenate([words, np.zeros(max(0, position + 2 - len(words)), 'u4')])
    own = int.from_bytes(words.astype('>u4').tobytes())
    start = (own >> 64 << 64) + lower
    if start > own:
      start -= 1 << 64  # its choice had carried over into the words before
    for dropped in range(8, -1, -1):  # an interval below 2**64: 0 always succeeds
      point = -(-start >> 8 * dropped)  # start, rounded up to so many bytes fewer
      if point << 8 * dropped < start + size:
        break
    return point.to_bytes(4 * len(words) - dropped).rstrip(b'\0')


class Decoder:
  """Hands out the symbols of a byte string, some at a time, as they were put."""

  def __init__(self, data: bytes, precision: int = tables.PRECISION):
    self._data = bytes(data)
    self._precision = precision
    words = np.frombuffer(self._data + bytes(-len(data) % 4), '>u4')
    self._coder = constriction.stream.queue.RangeDecoder(words.astype(np.uint32))
    self._again = Encoder(precision)

  def decode(self, freqs: np.ndarray, count: int | None = None) -> np.ndarray:
    """The next symbols: one per row of `freqs` [n, K], or `count` under `freqs` [K].

    Returns:
      int32 [n], each in [0, K).

    Raises:
      BitstreamError: the bytes cannot come from these tables.
      CodaxError: `freqs` is no table.
    """
    weights = _weights(freqs, self._precision)
    if weights.ndim > 2 or (weights.ndim == 1) == (count is None):
      raise CodaxError(f'tables of shape {weights.shape} and count {count}')
    n = len(weights) if count is None else count
    if not n or weights.shape[-1] == 1:
      return np.zeros(n, np.int32)
    try:
      if count is None:
        symbols = self._coder.decode(_categorical(perfect=False), weights)
      else:
        symbols = self._coder.decode(_categorical(weights, perfect=False), count)
    except Exception as e:  # an AssertionError in constriction 0.5
      raise BitstreamError('entropy-coded data do not fit their model') from e
    self._again._put(symbols, weights)
    return symbols

  def finish(self) -> None:
    """Checks that the bytes were exactly those of the symbols handed out.

    Raises:
      BitstreamError: bytes are missing, left over or changed.
    """
    if self._again.finish() != self._data:
      raise BitstreamError('entropy-coded data are damaged, cut short or too long')


def encode(
  symbols: np.ndarray, freqs: np.ndarray, precision: int = tables.PRECISION
) -> bytes:
  """Range-codes symbols.

  Args:
    symbols: int [N], each in [0, K).
    freqs: int [K] (one table for all) or [N, K]; entries >= 1, rows add up to
      ``2**precision``; K <= 65,536. With K = 1 nothing is written.
    precision: 1 to 24.

  Returns:
    The bytes: in practice the ideal length (`tables.bits`) within 8 bytes. (At worst
    0.006 bits a symbol more: the coder's range, of 32 bits or more, is cut in units of
    its 2**24th part.)

  Raises:
    CodaxError: arguments not as above.
  """
  encoder = Encoder(precision)
  encoder.put(symbols, freqs)
  return encoder.finish()


def decode(
  data: bytes, count: int, freqs: np.ndarray, precision: int = tables.PRECISION
) -> np.ndarray:
  """Inverse of `encode`: int32 [count], each in [0, K).

  Raises:
    BitstreamError: `data` is not what `encode` writes for any symbols, where that can
      be told; else damaged data give wrong symbols within the alphabet.
  """
  decoder = Decoder(data, precision)
  symbols = decoder.decode(freqs, count if np.ndim(freqs) == 1 else None)
  if len(symbols) != count:
    raise CodaxError(f'tables for {len(symbols)} symbols, not {count}')
  decoder.finish()
  return symbols
