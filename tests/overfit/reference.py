"""A second decoder, written from docs/format/overfit.md alone: slow, exact Python.

It shares only the container and the range coder with the package. Sums are Python
integers and fractions, so it also shows that the fast one never rounds.
"""

import math
from fractions import Fraction

import numpy as np

from codax import bitstream
from codax.entropy import range_coder

# (-1, 0) is the latent above.
WINDOW = (
  [(0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-1, -2), (-2, -1), (-2, 1)]
  + [(-2, -2), (-2, 2), (0, -3), (-3, 0), (-1, -3), (-3, -1), (-3, 1), (-2, -3)]
  + [(-2, 3), (-3, -2), (-3, 2), (-3, -3), (-3, 3), (-1, 2), (-1, 3)]
)
PARENT_OFFSETS = [
  (1, 0, 0),
  (2, 0, 0),
  (1, 1, 0),
  (1, 0, 1),
  (3, 0, 0),
  (1, -1, 0),
  (1, 0, -1),
] + [(1, 1, 1), (1, 1, -1), (1, -1, 1), (1, -1, -1), (2, 1, 0), (2, 0, 1), (4, 0, 0)]
SLOPES = {1: 0, 2: 1, 3: 1, 23: 3, 24: 4}  # 2 otherwise
PROFILE_1 = bytes([7, 14, 2, 1, 1, 24, 0, 2, 16, 16, 0])
HALF = Fraction(1, 2)


def exp2(i):
  """Family 1's T."""
  return 0 if i >= 7936 else round(2**30 * 2.0 ** (-i / 256))


def tail(t):
  h = t >> 8
  if h >= 7936:
    return 0
  fine = round(2**30 * 2.0 ** (-(t % 256) / 65536))
  return max(exp2(h) * fine >> 30, exp2(h + 1))


def laplace(level, mean, low, high):
  """Frequencies of low .. high; the mean in 32nds."""
  rate = round(2**16 / math.log(2) * 2 ** (5 - level / 8))
  mean, size = min(max(mean, 32 * low), 32 * high), high - low + 1
  edges = [0]
  for j in range(low + 1, high + 1):
    x = 64 * j - 32 - 2 * mean
    e = tail(abs(x) * rate >> 6) >> 1
    c = e if x < 0 else 2**30 - e
    edges.append((c * (2**24 - size) >> 30) + j - low)
  return np.diff([*edges, 2**24])


