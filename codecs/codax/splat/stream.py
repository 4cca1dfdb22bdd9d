"""The payload of a picture of Gaussians: everything in one range coder.

See FORMAT.md, family 3: a head, where the Gaussians are (`positions`), then their
shapes and colours in passes, each of which fills the gaps between the Gaussians of
those before, and last the low digits of the positions. All integers.
"""

import functools
from typing import NamedTuple

import numpy as np

from codax.bitstream import BitstreamError
from codax.entropy import laplace, range_coder, tables
from codax.splat import integer, positions, vector_stream
from codax.splat.symbols import MAX_CODE, REACH, get_codes, number, put_codes, read

FIRST_PASS = 32  # Gaussians of the first pass, about
NEAR, _WINDOW = 4, 8  # neighbours that predict; looked for on either side
# Disagreement of the neighbours, in 32nds of a step, that begins a class.
_SPREADS = np.array([8, 20, 40, 80, 160])
CLASSES = len(_SPREADS) + 2  # and one for Gaussians without neighbours
TRUSTS = 9  # a prediction is taken by so many eighths, 0 to 8
_CENTRE = 1 << laplace.MEAN_FRAC
# A payload may ask for so many Gaussians, tiles, and pairs of a tile and a Gaussian.
GAUSSIANS_PER_BYTE = 8
FREE_TILES, TILES_PER_BYTE = 2**13, 2**4
FREE_PAIRS, PAIRS_PER_BYTE = 2**16, 2**6


class Bits(NamedTuple):
  """Ideal lengths of the parts of a payload, in bits.

  Attributes:
    positions: of the pixels that centres are in.
    fine: of the positions' low digits.
    shape, colour: of each channel; with codebooks, of each stage's indices.
    side: of everything else.
    books: of codebooks.
  """

  positions: float
  fine: float
  shape: tuple[float, ...]
  colour: tuple[float, ...]
  side: float
  books: float = 0.0

  @property
  def total(self) -> float:
    """Of the whole payload."""
    parts = self.positions, self.fine, *self.shape, *self.colour, self.side, self.books
    return sum(parts)


def total(parts: list[Bits]) -> Bits:
  """Of several payloads together."""
  groups = lambda name: tuple(map(sum, zip(*(getattr(b, name) for b in parts))))
  sums = {n: sum(getattr(b, n) for b in parts) for n in _SINGLE}
  return Bits(**sums, shape=groups('shape'), colour=groups('colour'))


_SINGLE = ('positions', 'fine', 'side', 'books')


class Model(NamedTuple):
  """What a channel is coded with.

  Attributes:
    middle: the prediction where nothing better is known.
    trust: eighths of the neighbours' prediction in place of the middle.
    levels: int [CLASSES], of `laplace`.
  """

  middle: int
  trust: int
  levels: np.ndarray


