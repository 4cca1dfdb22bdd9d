"""The payload of a picture of Gaussians: everything in one range coder.

See docs/format/splat.md: a head, where the Gaussians are (`positions`), then their
shapes and colours in passes, each of which fills the gaps between the Gaussians of
those before, and last the low digits of the positions. All integers.
"""

from typing import NamedTuple

import numpy as np

from codax.bitstream import BitstreamError
from codax.entropy import laplace, range_coder, tables
from codax.splat.format import contexts, integer, positions, vector_stream
from codax.splat.format.contexts import Model, passes
from codax.splat.format.symbols import MAX_CODE, get_codes, number, put_codes, read

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
    side: of everything else; zero bytes at the end count in full.
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
  bits += number(encoder, model.trust, 0, contexts.TRUSTS - 1)
  return bits + sum(
    number(encoder, int(x), 0, laplace.LEVELS - 1) for x in model.levels
  )


def _get_model(decoder) -> Model:
  middle, trust = (
    read(decoder, -MAX_CODE, MAX_CODE),
    read(decoder, 0, contexts.TRUSTS - 1),
  )
  levels = [read(decoder, 0, laplace.LEVELS - 1) for _ in range(contexts.CLASSES)]
  return Model(middle, trust, np.array(levels))


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
  coded = encoder.finish()
  payload = coded.ljust(least_bytes(picture, first), b'\0')
  side += 8 * (len(payload) - len(coded))
  return payload, Bits(where, fine, tuple(shape), tuple(colour), side, books)


def _put_scalars(encoder, picture: integer.Picture):
  """Codes shapes and colours as they are; returns bits of models and of channels."""
  near = contexts.neighbours(picture.cells)
  channels = np.concatenate([picture.shape, picture.colour], 1).T
  around = contexts.joined(near)
  models = [contexts.fit(codes, around).model for codes in channels]
  side = sum(_put_model(encoder, model) for model in models)
  spent = np.zeros(len(channels))
  for turn, part in enumerate(passes(len(picture.cells))):
    for c, (codes, model) in enumerate(zip(channels, models, strict=True)):
      mean, kind = _context(codes, near, turn, len(part), model)
      spent[c] += put_codes(
        encoder, codes[part], *contexts.differences(model, mean, kind)
      )
  return side, spent[:3].tolist(), spent[3:].tolist()


def _get_scalars(decoder, cells: np.ndarray, channels: int, done) -> np.ndarray:
  """Inverse of `_put_scalars`: int64 [channels, N]; `done` as in `vector_stream`."""
  models = [_get_model(decoder) for _ in range(channels)]
  near = contexts.neighbours(cells)
  codes = np.zeros((channels, len(cells)), np.int64)
  for turn, part in enumerate(passes(len(cells))):
    for c, model in enumerate(models):
      mean, kinds = _context(codes[c], near, turn, len(part), model)
      codes[c, part] = get_codes(decoder, *contexts.differences(model, mean, kinds))
    done(len(part))
  return codes


def _context(codes, near, turn: int, count: int, model: Model):
  if turn == 0:
    middle = np.full(count, model.middle * contexts.CENTRE, np.int64)
    return middle, np.zeros(count, np.int64)
  return contexts.classified(codes, near[turn - 1], model.middle, model.trust)


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
