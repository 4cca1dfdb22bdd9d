"""A second decoder of family 4, written from docs/format/ alone.

Whole numbers of Python and float64 NumPy; slow, and with nothing of the package in it.
Integers have to be those of the package, pixels within 1 of 255.
"""

import json
import zlib
from typing import NamedTuple

import numpy as np
from safetensors import safe_open

SCALES = 89


class Refused(ValueError):
  """The file breaks a rule."""


def check(rule, text):
  if not rule:
    raise Refused(text)


class Decoded(NamedTuple):
  """What a file holds.

  Attributes:
    position: rate position.
    latents: int [h', w', D], rounded hyper-latents, or None.
    index: int [h, w, C], tables of the coefficients.
    integers: int [h, w, C], rounded differences.
    coefficients: float64 [h, w, C].
    pixels: uint8 [H, W, channels].
  """

  position: int
  latents: np.ndarray | None
  index: np.ndarray
  integers: np.ndarray
  coefficients: np.ndarray
  pixels: np.ndarray


# --- Container and bundle -------------------------------------------------------------


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
  """Returns (height, width, channels), the profile, the bundle id and the payload."""
  check(data[:4] == b'\xc3DX\n' and len(data) >= 9 and data[4] == 1, 'magic')
  check(zlib.crc32(data[:-4]) == int.from_bytes(data[-4:], 'big'), 'checksum')
  body, at = data[:-4], 7
  check(body[5] == 4 and body[6] in (0, 1, 2), 'family')
  height, at = varint(body, at)
  width, at = varint(body, at)
  check(0 < height < 2**16 and 0 < width < 2**16, 'size')
  check(height * width <= 2**28 and at + 10 <= len(body), 'size')
  channels, flags = body[at : at + 2]
  check(channels in (1, 3) and flags == 1, 'channels and flags')
  bundle_id, at = body[at + 2 : at + 10], at + 10
  sections, last = {}, 0
  while at < len(body):
    kind = body[at]
    length, at = varint(body, at + 1)
    check(kind > last and kind & 0x7F and at + length <= len(body), 'section')
    check(kind == 1 or kind & 0x80, 'unknown section')
    sections[kind], at, last = body[at : at + length], at + length, kind
    check(len(sections) <= 64, 'sections')
  check(1 in sections, 'no codes')
  return (height, width, channels), body[6], bundle_id, sections[1]


class Bundle(NamedTuple):
  """Arrays by name, the configuration, and the id in hexadecimal."""

  arrays: dict
  config: dict
  id: str


def load(path):
  with safe_open(path, 'np') as f:
    arrays = {name: f.get_tensor(name) for name in f.keys()}
    metadata = f.metadata()
  return Bundle(arrays, json.loads(metadata['json'])['config'], metadata['id'])


# --- Range coder ----------------------------------------------------------------------