def passes(count: int) -> list[np.ndarray]:
  """Which Gaussians are coded when: indices in the order of `positions.order`."""
  stride = 1 << max(count // FIRST_PASS, 1).bit_length() - 1
  out = [np.arange(0, count, stride)]
  while stride > 1:
    out.append(np.arange(stride // 2, count, stride))
    stride //= 2
  return out


class Neighbours(NamedTuple):
  """Of each Gaussian of a pass: int64 [n, NEAR], indices and weights."""

  index: np.ndarray
  weight: np.ndarray


def neighbours(cells: np.ndarray) -> list[Neighbours]:
  """For every pass but the first the nearest Gaussians of the passes before."""
  count, out = len(cells), []
  stride = 1 << max(count // FIRST_PASS, 1).bit_length() - 1
  while stride > 1:
    here = np.arange(stride // 2, count, stride)
    beside = stride * np.arange(-_WINDOW, _WINDOW) + stride // 2
    index = here[:, None] + beside
    square = ((cells[np.clip(index, 0, count - 1)] - cells[here][:, None]) ** 2).sum(-1)
    # beyond the ends: as far away as can be
    square = np.where((index >= 0) & (index < count), square, 1 << 40)
    best = np.argsort(square, axis=1, kind='stable')[:, :NEAR]
    square = np.take_along_axis(square, best, 1)
    index = np.take_along_axis(index, best, 1)
    weight = np.where(square < 1 << 40, (1 << 20) // (square + 4), 0)
    weight = np.maximum(weight, (square < 1 << 40).astype(np.int64))
    out.append(Neighbours(np.clip(index, 0, count - 1), weight))
    stride //= 2
  return out


def predict(codes: np.ndarray, near: Neighbours) -> tuple[np.ndarray, np.ndarray]:
  """The neighbours' mean and how much they disagree, int64 [n] in 32nds of a step."""
  values = codes[near.index] * _CENTRE
  total = near.weight.sum(1)
  mean = ((values * near.weight).sum(1) + total // 2) // total
  spread = (np.abs(values - mean[:, None]) * near.weight).sum(1) // total
  return mean, spread


def contexts(codes: np.ndarray, near: Neighbours, middle: int, trust: int):
  """Means in 32nds and classes of a pass: int64 [n] each."""
  mean, spread = predict(codes, near)
  return _trusted(mean, middle, trust), _classes(spread)


def _trusted(mean: np.ndarray, middle: int, trust: int) -> np.ndarray:
  return middle * _CENTRE + ((mean - middle * _CENTRE) * trust + 4 >> 3)


def _classes(spread: np.ndarray) -> np.ndarray:
  return np.searchsorted(_SPREADS, spread, side='right') + 1


def _tables(model: Model, mean: np.ndarray, kind: np.ndarray):
  """Whole parts of the predictions, and tables of the differences from them."""
  whole = (mean + _CENTRE // 2) // _CENTRE
  shared = laplace.make(2 * REACH)
  part = mean - whole * _CENTRE
  return whole, laplace.freqs(shared, model.levels[kind], part, -REACH, REACH)


STEP_RANGES = {
  'log': (1, 64), 'third': (1, 1024), 'luma': (1, 1024), 'chroma': (1, 1024),
  'fine': (0, 15),
}  # fmt: skip


def _put_head(encoder, picture: integer.Picture) -> float:
  kind, render = (
    integer.KINDS.index(picture.kind),
    integer.RENDERS.index(picture.render),
  )
  bits = number(encoder, len(picture.cells), 1, positions.MAX_POINTS)
  bits += number(encoder, kind, 0, len(integer.KINDS) - 1)
  bits += number(encoder, render, 0, len(integer.RENDERS) - 1)
  bits += number(encoder, int(picture.vectors is not None), 0, 1)
  bits += sum(number(encoder, int(value), 0, 255) for value in picture.base)
  for name, value in picture.steps._asdict().items():
    bits += number(encoder, value, *STEP_RANGES[name])
  return bits


def _put_model(encoder, model: Model) -> float:
  bits = number(encoder, model.middle, -MAX_CODE, MAX_CODE)
  bits += number(encoder, model.trust, 0, TRUSTS - 1)
  return bits + sum(
    number(encoder, int(x), 0, laplace.LEVELS - 1) for x in model.levels
  )


def _get_model(decoder) -> Model:
  middle, trust = read(decoder, -MAX_CODE, MAX_CODE), read(decoder, 0, TRUSTS - 1)
  levels = [read(decoder, 0, laplace.LEVELS - 1) for _ in range(CLASSES)]
  return Model(middle, trust, np.array(levels))


def joined(near: list[Neighbours]) -> Neighbours:
  """Those of all passes as one, in the order in which Gaussians are coded."""
  none = np.zeros((0, NEAR), np.int64)
  index = np.concatenate([none, *(n.index for n in near)])
  return Neighbours(index, np.concatenate([none, *(n.weight for n in near)]))


class Fit(NamedTuple):
  """What `fit` finds.

  Attributes:
    model: with which the channel takes the fewest bits.
    bits: these.
    kind: the classes, in the order in which Gaussians are coded, int64 [N].
  """

  model: Model
  bits: float
  kind: np.ndarray


def fit(codes: np.ndarray, around: Neighbours) -> Fit:
  """The best model of a channel.

  Args:
    codes: int64 [N].
    around: from `joined`.
  """
  middle = int(np.sort(codes)[len(codes) // 2])
  coded = codes[np.concatenate(passes(len(codes)))]
  first = len(codes) - len(around.index)
  near, spread = predict(codes, around)
  kind = np.append(np.zeros(first, np.int64), _classes(spread))
  best, least = None, np.inf
  for trust in (0, 3, 5, 6, 7, 8):
    mean = np.append(np.full(first, middle * _CENTRE), _trusted(near, middle, trust))
    prices = _prices(coded, mean, kind)
    total = float(prices.min(1).sum())
    if total < least:
      best, least = Model(middle, trust, prices.argmin(1)), total
  return Fit(best, least, kind)


def _bits(distance: np.ndarray) -> np.ndarray:
  """Bits of codes so far from their means under every level, by the density alone:
  float64 [n, LEVELS]."""
  level = np.arange(laplace.LEVELS)
  scale = 2.0 ** (laplace.MIN_LOG2_SCALE + level / laplace.SCALE_STEPS)
  near = distance[:, None] - 0.5
  left, right = np.exp(-np.abs(near) / scale), np.exp(-(near + 1) / scale)
  # the mass of the unit interval: what two tails leave, or one tail less another
  mass = np.where(near < 0, 1 - 0.5 * (left + right), 0.5 * (left - right))
  return -np.log2(np.maximum(mass, 2.0**-tables.PRECISION))


_USUAL = 64  # steps: most codes are nearer


@functools.cache
def _usual_bits() -> np.ndarray:
  """`_bits` of the distances below `_USUAL`, in 32nds of a step."""
  return _bits(np.arange(_USUAL * _CENTRE) / _CENTRE)


def _prices(codes: np.ndarray, mean: np.ndarray, kind: np.ndarray) -> np.ndarray:
  """Bits of each class's codes under every level: float64 [CLASSES, LEVELS]."""
  distance, room = np.abs(codes * _CENTRE - mean), _USUAL * _CENTRE
  usual = distance < room
  counts = np.bincount((kind * room + distance)[usual], minlength=CLASSES * room)
  out = counts.reshape(CLASSES, room) @ _usual_bits()
  np.add.at(out, kind[~usual], _bits(distance[~usual] / _CENTRE))
  return out


def least_for_tiles(size: tuple[int, ...]) -> int:
  """Bytes that a payload has at least for its picture's tiles; see `least_bytes`."""
  tiles = -(-size[0] // integer.TILE) * -(-size[1] // integer.TILE)
  return max(0, -(-(tiles - FREE_TILES) // TILES_PER_BYTE))


def least_bytes(picture: integer.Picture, first: bool = True) -> int:
  """Bytes that a payload has at least: zeros fill it up.

  So a small file cannot ask for much work, whatever it claims. What is free is so for
  the first layer.
  """
  white = integer.whiten(picture.kind, picture.steps, picture.shape)
  where = integer.centres(picture, white)
  pairs = integer.pair_count(white, where, picture.size[:2])
  least = -(-len(where) // GAUSSIANS_PER_BYTE)
  if not first:  # the tiles are the first one's
    return max(least, -(-pairs // PAIRS_PER_BYTE))
  return max(
    least,
    -(-(pairs - FREE_PAIRS) // PAIRS_PER_BYTE),
    least_for_tiles(picture.size),
  )


def encode(picture: integer.Picture, first: bool = True) -> tuple[bytes, Bits]:
  """The payload and the ideal lengths of its parts.

  Args:
    picture: its Gaussians in the order of `positions.order`, without layers.
    first: whether it is the first layer, or all there is.
  """
  encoder = range_coder.Encoder()
  side = _put_head(encoder, picture)
  where = positions.put(encoder, picture.cells, picture.size[:2])
  if picture.vectors is None:
    models, shape, colour = _put_scalars(encoder, picture)
    side, books = side + models, 0.0
  else:
    books = sum(vector_stream.put_books(encoder, v.books) for v in picture.vectors)
    order = passes(len(picture.cells))
    shape, colour = vector_stream.put_indices(encoder, picture.vectors, order)
  white = integer.whiten(picture.kind, picture.steps, picture.shape)
  fine = _put_fine(encoder, picture.fine, integer.fine_bits(white, picture.steps.fine))
  payload = encoder.finish().ljust(least_bytes(picture, first), b'\0')
  return payload, Bits(where, fine, tuple(shape), tuple(colour), side, books)


def _put_scalars(encoder, picture: integer.Picture):
  """Codes shapes and colours as they are; returns bits of models and of channels."""
  near = neighbours(picture.cells)
  channels = np.concatenate([picture.shape, picture.colour], 1).T
  around = joined(near)
  models = [fit(codes, around).model for codes in channels]
  side = sum(_put_model(encoder, model) for model in models)
  spent = np.zeros(len(channels))
  for turn, part in enumerate(passes(len(picture.cells))):
    for c, (codes, model) in enumerate(zip(channels, models, strict=True)):
      mean, kind = _context(codes, near, turn, len(part), model)
      spent[c] += put_codes(encoder, codes[part], *_tables(model, mean, kind))
  return side, spent[:3].tolist(), spent[3:].tolist()


def _get_scalars(decoder, cells: np.ndarray, channels: int, done) -> np.ndarray:
  """Inverse of `_put_scalars`: int64 [channels, N]; `done` as in `vector_stream`."""
  models = [_get_model(decoder) for _ in range(channels)]
  near = neighbours(cells)
  codes = np.zeros((channels, len(cells)), np.int64)
  for turn, part in enumerate(passes(len(cells))):
    for c, model in enumerate(models):
      mean, kinds = _context(codes[c], near, turn, len(part), model)
      codes[c, part] = get_codes(decoder, *_tables(model, mean, kinds))
    done(len(part))
  return codes


def _context(codes, near, turn: int, count: int, model: Model):
  if turn == 0:
    middle = np.full(count, model.middle * _CENTRE, np.int64)
    return middle, np.zeros(count, np.int64)
  return contexts(codes, near[turn - 1], model.middle, model.trust)


def _put_fine(encoder, fine: np.ndarray, bits: np.ndarray) -> float:
  for b in range(1, integer.MAX_FINE + 1):
    encoder.put(fine[bits == b], tables.uniform(1 << b))
  return float(bits.sum())


def _get_fine(decoder, bits: np.ndarray) -> np.ndarray:
  out = np.zeros_like(bits)
  for b in range(1, integer.MAX_FINE + 1):
    chosen = bits == b
    out[chosen] = decoder.decode(tables.uniform(1 << b), int(chosen.sum()))
  return out


def decode(
  payload: bytes, size: tuple[int, int, int], first: bool = True
) -> integer.Picture:
  """Inverse of `encode`.

  Raises:
    BitstreamError: the payload is unsound.
  """
  return decode_marked(payload, size, first)[0]


def decode_marked(payload: bytes, size: tuple[int, int, int], first: bool = True):
  """As `decode`; and after every pass (Gaussians, bytes of whole words so far)."""
  if first and len(payload) < least_for_tiles(size):
    raise BitstreamError(f'{len(payload)} bytes for the tiles of {size[1]} x {size[0]}')
  decoder = range_coder.Decoder(payload)
  count = read(decoder, 1, positions.MAX_POINTS)
  if count > GAUSSIANS_PER_BYTE * len(payload):
    raise BitstreamError(f'{count} Gaussians in {len(payload)} bytes')
  kind = integer.KINDS[read(decoder, 0, len(integer.KINDS) - 1)]
  render = integer.RENDERS[read(decoder, 0, len(integer.RENDERS) - 1)]
  coded = bool(read(decoder, 0, 1))
  base = np.array([read(decoder, 0, 255) for _ in range(size[2])], np.uint8)
  steps = integer.Steps(
    *(read(decoder, *STEP_RANGES[n]) for n in integer.Steps._fields)
  )
  cells = positions.get(decoder, count, size[:2])
  marks, vectors = [], None

  def done(more: int):
    marks.append((more + (marks[-1][0] if marks else 0), 4 * decoder.words))

  if coded:
    books = [vector_stream.get_books(decoder, width) for width in (3, size[2])]
    vectors = vector_stream.get_indices(decoder, books, passes(count), done)
    shape, colour = (group.codes for group in vectors)
  else:
    codes = _get_scalars(decoder, cells, 3 + size[2], done)
    shape, colour = codes[:3].T, codes[3:].T
  white = integer.whiten(kind, steps, shape)
  fine = _get_fine(decoder, integer.fine_bits(white, steps.fine))
  picture = integer.Picture(
    size, kind, render, steps, base, cells, fine, shape, colour, vectors
  )
  least = least_bytes(picture, first)
  if len(payload) < least:
    raise BitstreamError(
      f'{len(payload)} bytes of Gaussians; their work asks for {least}'
    )
  decoder.finish(least)
  return picture, marks
