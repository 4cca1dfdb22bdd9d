"""A second decoder, written from docs/format/splat.md alone: slow, exact Python.

Its author had not read the package's (layers came later), and it shares nothing with
it, not even the container or the range coder. Numbers are Python's integers, and roots,
powers and angles are Decimals of 40 digits, so that it also shows that the fast one
never rounds and that its tables are right.
"""

import functools
import math
from collections import Counter
from types import SimpleNamespace

from splat_reference_coder import (
  ALPHABET,
  FREQS,
  MOST,
  SPREADS,
  Coder,
  D,
  Refused,
  check,
  container,
  halves,
  laplace,
  ratio,
  rounded,
)

__all__ = ['Refused', 'decode', 'halves', 'laplace', 'root', 'turn', 'unpack', 'weight']


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
