"""The container, the range coder and the tables of the decoder in `splat_reference`."""

import decimal
import functools
import math
import zlib

decimal.getcontext().prec = 40
D = decimal.Decimal
HALF = D(1) / 2
FREQS = 2**24
MOST = 2047  # of a code
ALPHABET = 63  # of a difference
SPREADS = (8, 20, 40, 80, 160)


class Refused(ValueError):
  """The file breaks a rule."""


def check(rule, text):
  if not rule:
    raise Refused(text)


def rounded(x):
  """floor(x + 1/2) of a Decimal."""
  return math.floor(x + HALF)


def ratio(a, b):
  """floor(a / b + 1/2) of integers."""
  return (2 * a + b) // (2 * b)


# Container


def varint(data, at):
  value, first = 0, at
  while True:
    check(at < len(data) and at - first < 9, 'varint')
    check(at > first or data[at] != 0x80, 'long varint')
    value = value << 7 | data[at] & 0x7F
    at += 1
    if data[at - 1] < 0x80:
      return value, at


def container(data):
  """(height, width, channels), payloads of the layers of a file of family 3."""
  check(data[:4] == b'\xc3DX\n' and len(data) >= 9 and data[4] == 1, 'magic')
  check(zlib.crc32(data[:-4]) == int.from_bytes(data[-4:], 'big'), 'checksum')
  body, at = data[:-4], 7
  check(body[5] == 3 and body[6] in (0, 1), 'family')
  height, at = varint(body, at)
  width, at = varint(body, at)
  check(0 < height < 2**16 and 0 < width < 2**16, 'size')
  check(height * width <= 2**28, 'size')
  channels, flags = body[at : at + 2]
  check(channels in (1, 3) and flags == 0, 'flags')
  at, last, payloads = at + 2, 0, {}
  while at < len(body):
    kind = body[at]
    length, at = varint(body, at + 1)
    check(kind > last and kind & 0x7F and at + length <= len(body), 'section')
    check(kind in (1, 0x40, 0x41, 0x42) or kind & 0x80, 'critical section')
    if not kind & 0x80:
      payloads[kind] = body[at : at + length]
    at, last = at + length, kind
  check(list(payloads) == [1, 0x40, 0x41, 0x42][: len(payloads)], 'a layer is missing')
  check(payloads, 'no codes')
  check((len(payloads) > 1) == body[6], 'profile')
  return (height, width, channels), list(payloads.values())


# Range coder and tables


class Coder:
  """Decodes symbols, and keeps the interval that an encoder of them ends with."""

  def __init__(self, payload):
    self.payload = payload
    self.low, self.size, self.words, self.symbols = 0, 2**64 - 1, 0, 0
    self.offset = self._bytes(0, 8)  # of the payload from the interval's low end

  def _bytes(self, start, count):
    data = self.payload[start : start + count]
    return int.from_bytes(data.ljust(count, b'\0'), 'big')

  def symbol(self, freqs):
    self.symbols += 1
    if len(freqs) == 1:
      return 0
    unit = self.size >> 24
    at = self.offset // unit
    check(at < FREQS, 'outside of the interval')
    left, k = 0, 0
    while left + freqs[k] <= at:
      left, k = left + freqs[k], k + 1
    self.low += unit * left
    self.offset -= unit * left
    self.size = unit * freqs[k]
    if self.size < 2**32:
      self.offset = self.offset << 32 | self._bytes(8 + 4 * self.words, 4)
      self.low, self.size, self.words = self.low << 32, self.size << 32, self.words + 1
    return k

  def number(self, first, last):
    return first + self.symbol(uniform(last - first + 1))

  def payload_for(self, least):
    """The one payload that these symbols have, of at least so many bytes."""
    # One number at most with 64 zero bits at its end is in the interval, so that a
    # shorter string is this one without its zeros.
    size, unit = 4 * self.words, 2**64
    while (head := -(-self.low // unit)) * unit >= self.low + self.size:
      size, unit = size + 1, unit >> 8
    data = head.to_bytes(size, 'big').rstrip(b'\0')
    least = max(least, 4 * self.words - 8, -(-self.symbols // 1024) - 8)
    return data.ljust(least, b'\0')


@functools.cache
def uniform(size):
  return [FREQS // size + (i < FREQS % size) for i in range(size)]


@functools.cache
def exp2(i, over):
  """round(2^30 2^(-i / over))."""
  return rounded(2**30 * D(2) ** (-D(i) / over))


def coarse(i):
  return 0 if i >= 31 * 256 else exp2(i, 256)


def tail(t):
  h = t >> 8
  if h >= 31 * 256:
    return 0
  return max(coarse(h) * exp2(t % 256, 65536) >> 30, coarse(h + 1))


@functools.cache
def laplace(level, mean, low=-ALPHABET, high=ALPHABET):
  """Family 2's table; the mean in 32nds."""
  rate = rounded(2**16 / D(2).ln() * D(2) ** (5 - D(level) / 8))
  mean, size = min(max(mean, 32 * low), 32 * high), high - low + 1
  edges = [0]
  for j in range(low + 1, high + 1):
    x = 64 * j - 32 - 2 * mean
    e = tail(abs(x) * rate >> 6) >> 1
    edges.append(((e if x < 0 else 2**30 - e) * (FREQS - size) >> 30) + j - low)
  edges.append(FREQS)
  return [b - a for a, b in zip(edges, edges[1:])]


@functools.cache
def halves(n, a):
  """How many of n are in the first half."""
  if n > 255:
    return uniform(n + 1)
  b, start, w = 16 - a, n * a // 16, [0] * (n + 1)
  w[start] = 2**60
  for k in range(start, n):
    w[k + 1] = w[k] * (n - k) * (k + a) // ((k + 1) * (n - k - 1 + b))
  for k in range(start, 0, -1):
    w[k - 1] = w[k] * k * (n - k + b) // ((n - k + 1) * (k - 1 + a))
  total = sum(w)
  table = [1 + (FREQS - n - 1) * v // total for v in w]
  table[start] += FREQS - sum(table)
  return table


# Payload