class Coder:
  """Takes symbols from a payload, and puts them again beside it."""

  def __init__(self, payload):
    self.payload = payload
    self.low, self.range = 0, 2**64 - 1  # of the whole interval, in 2**-(64 + 32 p)
    self.words = self.count = 0

  def symbol(self, table):
    """Takes a symbol under a table of frequencies that add up to 2**24."""
    self.count += 1
    check(len(self.payload) >= -(-self.count // 1024) - 8, 'too many symbols')
    if len(table) == 1:
      return 0
    unit, bits = self.range >> 24, 64 + 32 * self.words
    point = int.from_bytes(self.payload.ljust(bits // 8, b'\0')[: bits // 8], 'big')
    at, below, symbol = (point - self.low) // unit, 0, 0
    check(0 <= at < 2**24, 'no symbol')
    while at >= below + table[symbol]:
      below += table[symbol]
      symbol += 1
    q = table[symbol]
    self.low, self.range = self.low + unit * below, unit * q
    if self.range < 2**32:
      self.low, self.range = self.low << 32, self.range << 32
      self.words += 1
      check(len(self.payload) >= 4 * self.words - 8, 'too few bytes')
    return symbol

  def finish(self):
    """Checks that the payload is the one string of these symbols."""
    bits, length = 64 + 32 * self.words, 0
    while True:
      unit = 1 << max(bits - 8 * length, 0)
      point = -(-self.low // unit) * unit
      if point < self.low + self.range:
        break
      length += 1
    shortest = (point // unit).to_bytes(length + 8, 'big')[8:] if length else b''
    least = max(4 * self.words, -(-self.count // 1024)) - 8
    check(shortest.ljust(least, b'\0') == self.payload, 'another string')


# --- Tables ---------------------------------------------------------------------------


def row(table, position):
  """Returns the row of a table of rate levels at a position, Python integers."""
  level, step = divmod(position, 16)
  above = table[min(level + 1, len(table) - 1)]
  pairs = zip(table[level].tolist(), above.tolist())
  return [(a * (16 - step) + b * step) >> 4 for a, b in pairs]


def scale_index(log2_scale):
  return min(max((log2_scale + 5 * 256 + 16) // 32, 0), SCALES - 1)


def laws(arrays):
  """Returns the table of each scale, lists of integers."""
  reach, freqs = arrays['tables/laws/reach'], arrays['tables/laws/freqs'].tolist()
  out, at = [], 0
  for r in reach.tolist():
    out.append(freqs[at : at + 2 * r + 1])
    at += 2 * r + 1
  return out


def integers(coder, tables, index):
  """Takes integers, one for each index, in the order of the page."""
  found = [0] * len(index)
  ends = []
  for scale in sorted(set(index)):
    table = tables[scale]
    reach = len(table) // 2
    for at in [i for i, one in enumerate(index) if one == scale]:
      found[at] = coder.symbol(table) - reach
      if reach and abs(found[at]) == reach:
        ends.append(at)
  even = lambda n: [2**24 // n] * n
  lengths = [coder.symbol(even(16)) for _ in ends]
  for at, length in zip(ends, lengths):
    excess = 1
    for _ in range(length):
      excess = 2 * excess + coder.symbol(even(2))
    found[at] += (excess - 1) * (1 if found[at] > 0 else -1)
    check(abs(found[at]) < 2**15, 'large integer')
  return found


def network(arrays, x, prefix='tables/hyper/network/'):
  """Runs a network on one list of integers."""
  shifts = arrays[prefix + 'shifts'].tolist()
  limit = int(arrays[prefix + 'bounds'][1])
  for i, shift in enumerate(shifts):
    kernel = arrays[f'{prefix}kernel_{i}'].tolist()
    sums = arrays[f'{prefix}bias_{i}'].tolist()
    for value, weights in zip(x, kernel):
      if value:
        sums = [s + value * w for s, w in zip(sums, weights)]
    x = [(s + 2 ** (shift - 1)) >> shift for s in sums]
    if i + 1 < len(shifts):
      x = [min(max(v, 0), limit) for v in x]
  return x


def size(value):
  """Returns the size of an integer in 256ths, as context networks see it."""
  grown = 1 + abs(value)
  power = grown.bit_length() - 1
  return 256 * power + (256 * grown >> power) - 256


def staged(coder, tables, arrays, log2_scale, low):
  """Takes the integers of profile 2; returns them and their tables."""
  h, w, dim = log2_scale.shape
  found, index = np.zeros((h, w, dim), int), np.zeros((h, w, dim), int)
  known = np.zeros((h, w, dim), int)
  stages = [(0, 0, low), (0, low, dim), (1, 0, low), (1, low, dim)]
  for number, (parity, start, stop) in enumerate(stages):
    blocks = [(y, x) for y in range(h) for x in range(w) if (y + x) % 2 == parity]
    own = [log2_scale[at][start:stop].tolist() for at in blocks]
    if number:
      prefix = f'tables/context/{number - 1}/'
      seen = np.zeros((h + 2, w + 2, 0), int)
      for y in range(h):
        for x in range(w):
          out = network(arrays, known[y, x].tolist(), prefix + 'entry/')
          if not seen.size:
            seen = np.zeros((h + 2, w + 2, len(out)), int)
          seen[y + 1, x + 1] = [min(max(v, 0), 2048) for v in out]
      for (y, x), base in zip(blocks, own):
        near = seen[y : y + 3, x : x + 3].ravel().tolist()
        near += np.clip(log2_scale[y, x], -1280, 1536).tolist()
        for i, v in enumerate(network(arrays, near, prefix + 'rest/')):
          base[i] += v
    picked = [[scale_index(v) for v in base] for base in own]
    values = integers(coder, tables, [i for one in picked for i in one])
    for k, (y, x) in enumerate(blocks):
      cut = slice(k * (stop - start), (k + 1) * (stop - start))
      found[y, x, start:stop], index[y, x, start:stop] = values[cut], picked[k]
      known[y, x, start:stop] = [size(v) for v in values[cut]]
  return found, index


def scales_of(arrays, latents, position, shape):
  """Returns hyper-latents [h'][w'][D], and log2 of each scale in 256ths."""
  h, w = shape
  base = row(arrays['tables/scale'], position)
  log2_scale = np.zeros((h, w, len(base)), int)
  if latents is None:
    log2_scale[:] = base
    return None, log2_scale
  mean = row(arrays['tables/hyper/mean'], position)
  inverse = row(arrays['tables/hyper/inverse'], position)
  rows, columns, dim = latents.shape
  value = lambda n, d: ((int(n) * 256 + mean[d]) * inverse[d] + 2**11) >> 12
  z = [
    [
      [min(max(value(n, d), -(2**15)), 2**15) for d, n in enumerate(one)]
      for one in line
    ]
    for line in latents
  ]
  nothing = [0] * dim
  for y in range(rows):
    for x in range(columns):
      near = []
      for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
          inside = 0 <= y + dy < rows and 0 <= x + dx < columns
          near += z[y + dy][x + dx] if inside else nothing
      found = network(arrays, near)
      for k in range(4):
        i, j = 2 * y + k // 2, 2 * x + k % 2
        if i < h and j < w:
          own = found[k * len(base) : (k + 1) * len(base)]
          log2_scale[i, j] = [a + b for a, b in zip(own, base)]
  return np.array(z, np.float64) / 256, log2_scale


# --- Coefficients and pixels ----------------------------------------------------------


def dense(arrays, name, x):
  return x @ arrays[f'{name}/kernel'].astype(np.float64) + arrays[f'{name}/bias']


def conv3(arrays, name, x):
  """3 x 3 convolution of [h, w, in], zeros outside."""
  kernel = arrays[f'{name}/kernel'].astype(np.float64)
  h, w, _ = x.shape
  wide = np.pad(x, ((1, 1), (1, 1), (0, 0)))
  out = sum(
    wide[i : i + h, j : j + w] @ kernel[i, j] for i in range(3) for j in range(3)
  )
  return out + arrays[f'{name}/bias']


def spread(x, factor):
  """Turns [h, w, f * f * C] into [f h, f w, C], raster order inside a block."""
  h, w, c = x.shape
  x = x.reshape(h, w, factor, factor, c // factor**2).transpose(0, 2, 1, 3, 4)
  return x.reshape(h * factor, w * factor, c // factor**2)


def gather(x, factor):
  """Inverts `spread`."""
  h, w, c = x.shape
  x = x.reshape(h // factor, factor, w // factor, factor, c).transpose(0, 2, 1, 3, 4)
  return x.reshape(h // factor, w // factor, factor * factor * c)


def relu(x):
  return np.maximum(x, 0)


def mixing(levels, position):
  """Returns the weights of the rate levels at a position."""
  level, step = divmod(position, 16)
  weights = np.zeros(levels)
  weights[level] += 1 - step / 16
  weights[min(level + 1, levels - 1)] += step / 16
  return weights


def coefficients(arrays, z, found, mix, has_context):
  """Turns rounded differences into coefficients, in one pass or two."""
  gain = np.exp(mix @ arrays['prior/gain'].astype(np.float64))
  h, w, _ = found.shape
  if z is None:
    return found / gain + arrays['prior/mean']
  unit = np.maximum(arrays['transform/deviation'].astype(np.float64), 8)
  x = conv3(arrays, 'prior/means/conv', z) + mix @ arrays['prior/means/level']
  x = relu(x)
  features = relu(spread(dense(arrays, 'prior/means/spread', x), 2))[:h, :w]
  mean = dense(arrays, 'prior/means/last', features) * np.minimum(unit, 128)
  y = found / gain + mean
  if not has_context:
    return y
  first = (np.add.outer(np.arange(h), np.arange(w)) % 2 == 0)[..., None]
  y = np.where(first, y, 0)
  x = y / unit @ arrays['prior/context/first/kernel'].astype(np.float64)
  x = conv3(arrays, 'prior/context/conv', x)
  x = relu(x + dense(arrays, 'prior/context/hyper', features))
  mean = dense(arrays, 'prior/context/last', x) * np.minimum(unit, 128)
  return np.where(first, y, found / gain + mean)


def lap(x, matrix, patch):
  """Filters axis 0 of pixels over block boundaries, one boundary after the other."""
  x, half = x.copy(), patch // 2
  for boundary in range(patch, len(x), patch):
    before = x[boundary - half : boundary].copy()
    after = x[boundary : boundary + half][::-1].copy()
    mean, difference = (before + after) / 2, (before - after) / 2
    difference = np.einsum('ij,jwc->iwc', matrix, difference)
    x[boundary - half : boundary] = mean + difference
    x[boundary : boundary + half] = (mean - difference)[::-1]
  return x


def synthesis(arrays, y, mix, blocks, patch):
  """Runs the synthesis; returns float64 [patch h, patch w, 3]."""
  name = 'transform/synthesis/'
  unit = np.maximum(arrays['transform/deviation'].astype(np.float64), 8)
  x = dense(arrays, f'{name}network/first', y / unit)
  x = x + mix @ arrays[f'{name}network/level']
  for i in range(blocks):
    block = f'{name}network/block_{i}/'
    x = x + conv3(arrays, f'{block}conv_1', relu(conv3(arrays, f'{block}conv_0', x)))
  x = 64 * dense(arrays, f'{name}network/last', x)
  x = spread(y @ arrays[f'{name}klt'].astype(np.float64) + x, patch)
  if f'{name}lapped' in arrays:
    matrix = arrays[f'{name}lapped'].astype(np.float64)
    x = lap(x, matrix, patch)
    x = lap(x.swapaxes(0, 1), matrix, patch).swapaxes(0, 1)
  z = conv3(arrays, f'{name}filter/conv_0', gather(x / 64, 4))
  z = relu(z + mix @ arrays[f'{name}filter/level'])
  return x + 64 * spread(conv3(arrays, f'{name}filter/conv_1', z), 4) + 128


def decode(bundle, data):
  """Decodes a file of a transform codec with ReLU."""
  (height, width, channels), profile, bundle_id, payload = container(data)
  arrays, model = bundle.arrays, bundle.config['model']
  check(bundle.id.startswith(bundle_id.hex()), 'bundle')
  has_latents = 'tables/hyper/mean' in arrays
  has_context = 'tables/context/0/entry/shifts' in arrays
  check(profile == has_latents + has_context, 'profile')
  levels, dim = arrays['tables/scale'].shape
  check(payload and payload[0] <= 16 * (levels - 1), 'position')
  position, coder, tables = payload[0], Coder(payload[1:]), laws(arrays)
  patch = model['patch']
  h, w = -(-height // patch), -(-width // patch)
  latents, count = None, h * w * dim
  if has_latents:
    rows, columns = -(-h // 2), -(-w // 2)
    index = [scale_index(s) for s in row(arrays['tables/hyper/scale'], position)]
    count += rows * columns * len(index)
  check(len(coder.payload) >= -(-count // 1024) - 8, 'too many symbols')
  if has_latents:
    latents = integers(coder, tables, index * (rows * columns))
    latents = np.array(latents).reshape(rows, columns, -1)
  z, log2_scale = scales_of(arrays, latents, position, (h, w))
  if has_context:
    low = model['coarse_dim']
    found, index = staged(coder, tables, arrays, log2_scale, low)
  else:
    index = np.vectorize(scale_index)(log2_scale)
    found = integers(coder, tables, index.ravel().tolist())
    found = np.array(found).reshape(h, w, dim)
  coder.finish()
  mix = mixing(levels, position)
  y = coefficients(arrays, z, found, mix, model['context'])
  x = synthesis(arrays, y, mix, model['blocks'], patch)
  pixels = np.rint(np.clip(x, 0, 255)).astype(int)[:height, :width]
  if channels == 1:
    pixels = (pixels.sum(-1, keepdims=True) + 1) // 3
  return Decoded(position, latents, index, found, y, pixels.astype(np.uint8))
