"""A second decoder, written from FORMAT.md (family 3) alone: slow, exact, plain Python.

Its author had not read the package's, and it shares nothing with the package, not even
the container or the range coder. Numbers are Python's integers, and roots, powers and
angles are Decimals of 40 digits, so that it also shows that the fast one never rounds
and that its tables are right.
"""

import decimal
import functools
import math
import zlib
from collections import Counter
from types import SimpleNamespace

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


def read_cells(coder, count, height, width):
  """(column, row) of each centre, in the order of the halvings."""
  rows, cols = (1 << (side - 1).bit_length() for side in (height, width))
  halvings, parts = [], [rows, cols]
  while parts != [1, 1]:
    axis = 1 if parts[1] >= parts[0] else 0
    parts[axis] //= 2
    halvings.insert(0, axis)
  # (first row, first column), rows and columns, centres
  level = [((0, 0), (rows, cols), count)]
  for axis in halvings:
    asked = []
    for i, (corner, sides, n) in enumerate(level):
      half, room = sides[axis] // 2, (height, width)[axis] - corner[axis]
      p, q = min(half, room), min(2 * half, room)
      a = 16 if p == q else min(max(ratio(16 * p, q), 1), 15)
      asked.append((n, a, i))
    firsts = {i: n if a == 16 else coder.symbol(halves(n, a))
              for n, a, i in sorted(asked)}  # fmt: skip
    below = []
    for i, (corner, sides, n) in enumerate(level):
      smaller = tuple(s // 2 if d == axis else s for d, s in enumerate(sides))
      second = tuple(
        c + s // 2 if d == axis else c for d, (c, s) in enumerate(zip(corner, sides))
      )
      below += [(corner, smaller, firsts[i]), (second, smaller, n - firsts[i])]
    level = [part for part in below if part[2]]
  return [(x, y) for (y, x), _, n in level for _ in range(n)]


def read_excess(coder, differences):
  """The differences with what those at an end have beyond it."""
  for i, v in enumerate(differences):
    if abs(v) == ALPHABET:
      more = coder.number(0, 4095)
      differences[i] += more if v > 0 else -more
  return differences


def limited(code):
  check(abs(code) <= MOST, 'code')
  return code


def passes(count):
  """(s, indices) of each pass."""
  s = 1
  while 2 * s <= max(1, count // 32):
    s *= 2
  yield 0, range(0, count, s)
  while s > 1:
    s //= 2
    yield s, range(s, count, 2 * s)


def predicted(i, s, cells, codes, middle, trust):
  """(mean in 32nds, class) of a code by those of the passes before."""
  beside = (i + step * s for step in range(-15, 16, 2))
  near = sorted(
    (sum((a - b) ** 2 for a, b in zip(cells[i], cells[j])), j)
    for j in beside
    if 0 <= j < len(cells)
  )[:4]
  weights = [max(1, 2**20 // (d + 4)) for d, _ in near]
  known = [32 * codes[j] for _, j in near]
  total = sum(weights)
  m = ratio(sum(w * c for w, c in zip(weights, known)), total)
  spread = sum(w * abs(c - m) for w, c in zip(weights, known)) // total
  mean = 32 * middle + ((m - 32 * middle) * trust + 4) // 8
  return mean, 1 + sum(spread >= limit for limit in SPREADS)


def read_scalar(coder, cells, channels):
  """Codes of all channels, [channel][Gaussian]."""
  models = [
    (coder.number(-MOST, MOST), coder.number(0, 8),
     [coder.number(0, 96) for _ in range(7)])
    for _ in range(channels)
  ]  # fmt: skip
  codes = [[None] * len(cells) for _ in models]
  for s, part in passes(len(cells)):
    for (middle, trust, levels), known in zip(models, codes):
      means, differences = [], []
      for i in part:
        mean, kind = 32 * middle, 0
        if s:
          mean, kind = predicted(i, s, cells, known, middle, trust)
        whole = (mean + 16) // 32
        table = laplace(levels[kind], mean - 32 * whole)
        means.append(whole)
        differences.append(coder.symbol(table) - ALPHABET)
      read_excess(coder, differences)
      for i, whole, difference in zip(part, means, differences):
        known[i] = limited(whole + difference)
  return codes


def read_books(coder, size):
  """Codebooks of a group, a list of entries each."""
  books = []
  for _ in range(coder.number(1, 4)):
    count, least, sides = coder.number(1, 1024), [0, 0], [1, 1]
    for axis in range(min(size, 2)):
      least[axis] = coder.number(-MOST, MOST)
      sides[axis] = coder.number(1, 2048 - least[axis])
    cells = read_cells(coder, count, sides[1], sides[0])
    book = [(x + least[0], y + least[1])[:size] for x, y in cells]
    if size > 2:
      middle, level = coder.number(-MOST, MOST), coder.number(0, 96)
      table = laplace(level, 0)
      thirds = read_excess(coder, [coder.symbol(table) - ALPHABET for _ in book])
      book = [(*e, limited(middle + third)) for e, third in zip(book, thirds)]
    books.append(book)
  return books


def read_vectors(coder, count, channels):
  """(codes [channel][Gaussian], books, indices [group][stage][Gaussian])."""
  groups = [read_books(coder, size) for size in (3, channels)]
  indices = [[[None] * count for _ in books] for books in groups]
  seen = [[Counter() for _ in books] for books in groups]
  for _, part in passes(count):
    for books, known, counts in zip(groups, indices, seen):
      for book, index, counter in zip(books, known, counts):
        w = [counter[k] + 1 for k in range(len(book))]
        total = sum(w)
        table = [1 + (FREQS - len(w)) * v // total for v in w]
        table[w.index(max(w))] += FREQS - sum(table)
        for i in part:
          index[i] = coder.symbol(table)
        counter.update(index[i] for i in part)
  codes = []
  for books, known in zip(groups, indices):
    for axis in range(len(books[0][0])):
      sums = [
        sum(book[index[i]][axis] for book, index in zip(books, known))
        for i in range(count)
      ]
      codes.append([min(max(v, -MOST), MOST) for v in sums])
  return codes, groups, indices


# Gaussians


@functools.cache
def root(l):
  l = min(max(l, -128), 896)
  return rounded((1 / D(2).ln() / 2).sqrt() * D(2) ** (-D(l) / 64) * 2**20)


@functools.cache
def turn(k):
  """cos and sin of pi k / 4096 with 30 bits: the powers of one small turn."""
  x = PI * k / 4096
  cos, sin, term, n = D(0), D(0), D(1), 0
  while n < 50:
    if n % 2:
      sin += term if n % 4 == 1 else -term
    else:
      cos += term if n % 4 == 0 else -term
    n += 1
    term = term * x / n
  return rounded(cos * 2**30), rounded(sin * 2**30)


def _pi():
  def arctan(x):
    total, power, n = D(0), 1 / D(x), 1
    while power > D(10) ** -40:
      total += (power if n % 4 == 1 else -power) / n
      power, n = power / x**2, n + 2
    return total

  return 4 * (4 * arctan(5) - arctan(239))


PI = _pi()


def whitening(kind, steps, codes):
  k1, k2, k3 = codes
  if kind == 0:
    a, b = root(k1 * steps.log), root(k2 * steps.log)
    r = min(max(k3 * steps.third, -4096), 4096)
    return (a, 0), (-a * r // 64, b)
  u, v = root((k1 + k2) * steps.log), root((k1 - k2) * steps.log)
  c, s = turn(k3 * steps.third % 4096)
  return (c * u >> 30, s * u >> 30), (-s * v >> 30, c * v >> 30)


def fine_bits(white, fine, axis):
  total = sum((row[axis] >> 5) ** 2 for row in white)
  return sum(total > 2 ** (34 - fine + 2 * n) for n in range(5))


@functools.cache
def weight(i):
  if i >= 8192:
    return 0
  return rounded(2**15 * (D(2) ** (-D(i) / 1024) - D(2) ** -8))


def colours(steps, codes):
  """In 64ths of a level, one a channel."""
  luma, parts = codes[0] * steps.luma * 16, [0]
  if len(codes) == 3:
    b, r = (code * steps.chroma * 16 for code in codes[1:])
    parts = [91881 * r, -(22554 * b + 46802 * r), 116130 * b]
  return [min(max(luma + ratio(p, 2**16), -(2**22)), 2**22) for p in parts]


def render(size, how, base, gaussians):
  """Rows of pixels, a list of levels each."""
  height, width, channels = size
  out = []
  for y in range(height):
    out.append([])
    for x in range(width):
      sums, total = [0] * channels, 0
      for (cx, cy), white, colour in gaussians:
        dx, dy = 64 * x + 32 - cx, 64 * y + 32 - cy
        t = [(w0 * dx >> 16) + (w1 * dy >> 16) for w0, w1 in white]
        w = weight((t[0] ** 2 + t[1] ** 2) >> 10)
        total += w
        sums = [n + w * v for n, v in zip(sums, colour)]
      pixel = []
      for n, level in zip(sums, base):
        if how == 1:
          v = (n + 32 * 64 * level + 32 * (total + 32)) // (64 * (total + 32))
        else:
          v = (n + 64 * level * 2**15 + 32 * 2**15) // 2**21
        pixel.append(min(max(v, 0), 255))
      out[-1].append(pixel)
  return out


def touched(size, centre, white):
  """How many tiles of the picture a Gaussian touches."""
  (a, b), (c, d) = white
  det, tiles = a * d - b * c, 1
  for side, at, near in ((size[1], centre[0], (b, d)), (size[0], centre[1], (a, c))):
    root = math.isqrt(near[0] ** 2 + near[1] ** 2)
    reach = min(2**18, 3 + 23 * 2**17 * (1 + root) // abs(det))
    first, last = ((at // 64 + s) // 16 for s in (-reach, reach))
    tiles *= max(0, min(last, (side - 1) // 16) - max(first, 0) + 1)
  return tiles


def decode(data):
  """A file's numbers and, as ``pixels``, its picture: [row][column][channel]."""
  layers = unpack(data)
  f, gaussians = layers[0], []
  for layer in layers:
    made = [colours(layer.steps, k) for k in layer.colour]
    gaussians += zip(layer.centres, layer.white, made)
  f.pixels = render(f.size, f.how, f.base, gaussians)
  f.layers = layers
  return f


def unpack(data):
  """A file's numbers, layer by layer."""
  size, payloads = container(data)
  layers = [unpack_layer(size, p, not n) for n, p in enumerate(payloads)]
  shared = [(f.kind, f.how, f.base, vars(f.steps)) for f in layers]
  check(all(s == shared[0] for s in shared), 'layers of two pictures')
  check(len(layers) == 1 or not any(f.coding for f in layers), 'codebooks in layers')
  check(sum(f.count for f in layers) < 2**16, 'Gaussians in all')
  return layers


def unpack_layer(size, payload, first):
  """The numbers of one payload."""
  height, width, channels = size
  coder, f = Coder(payload), SimpleNamespace(size=size)
  free = 65536 if first else 0
  tiles = -(-height // 16) * -(-width // 16) if first else 0
  check(tiles <= 8192 + 16 * len(payload), 'tiles')
  f.count = coder.number(1, 2**16 - 1)
  check(f.count <= 8 * len(payload), 'Gaussians')
  f.kind, f.how, f.coding = (coder.number(0, 1) for _ in range(3))
  f.base = [coder.number(0, 255) for _ in range(channels)]
  f.steps = SimpleNamespace(
    log=coder.number(1, 64),
    third=coder.number(1, 1024),
    luma=coder.number(1, 1024),
    chroma=coder.number(1, 1024),
    fine=coder.number(0, 15),
  )
  f.cells = read_cells(coder, f.count, height, width)
  f.books, f.indices = (), ()
  if f.coding:
    codes, f.books, f.indices = read_vectors(coder, f.count, channels)
  else:
    codes = read_scalar(coder, f.cells, 3 + channels)
  f.shape, f.colour = list(zip(*codes[:3])), list(zip(*codes[3:]))
  f.white = [whitening(f.kind, f.steps, k) for k in f.shape]
  bits = [[fine_bits(w, f.steps.fine, axis) for axis in (0, 1)] for w in f.white]
  f.fine = [[0, 0] for _ in bits]
  for b in range(1, 6):
    for fine, digits in zip(f.fine, bits):
      for axis in (0, 1):
        if digits[axis] == b:
          fine[axis] = coder.number(0, 2**b - 1)
  f.centres = [
    [64 * p + ((2 * v + 1) * 32 >> b) for p, v, b in zip(*three)]
    for three in zip(f.cells, f.fine, bits)
  ]
  work = sum(touched(size, c, w) for c, w in zip(f.centres, f.white))
  check(work <= free + 64 * len(payload), 'work')
  least = max(-(-f.count // 8), -(-(work - free) // 64), -(-(tiles - 8192) // 16))
  check(payload == coder.payload_for(least), 'not the one payload')
  return f
