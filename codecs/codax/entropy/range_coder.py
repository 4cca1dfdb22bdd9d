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

Any string so extended decodes to endless symbols, and a run of the first symbol of a
table would take no bytes at all, so a small hostile file could claim a map of any size.
Hence two rules, which the encoder meets by adding zero bytes (it hardly ever has to)
and the decoder stops at: a string is at most `SLACK` bytes shorter than the words that
the coder has put out (its ideal length, so to speak), and at most `SLACK` bytes shorter
than one byte for every `SYMBOLS_PER_BYTE` symbols.
"""

import constriction
import numpy as np

from codax.bitstream import BitstreamError
from codax.entropy import tables
from codax.errors import CodaxError

MAX_SYMBOLS = 2**16  # K, the size of an alphabet

# The words put out leave less than 64 bits open, so only one string in 2**64 is shorter
# than them by more than this, but for runs of the first symbol.
SLACK = 8
SYMBOLS_PER_BYTE = 1024

_BLOCK = 2**16  # symbols decoded between two looks at the rules

_categorical = constriction.stream.model.Categorical


def _weights(freqs: np.ndarray, precision: int) -> np.ndarray:
  """Returns checked `freqs` [..., K] as the float64 weights for constriction."""
  if not 1 <= precision <= tables.PRECISION:
    raise CodaxError(f'precision is {precision}; valid: 1 to {tables.PRECISION}')
  freqs = tables.check_freqs(freqs, precision)
  if freqs.shape[-1] > MAX_SYMBOLS:
    raise CodaxError(f'{freqs.shape[-1]} symbols; valid: up to {MAX_SYMBOLS}')
  return (freqs * 2 ** (tables.PRECISION - precision) - 1).astype(np.float64)


def least_bytes(count: int, words: int = 0) -> int:
  """Returns the least length of a string of `count` symbols.

  Args:
    count: number of symbols, those of one-symbol alphabets included.
    words: number of whole 32-bit words that the coder has put out for them.
  """
  return max(4 * words, -(-count // SYMBOLS_PER_BYTE)) - SLACK


def check_count(data: bytes, count: int, words: int = 0) -> None:
  """Raises `BitstreamError` if `data` is shorter than `least_bytes`."""
  if len(data) < least_bytes(count, words):
    raise BitstreamError(
      f'{len(data)} bytes of entropy-coded data end before symbol {count}'
    )


class Encoder:
  """Collects symbols; see `encode` for the arguments."""

  def __init__(self, precision: int = tables.PRECISION):
    self._precision = precision
    self._coder = constriction.stream.queue.RangeEncoder()
    self.count = 0

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
    self.count += len(symbols)
    if not symbols.size or weights.shape[-1] == 1:
      return  # a symbol without an alternative has no bits
    if weights.ndim == 1:
      self._coder.encode(symbols, _categorical(weights, perfect=False))
    else:
      self._coder.encode(symbols, _categorical(perfect=False), weights)

  @property
  def words(self) -> int:
    """Returns the number of whole words put out so far."""
    return self._coder.pos()[0]

  def finish(self) -> bytes:
    """Returns the bytes of everything put so far."""
    words = self._coder.get_compressed()
    position, (lower, size) = self._coder.pos()
    # The interval starts at `lower`, 64 bits wide, after `position` words, and the
    # coder's own choice of final words lies in it.
    words = np.concatenate([words, np.zeros(max(0, position + 2 - len(words)), 'u4')])
    choice = int.from_bytes(words.astype('>u4').tobytes())
    start = (choice >> 64 << 64) + lower
    if start > choice:
      start -= 1 << 64  # its choice had carried over into the words before
    for dropped in range(8, -1, -1):  # an interval below 2**64: 0 always succeeds
      point = -(-start >> 8 * dropped)  # start, rounded up to so many bytes fewer
      if point << 8 * dropped < start + size:
        break
    data = point.to_bytes(4 * len(words) - dropped).rstrip(b'\0')
    return data.ljust(least_bytes(self.count, position), b'\0')


class Decoder:
  """Hands out the symbols of a byte string, some at a time, as they were put."""

  def __init__(self, data: bytes, precision: int = tables.PRECISION):
    self._data = bytes(data)
    self._precision = precision
    words = np.frombuffer(self._data + bytes(-len(data) % 4), '>u4')
    self._coder = constriction.stream.queue.RangeDecoder(words.astype(np.uint32))
    self._again = Encoder(precision)

  def decode(self, freqs: np.ndarray, count: int | None = None) -> np.ndarray:
    """Returns the next symbols: one per row of `freqs` [n, K], or `count` under [K].

    Returns:
      int32 [n], each in [0, K).

    Raises:
      BitstreamError: the bytes cannot come from these tables, or are too few for so
        many symbols.
      CodaxError: `freqs` is no table.
    """
    weights = _weights(freqs, self._precision)
    if weights.ndim > 2 or (weights.ndim == 1) == (count is None):
      raise CodaxError(f'tables of shape {weights.shape} and count {count}')
    n = len(weights) if count is None else count
    check_count(self._data, self._again.count + n)  # before anything of size n
    if n <= _BLOCK:
      return self._block(weights, n) if n else np.zeros(0, np.int32)
    symbols = np.zeros(n, np.int32)
    for start in range(0, n, _BLOCK):
      stop = min(start + _BLOCK, n)
      rows = weights if count is not None else weights[start:stop]
      symbols[start:stop] = self._block(rows, stop - start)
    return symbols

  def decode_shares(self, shares: np.ndarray) -> np.ndarray:
    """Decodes under tables that need no check, as their maker vouches for them.

    Args:
      shares: float64 [n, K], freqs - 1, of tables that add up to
        ``2**tables.PRECISION``; 1 <= n, and n * K not too large to be copied.
    """
    check_count(self._data, self._again.count + len(shares))
    return self._block(shares, len(shares))

  def _block(self, weights: np.ndarray, n: int) -> np.ndarray:
    """Returns the next n symbols, n >= 1; stops a run past the end of the data."""
    symbols = np.zeros(n, np.int32)
    try:
      if weights.shape[-1] > 1 and weights.ndim == 1:
        symbols = self._coder.decode(_categorical(weights, perfect=False), n)
      elif weights.shape[-1] > 1:
        symbols = self._coder.decode(_categorical(perfect=False), weights)
    except Exception as e:  # an AssertionError in constriction 0.5
      raise BitstreamError('entropy-coded data do not fit their model') from e
    self._again._put(symbols, weights)
    check_count(self._data, self._again.count, self._again.words)
    return symbols

  @property
  def words(self) -> int:
    """Returns the number of whole words of the symbols handed out so far."""
    return self._again.words

  def expect(self, count: int) -> None:
    """Raises `BitstreamError` if the bytes are too few for `count` more symbols.

    `decode` checks this too; asking first saves building their tables.
    """
    check_count(self._data, self._again.count + count)

  def finish(self, least: int = 0) -> None:
    """Checks that the bytes were exactly those of the symbols handed out.

    Args:
      least: length in bytes to which the encoder filled up with zeros.

    Raises:
      BitstreamError: bytes are missing, left over or changed.
    """
    if self._again.finish().ljust(least, b'\0') != self._data:
      raise BitstreamError('entropy-coded data are damaged, cut short or too long')


def encode(
  symbols: np.ndarray, freqs: np.ndarray, precision: int = tables.PRECISION
) -> bytes:
  """Range-codes symbols.

  Args:
    symbols: int [N], each in [0, K).
    freqs: int [K] (one table for all) or [N, K]; entries >= 1, rows add up to
      ``2**precision``; K <= 65,536. With K = 1 a symbol takes no bits.
    precision: 1 to 24.

  Returns:
    The bytes, in practice of the ideal length (`tables.bits`) within 8 bytes. (At worst
    0.006 bits a symbol more: the coder's range, of 32 bits or more, is cut in units of
    its 2**24th part. And at least `least_bytes`.)

  Raises:
    CodaxError: arguments not as above.
  """
  encoder = Encoder(precision)
  encoder.put(symbols, freqs)
  return encoder.finish()


def decode(
  data: bytes, count: int, freqs: np.ndarray, precision: int = tables.PRECISION
) -> np.ndarray:
  """Inverts `encode`: int32 [count], each in [0, K).

  Raises:
    BitstreamError: `encode` writes `data` for no symbols, where that can be told; else
      damaged data give wrong symbols within the alphabet.
  """
  decoder = Decoder(data, precision)
  symbols = decoder.decode(freqs, count if np.ndim(freqs) == 1 else None)
  if len(symbols) != count:
    raise CodaxError(f'tables for {len(symbols)} symbols, not {count}')
  decoder.finish()
  return symbols
