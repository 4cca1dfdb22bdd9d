"""The payload of an overfitted image: networks, then latents, in one range coder.

See docs/format/overfit.md. All numbers are integers.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from codax import bitstream
from codax.bitstream import BitstreamError
from codax.entropy import laplace, range_coder, tables, wavefront
from codax.errors import CodaxError
from codax.layers.kan_spec import Spec
from codax.overfit.format import arch as archs
from codax.overfit.format import integer, weights
from codax.overfit.format.arch import Arch

ARCH = 0x40  # the section that spells out an architecture
MAX_LATENT = 255  # magnitude
MAX_FRAC = 15  # fractional bits of weights and biases
# A payload may ask for so much work, in units of some half a nanosecond (see `work`):
# so small files end soon, whatever they claim.
FREE_WORK, WORK_PER_BYTE = 2**30, 2**19
_PIXEL, _LATENT, _SYMBOL, _WEIGHT = 256, 512, 32, 256
_KAN = 4  # for each multiplication of a KAN layer
_PARENT = 16  # for each latent of a coarser grid that a latent's context has
_TAP = 4  # for each product of a learned upsampling
_WAVE, _KAN_WAVE = 2**17, 2**16  # the latter for each KAN layer
_BLOCK = 2**21  # entries of a block of tables


class Payload(NamedTuple):
  """The decoded content of a file.

  Attributes:
    arch: architecture.
    shape: (H, W, C).
    modules: 'synthesis' and 'entropy' -> `integer.Module`.
    grids: int32 [h, w] each, finest first, magnitudes up to MAX_LATENT.
  """

  arch: Arch
  shape: tuple[int, int, int]
  modules: dict[str, integer.Module]
  grids: tuple[np.ndarray, ...]


class Bits(NamedTuple):
  """Ideal lengths of the parts of a payload, in bits.

  Attributes:
    synthesis, entropy: bits of the networks.
    latents: bits of each grid, finest first.
    side: bits of all else, zeros that fill up the payload included.
  """

  synthesis: float
  entropy: float
  latents: tuple[float, ...]
  side: float

  @property
  def total(self) -> float:
    return self.synthesis + self.entropy + sum(self.latents) + self.side


class Head(NamedTuple):
  """The payload before the latents.

  Attributes:
    shapes: (rows, columns) of each grid, finest first.
    modules: 'synthesis' and 'entropy' -> `integer.Module`.
    ranges: int [G, 2], the latents of a grid being -ranges[g, 0] to ranges[g, 1].
    bytes: number of bytes read; the rest of the payload are the latents.
  """

  shapes: tuple[tuple[int, int], ...]
  modules: dict[str, integer.Module]
  ranges: np.ndarray
  bytes: int


def work(
  arch: Arch, shape: tuple[int, int, int], ranges: np.ndarray | None = None
) -> int:
  """Computes the cost of decoding an image, in units of the format (see docs/format).

  Args:
    arch: architecture.
    shape: (H, W, C).
    ranges: see `Head`; without them all grids are taken for constant.
  """
  height, width, channels = shape
  shapes = archs.grid_shapes(arch, height, width)
  macs = archs.mac_counts(arch, len(shapes), channels)
  wave = _WAVE
  for name in archs.MODULES:
    if archs.splines(arch, name, 0) is not None:
      macs[name] *= _KAN
  if arch.entropy_kan is not None:
    wave += _KAN_WAVE * archs.layers(arch, 'entropy')
  listed = archs.tensors(arch, len(shapes), channels)
  total = height * width * (_PIXEL + macs['synthesis'])
  total += _WEIGHT * sum(math.prod(t.shape) for t in listed)
  if arch.upsampling == 'learned':
    total += _TAP * archs.upsampling_products(shapes)
  if ranges is None:
    return total
  for (h, w), size in zip(shapes, ranges.sum(1).tolist()):
    if size:
      latent = _LATENT + _PARENT * arch.inter_grid_context + macs['entropy']
      total += h * w * (latent + _SYMBOL * (size + 1))
      total += wave * min(w + arch.slope * (h - 1), h * w)
  return total


def least_size(work: int) -> int:
  """Computes the smallest payload that may ask for this work, in bytes."""
  return max(0, -(-(work - FREE_WORK) // WORK_PER_BYTE))


def check_work(
  arch: Arch, shape: tuple[int, int, int], size: int, ranges: np.ndarray | None = None
) -> int:
  """Checks the size of a payload against its work, and returns the least size.

  Raises:
    BitstreamError: `size` bytes are too few.
  """
  least = least_size(work(arch, shape, ranges))
  if size < least:
    raise BitstreamError(f'{size} bytes are too few for {shape[1]} x {shape[0]} pixels')
  return least


def put_arch(arch: Arch) -> bytes:
  """Spells out an architecture, for its section."""
  out = [arch.grids, arch.context, arch.convs]
  out.append(archs.ACTIVATIONS.index(arch.activation) << 1 | arch.linear_skip)
  for module in archs.MODULES:
    widths, spec = getattr(arch, module), getattr(arch, f'{module}_kan')
    out += [len(widths), *widths]
    if spec is None:
      out.append(0)
    else:
      ends = [int(4 * end) % 256 for end in (spec.low, spec.high)]
      out += [spec.grid, spec.degree, *ends, archs.BASES.index(spec.base)]
  more = [arch.inter_grid_context, archs.UPSAMPLINGS.index(arch.upsampling)]
  return bytes(out + more if any(more) else out)


def get_arch(data: bytes) -> Arch:
  """Inverts `put_arch`; raises `BitstreamError` for bytes that it does not make."""
  reader = bitstream.Reader(data, 'the shape of the networks')
  grids, context, convs, flags = (reader.u8() for _ in range(4))
  fields = {}
  for module in archs.MODULES:
    count = reader.u8()
    if count > archs.MAX_LAYERS:
      raise BitstreamError(f'the networks have {count} hidden layers')
    fields[module] = tuple(reader.u8() for _ in range(count))
    grid = reader.u8()
    if grid:
      degree, low, high, base = (reader.u8() for _ in range(4))
      ends = [((end + 128) % 256 - 128) / 4 for end in (low, high)]
      if base >= len(archs.BASES):
        raise BitstreamError(f'the networks have splines with base {base}')
      fields[f'{module}_kan'] = Spec(grid, degree, *ends, archs.BASES[base])
  fields['inter_grid_context'], upsampling = 0, 0
  if reader.left:
    fields['inter_grid_context'], upsampling = reader.u8(), reader.u8()
    if not (fields['inter_grid_context'] or upsampling):
      raise BitstreamError('a shape spells out the defaults')
  reader.end()
  if upsampling >= len(archs.UPSAMPLINGS):
    raise BitstreamError(f'the networks have upsampling {upsampling}')
  fields['upsampling'] = archs.UPSAMPLINGS[upsampling]
  if flags >> 1 >= len(archs.ACTIVATIONS):
    raise BitstreamError(f'the networks have activation {flags >> 1}')
  fields['activation'] = archs.ACTIVATIONS[flags >> 1]
  fields['linear_skip'] = bool(flags & 1)
  try:
    found = archs.check(Arch(grids, context, convs=convs, **fields))
  except CodaxError as e:
    raise BitstreamError(f'the networks have a shape that is not valid: {e}') from e
  if found in archs.PROFILES.values():
    raise BitstreamError('a shape is spelled out that has a profile of its own')
  return found


def payload_size(data: bytes) -> int:
  """Returns the size of the coded payload of a file, in bytes."""
  _, sections = bitstream.read(data, known=None)
  return len(bitstream.find(sections, bitstream.CODES) or b'')


# --- latents --------------------------------------------------------------------------


def neighbors(arch: Arch, grid: np.ndarray) -> np.ndarray:
  """Collects the causal neighbors of latents, float64 [h, w, context]; 0 outside."""
  h, w = grid.shape
  padded = np.pad(grid.astype(np.float64), ((3, 0), (3, 3)))
  return np.stack(
    [padded[3 + dy : 3 + dy + h, 3 + dx : 3 + dx + w] for dy, dx in arch.offsets], -1
  )


def inter_grid_latents(
  arch: Arch, coarser: Sequence[np.ndarray], shape: tuple[int, int]
) -> np.ndarray:
  """Collects the latents of coarser grids that the entropy network sees.

  Args:
    arch: architecture.
    coarser: the coarser grids, the finest of them first.
    shape: (h, w) of the grid.

  Returns:
    int16 [h * w, inter_grid_context], for each latent of the grid; 0 outside.
  """
  h, w = shape
  out = np.zeros((h, w, arch.inter_grid_context), np.int16)
  for i, (up, dy, dx) in enumerate(arch.parent_offsets):
    if up <= len(coarser):
      padded = np.pad(coarser[up - 1], 1)
      rows = (np.arange(h) >> up) + 1 + dy
      columns = (np.arange(w) >> up) + 1 + dx
      out[..., i] = padded[rows[:, None], columns]
  return out.reshape(h * w, -1)


def _wave_order(arch: Arch, h: int, w: int) -> np.ndarray:
  """Lists the flat positions of a grid in coding order."""
  rows, columns = np.divmod(np.arange(h * w), w)
  return np.lexsort((rows, columns + arch.slope * rows))


def _put_grid(encoder, net, arch: Arch, table, grids, low: int, high: int) -> float:
  """Codes the first of some grids, all of low .. high, and returns its bits.

  The others, which are coarser, are coded already.
  """
  grid, *coarser = grids
  if low == high:
    return 0.0
  order = _wave_order(arch, *grid.shape)
  flat = grid.ravel()[order]
  around = neighbors(arch, grid).reshape(grid.size, -1)
  if arch.inter_grid_context:
    around = np.concatenate([around, inter_grid_latents(arch, coarser, grid.shape)], 1)
  block = max(1, _BLOCK // max(high - low + 1, arch.inputs))
  total = 0.0
  for start in range(0, grid.size, block):
    at = order[start : start + block]
    level, mean = integer.predict(net, arch, around[at])
    freqs = laplace.freqs(table, level, mean, low, high)
    symbols = flat[start : start + block] - low
    encoder.put(symbols, freqs)
    total += tables.bits(freqs, symbols)
  return total


def _get_grid(decoder, net, arch: Arch, table, shape, coarser, low: int, high: int):
  """Inverts `_put_grid`."""
  h, w = shape
  if low == high:
    return np.full(shape, low, np.int32)
  decoder.expect(h * w)
  block = max(1, _BLOCK // (high - low + 1))
  pitch, slope = w + 6, arch.slope
  stride = pitch - slope  # from one latent of a wave to the next
  canvas = np.zeros((h + 3) * pitch)
  steps = np.array([dy * pitch + dx for dy, dx in arch.offsets])
  reach = -int(steps.min())
  most = min(h, (w - 1) // slope + 1) if slope else h  # latents of a wave
  around_first = stride * np.arange(most)[:, None] + steps + reach
  coarse = inter_grid_latents(arch, coarser, shape) if arch.inter_grid_context else None
  symbols = laplace.alphabet(table, low, high)
  for t, row, count in wavefront.waves(h, w, slope):
    at = (row + 3) * pitch + t - slope * row + 3
    around = canvas[at - reach :].take(around_first[:count])
    if coarse is not None:
      rows = np.arange(row, row + count)
      around = np.concatenate([around, coarse[rows * (w - slope) + t]], 1)
    level, mean = integer.predict(net, arch, around)
    wave = canvas[at : at + stride * count : stride]
    for start in range(0, count, block):  # a wave can be 65535 tables
      section = slice(start, start + block)
      shares = laplace.shares(symbols, level[section], mean[section])
      np.add(decoder.decode_shares(shares), low, out=wave[section])
  return canvas.reshape(h + 3, pitch)[3:, 3 : 3 + w].astype(np.int32)


# Ends of a grid's range are small numbers mostly; 0 gets the rest of 2**24.
_RANGE = 3 * 2**20 // (np.arange(MAX_LATENT + 1) + 2)
_RANGE[0] += (1 << tables.PRECISION) - _RANGE.sum()
_FRAC = tables.uniform(MAX_FRAC + 1)


def encode(payload: Payload) -> tuple[bytes, Bits]:
  """Codes a payload, and returns it with the ideal lengths of its parts.

  Raises:
    BitstreamError: a network would not run exactly.
  """
  arch, grids = payload.arch, payload.grids
  net = entropy_net(payload.modules['entropy'], arch)
  synthesis_net(payload.modules['synthesis'], arch)
  encoder = range_coder.Encoder()
  bits = {}
  listed = archs.tensors(arch, len(grids), payload.shape[2])
  for name in archs.MODULES:
    module = payload.modules[name]
    fracs = np.array([module.weight_frac, module.bias_frac])
    encoder.put(fracs, _FRAC)
    bits[name] = sum(
      weights.put(encoder, module.weights[t.name]) for t in listed if t.module == name
    )
  # Zero, the value outside a grid, is always among the symbols.
  ranges = np.array([[max(0, -int(g.min())), max(0, int(g.max()))] for g in grids])
  encoder.put(ranges.ravel(), _RANGE)
  table = laplace.make(int(ranges.sum(1).max()))
  latents = []
  for i in reversed(range(len(grids))):
    low, high = ranges[i].tolist()
    latents.append(_put_grid(encoder, net, arch, table, grids[i:], -low, high))
  side = 4.0 * len(archs.MODULES) * 2 + tables.bits(_RANGE, ranges.ravel())
  data = encoder.finish()
  least = least_size(work(arch, payload.shape, ranges))
  side += 8.0 * max(0, least - len(data))
  found = Bits(bits['synthesis'], bits['entropy'], tuple(latents[::-1]), side)
  return data.ljust(least, b'\0'), found


def entropy_net(module: integer.Module, arch: Arch):
  """Prepares the entropy network; `BitstreamError` if it would not be exact."""
  return integer.prepare(module, arch, 'entropy', MAX_LATENT)


def synthesis_net(module: integer.Module, arch: Arch):
  """Prepares the synthesis network; `BitstreamError` if it would not be exact."""
  return integer.prepare(module, arch, 'synthesis', MAX_LATENT)


def read_head(
  decoder: range_coder.Decoder, size: int, arch: Arch, shape: tuple[int, int, int]
) -> Head:
  """Decodes the networks and the ranges of the latents.

  Args:
    decoder: coder at the start of the payload.
    size: size of the payload, in bytes.
    arch: architecture, checked.
    shape: (H, W, C) from the header, within the container's limits.

  Raises:
    BitstreamError: the payload is not one that `encode` makes, or too small.
  """
  check_work(arch, shape, size)
  shapes = archs.grid_shapes(arch, *shape[:2])
  listed = archs.tensors(arch, len(shapes), shape[2])
  decoder.expect(sum(math.prod(t.shape) for t in listed))
  modules = {}
  for name in archs.MODULES:
    weight_frac, bias_frac = (int(x) for x in decoder.decode(_FRAC, 2))
    arrays = {t.name: weights.get(decoder, t.shape) for t in listed if t.module == name}
    modules[name] = integer.Module(arrays, weight_frac, bias_frac)
  ranges = decoder.decode(_RANGE, 2 * len(shapes)).reshape(-1, 2)
  return Head(shapes, modules, ranges, min(4 * decoder.words, size))


def decode(data: bytes, arch: Arch, shape: tuple[int, int, int]) -> Payload:
  """Inverts `encode`.

  Args:
    data: the coded payload.
    arch: architecture, checked.
    shape: (H, W, C) from the header, within the container's limits.

  Raises:
    BitstreamError: the payload is not one that `encode` makes.
  """
  decoder = range_coder.Decoder(data)
  shapes, modules, ranges, _ = read_head(decoder, len(data), arch, shape)
  least = check_work(arch, shape, len(data), ranges)
  decoder.expect(sum(h * w for (h, w), size in zip(shapes, ranges.sum(1)) if size))
  net = entropy_net(modules['entropy'], arch)
  synthesis_net(modules['synthesis'], arch)  # refused before the work, if it must be
  table = laplace.make(int(ranges.sum(1).max()))
  grids: list[np.ndarray] = []
  for side, (low, high) in zip(shapes[::-1], ranges[::-1].tolist()):
    grids.insert(0, _get_grid(decoder, net, arch, table, side, grids, -low, high))
  decoder.finish(least)
  return Payload(arch, shape, modules, tuple(grids))