def uniform(n):
  return np.array([2**24 // n + (i < 2**24 % n) for i in range(n)])


class Net:
  """One network: its arrays, its steps, and how its layers run."""

  def __init__(self, name, shape, widths):
    self.name, self.widths = name, widths
    self.splines, self.linear, self.how = shape[name][1], shape['linear'], shape['how']
    self.arrays, self.last = {}, len(widths) - 2

  def base(self, i):
    return 0 if i == 0 and self.splines[4] == 1 else self.splines[4]

  def listed(self, convs, channels, filters=0):
    for i, (a, b) in enumerate(zip(self.widths, self.widths[1:])):
      if self.splines:
        yield f's{i}', (self.splines[0] + self.splines[1], a, b)
      if not self.splines or self.base(i) != 2:
        yield f'w{i}', (a, b)
      yield f'b{i}', (b,)
      if not self.splines and self.how == 2 and i < self.last:
        yield f'p{i}', (10,)
    if self.linear and self.last:
      yield 'linear', (self.widths[0], self.widths[-1])
    for i in range(convs):
      yield f'k{i}', (3, 3, channels, channels)
      yield f'c{i}', (channels,)
    for i in range(filters):
      yield f'u{i}', (4,)

  def sum(self, x, w, b=0):
    """floor((x.w + bias) / 2^f + h)."""
    total = sum(int(p) * int(q) for p, q in zip(x, w))
    total += Fraction(int(b) * 2 ** (12 + self.f), 2**self.e)
    return math.floor(total / 2**self.f + (HALF if self.f else 0))

  def activation(self, i, x):
    if self.how == 0:
      return min(max(x, 0), 2**24)
    if self.how == 1:
      if x >= 2**15:
        return min(x, 2**24)
      z = max(x, -(2**15)) / 2**12
      return round(2**12 * z * (1 + math.erf(z / math.sqrt(2))) / 2)
    u = 3 * (min(max(x, -3 * 2**12), 3 * 2**12) + 3 * 2**12)
    j = min(u >> 13, 8)
    p = [int(v) * 2 ** (15 - self.e) for v in self.arrays[f'p{i}'][j : j + 2]]
    return (2**13 * p[0] + (u - 2**13 * j) * (p[1] - p[0]) + 2**15) >> 16

  def spline(self, s, x):
    """sum of s_j B_j(x) and its tangents, in exact fractions."""
    g, k, low, high, _ = self.splines
    low, high = Fraction(low, 4), Fraction(high, 4)
    step = (high - low) / g

    def basis(j, k, x, i):  # of interval i, so that the ends are not in doubt
      if k == 0:
        return Fraction(int(j == i))
      u = (x - low) / step - j
      return (u * basis(j, k - 1, x, i) + (k + 1 - u) * basis(j + 1, k - 1, x, i)) / k

    def value(x, i):
      return sum(int(s[j]) * basis(j - k, k, x, i) for j in range(i, i + k + 1))

    def slope(end, i, side):  # of a polynomial of degree 3, by differences: exact
      y = [value(end + side * n * step / 3, i) for n in range(4)]
      d = -11 * y[0] + 18 * y[1] - 9 * y[2] + 2 * y[3]
      return side * d / 2 / step

    if x < low:
      return value(low, 0) + (x - low) * slope(low, 0, 1)
    if x > high:
      return value(high, g - 1) + (x - high) * slope(high, g - 1, -1)
    return value(x, min(int((x - low) / step), g - 1))

  def kan(self, i, xs, unit):
    a, out = self.arrays, []
    for o in range(self.widths[i + 1]):
      y = Fraction(int(a[f'b{i}'][o]), 2**self.e)
      for n, x in enumerate(xs):
        x = Fraction(int(x), unit)
        y += self.spline(a[f's{i}'][:, n, o], x) / 2**self.f
        if self.base(i) != 2:
          x = max(x, 0) if self.base(i) else x
          y += x * int(a[f'w{i}'][n, o]) / 2**self.f
      limit = 2**24 if i == self.last else 2**18
      out.append(min(max(math.floor(2**12 * y + HALF), -limit), limit))
    return out

  def run(self, inputs):
    a, x = self.arrays, inputs
    for i in range(self.last + 1):
      if self.splines:
        x = self.kan(i, x, 2**12)
        continue
      columns = zip(a[f'w{i}'].T, a[f'b{i}'])
      x = [self.sum(x, w, b) for w, b in columns]
      if i < self.last:
        x = [self.activation(i, v) for v in x]
    if 'linear' in a:
      x = [v + self.sum(inputs, w) for v, w in zip(x, a['linear'].T)]
    return x


def read_shape(data):
  """The u8 of the shape's table."""
  data = list(data)
  shape = dict(zip(('grids', 'context', 'convs'), data))
  shape['how'], shape['linear'] = divmod(data[3], 2)
  rest = data[4:]
  for name in ('synthesis', 'entropy'):
    count = rest.pop(0)
    widths, rest = rest[:count], rest[count:]
    splines = [rest.pop(0)]
    if splines[0]:
      k, low, high, base = rest[:4]
      ends = ((v + 128) % 256 - 128 for v in (low, high))
      splines, rest = [*splines, k, *ends, base], rest[4:]
    shape[name] = widths, splines if splines[0] else None
  shape['parents'], shape['learned'] = rest or (0, 0)
  return shape


def read_array(decoder, shape):
  level = int(decoder.decode(uniform(97), 1)[0])
  count = math.prod(shape)
  values = [int(v) - 31 for v in decoder.decode(laplace(level, 0, -31, 31), count)]
  ends = [i for i, v in enumerate(values) if abs(v) == 31]
  lengths = np.array([*(2 ** (23 - d) for d in range(19)), 2**5])
  digits = [int(d) for d in decoder.decode(lengths, len(ends))]
  for i, d in zip(ends, digits):
    text = (
      ''.join(str(b) for b in decoder.decode(np.array([2**23] * 2), d)) if d else ''
    )
    excess = int('1' + text, 2) - 1
    values[i] += excess if values[i] > 0 else -excess
  return np.array(values, object).reshape(shape)


def parent(coarser, y, x, up, dy, dx):
  at = (y >> up) + dy, (x >> up) + dx
  if up > len(coarser) or min(at) < 0:
    return 0
  grid = coarser[up - 1]
  return grid[at] if at[0] < grid.shape[0] and at[1] < grid.shape[1] else 0


def read_grid(decoder, net, context, parents, coarser, h, w, low, high):
  grid = np.zeros((h, w), object)
  slope = SLOPES.get(context, 2)
  order = sorted((x + slope * y, y, x) for y in range(h) for x in range(w))
  for _, y, x in order if high > low else ():
    near = [(y + dy, x + dx) for dy, dx in WINDOW[:context]]
    around = [grid[p] if p[0] >= 0 and 0 <= p[1] < w else 0 for p in near]
    around += [parent(coarser, y, x, *where) for where in PARENT_OFFSETS[:parents]]
    a, b = net.run([2**12 * v for v in around])
    level = min(max(math.floor(Fraction(b, 2**9) + HALF) + 32, 0), 96)
    table = laplace(level, math.floor(Fraction(a, 2**7) + HALF), low, high)
    grid[y, x] = int(decoder.decode(table[None])[0]) + low
  return grid


def doubled(column, size):
  out, ends = [], [column[0], *column, column[-1]]
  for before, x, after in zip(ends, ends[1:], ends[2:]):
    out += [3 * x + before, 3 * x + after]
  return out[:size]


def filtered(column, size, net, i):
  big = max(net.e, 2)
  t = [2**big // 4 * n for n in (3, 1, 0, 0)]
  t = [a + int(u) * 2 ** (big - net.e) for a, u in zip(t, net.arrays[f'u{i}'])]
  at = lambda n: column[min(max(n, 0), len(column) - 1)]
  out = []
  for n in range(size):
    c, side = n // 2, 1 if n % 2 else -1
    near = [at(c), at(c + side), at(c - side), at(c + 2 * side)]
    out.append((sum(a * x for a, x in zip(t, near)) + 2**big // 2) >> big)
  return out


def upsampled(net, grids, g):
  x = grids[g] * 2**10
  for i in reversed(range(g)):
    h, w = grids[i].shape
    if 'u0' in net.arrays:
      x = np.array([filtered(list(c), h, net, i) for c in x.T], object).T
      x = np.array([filtered(list(r), w, net, i) for r in x], object)
      continue
    x = np.array([doubled(list(c), h) for c in x.T], object).T
    x = np.array([doubled(list(r), w) for r in x], object)
    x = (x + 8) >> 4
  return x


def decode(data):
  """A file's (latents, pixels): object arrays [h, w] each, uint8 [H, W, C]."""
  header, sections = bitstream.read(data, known=None)
  payload = bitstream.find(sections, bitstream.CODES)
  shape = read_shape(bitstream.find(sections, 0x40) or PROFILE_1)
  height, width, channels = header.height, header.width, header.channels
  sides = [(height, width)]
  while len(sides) < shape['grids'] and sides[-1] != (1, 1):
    sides.append(tuple((n + 1) // 2 for n in sides[-1]))
  decoder = range_coder.Decoder(payload)
  inputs = shape['context'] + shape['parents']
  ends = {'synthesis': (len(sides), channels), 'entropy': (inputs, 2)}
  nets = {}
  for name, (first, last) in ends.items():
    net = nets[name] = Net(name, shape, [first, *shape[name][0], last])
    net.f, net.e = (int(v) for v in decoder.decode(uniform(16), 2))
    convs = shape['convs'] if name == 'synthesis' else 0
    filters = (len(sides) - 1) * shape['learned'] if name == 'synthesis' else 0
    for key, size in net.listed(convs, channels, filters):
      net.arrays[key] = read_array(decoder, size)
  table = np.array([3 * 2**20 // (i + 2) for i in range(256)])
  table[0] += 2**24 - table.sum()
  ranges = decoder.decode(table, 2 * len(sides)).reshape(-1, 2).tolist()
  grids = []
  for (h, w), (low, high) in zip(sides[::-1], ranges[::-1]):
    known = shape['context'], shape['parents'], grids
    grids.insert(0, read_grid(decoder, nets['entropy'], *known, h, w, -low, high))
  return grids, synthesis(nets['synthesis'], grids, shape['convs'])


def synthesis(net, grids, convs):
  stack = np.stack([upsampled(net, grids, g) for g in range(len(grids))], -1)
  y = np.array([[net.run(list(x)) for x in row] for row in stack], object)
  for i in range(convs):
    k, c = net.arrays[f'k{i}'], net.arrays[f'c{i}']
    padded, added = np.pad(y, ((1, 1), (1, 1), (0, 0)), 'edge'), y.copy()
    for at in np.ndindex(*y.shape[:2]):
      patch = padded[at[0] : at[0] + 3, at[1] : at[1] + 3].ravel()
      for o in range(y.shape[2]):
        added[(*at, o)] += net.sum(patch, k[..., o].ravel(), c[o])
    y = added
  pixel = np.vectorize(lambda v: math.floor(Fraction(255 * v, 2**12) + HALF), [object])
  return np.clip(pixel(y), 0, 255).astype(np.uint8)
