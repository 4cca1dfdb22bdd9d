"""Coded stream of a payload of Gaussians: everything in one range coder.

See docs/format/splat.md: a head, the Gaussians' cells (`positions`), then their shapes
and colors in passes, each of which fills the gaps between the Gaussians of those
before, and last the low digits of the positions. All integers.
"""

from typing import NamedTuple

import numpy as np

from codax.bitstream import BitstreamError
from codax.entropy import laplace, range_coder, tables
from codax.splat.format import contexts, integer, positions, vector_stream
from codax.splat.format.contexts import Model, split_passes
from codax.splat.format.symbols import (
  MAX_CODE,
  get_codes,
  get_uniform,
  put_codes,
  put_uniform,
)

# Work that a stream may ask for: Gaussians, tiles, pairs of a tile and a Gaussian.
GAUSSIANS_PER_BYTE = 8
FREE_TILES, TILES_PER_BYTE = 2**13, 2**4
FREE_PAIRS, PAIRS_PER_BYTE = 2**16, 2**6


class Bits(NamedTuple):
  """Ideal lengths of the parts of a stream, in bits.

  Attributes:
    positions: bits of the pixels that centers are in.
    fine: bits of the positions' low digits.
    shape, color: bits of each channel; with codebooks, of each stage's indices.
    side: bits of everything else; zero bytes at the end count in full.
    books: bits of codebooks.
  """

  positions: float
  fine: float
  shape: tuple[float, ...]
  color: tuple[float, ...]
  side: float
  books: float = 0.0

  @property
  def total(self) -> float:
    """Bits of the whole stream."""
    parts = self.positions, self.fine, *self.shape, *self.color, self.side, self.books
    return sum(parts)


def add_bits(parts: list[Bits]) -> Bits:
  """Adds the bits of several streams."""
  groups = lambda name: tuple(map(sum, zip(*(getattr(b, name) for b in parts))))
  sums = {n: sum(getattr(b, n) for b in parts) for n in _SINGLE}
  return Bits(**sums, shape=groups('shape'), color=groups('color'))


_SINGLE = ('positions', 'fine', 'side', 'books')


Q_STEP_RANGES = {
  'log': (1, 64), 'third': (1, 1024), 'luma': (1, 1024), 'chroma': (1, 1024),
  'fine': (0, 15),
}  # fmt: skip


def _put_head(encoder, payload: integer.Payload) -> float:
  covariance, blend = (
    integer.COVARIANCES.index(payload.covariance),
    integer.BLENDS.index(payload.blend),
  )
  bits = put_uniform(encoder, len(payload.cells), 1, positions.MAX_POINTS)
  bits += put_uniform(encoder, covariance, 0, len(integer.COVARIANCES) - 1)
  bits += put_uniform(encoder, blend, 0, len(integer.BLENDS) - 1)
  bits += put_uniform(encoder, int(payload.vectors is not None), 0, 1)
  bits += sum(put_uniform(encoder, int(value), 0, 255) for value in payload.base)
  for name, value in payload.q_steps._asdict().items():
    bits += put_uniform(encoder, value, *Q_STEP_RANGES[name])
  return bits


def _put_model(encoder, model: Model) -> float:
  bits = put_uniform(encoder, model.middle, -MAX_CODE, MAX_CODE)
  bits += put_uniform(encoder, model.trust, 0, contexts.TRUSTS - 1)
  return bits + sum(
    put_uniform(encoder, int(x), 0, laplace.LEVELS - 1) for x in model.levels
  )


def _get_model(decoder) -> Model:
  middle, trust = (
    get_uniform(decoder, -MAX_CODE, MAX_CODE),
    get_uniform(decoder, 0, contexts.TRUSTS - 1),
  )
  levels = [
    get_uniform(decoder, 0, laplace.LEVELS - 1) for _ in range(contexts.CLASSES)
  ]
  return Model(middle, trust, np.array(levels))


def min_bytes_for_tiles(size: tuple[int, ...]) -> int:
  """Returns the least bytes of a stream for its image's tiles; see `min_bytes`."""
  tiles = -(-size[0] // integer.TILE) * -(-size[1] // integer.TILE)
  return max(0, -(-(tiles - FREE_TILES) // TILES_PER_BYTE))


def min_bytes(payload: integer.Payload, first: bool = True) -> int:
  """Returns the least bytes of a stream: zeros fill it up.

  So a small file cannot ask for much work, whatever it claims. The free part is for the
  first layer alone.
  """
  white = integer.whiten(payload.covariance, payload.q_steps, payload.shape)
  where = integer.compute_centers(payload, white)
  pairs = integer.count_pairs(white, where, payload.size[:2])
  least = -(-len(where) // GAUSSIANS_PER_BYTE)
  if not first:  # the tiles are the first one's
    return max(least, -(-pairs // PAIRS_PER_BYTE))
  return max(
    least,
    -(-(pairs - FREE_PAIRS) // PAIRS_PER_BYTE),
    min_bytes_for_tiles(payload.size),
  )


def encode(payload: integer.Payload, first: bool = True) -> tuple[bytes, Bits]:
  """Codes a payload; returns the stream and the ideal lengths of its parts.

  Args:
    payload: its Gaussians in the order of `positions.order`, without layers.
    first: whether it is the first layer, or all there is.
  """
  encoder = range_coder.Encoder()
  side = _put_head(encoder, payload)
  where = positions.put(encoder, payload.cells, payload.size[:2])
  if payload.vectors is None:
    models, shape, color = _put_scalars(encoder, payload)
    side, books = side + models, 0.0
  else:
    books = sum(vector_stream.put_books(encoder, v.books) for v in payload.vectors)
    order = split_passes(len(payload.cells))
    shape, color = vector_stream.put_indices(encoder, payload.vectors, order)
  white = integer.whiten(payload.covariance, payload.q_steps, payload.shape)
  fine = _put_fine(
    encoder, payload.fine, integer.count_fine_bits(white, payload.q_steps.fine)
  )
  coded = encoder.finish()
  data = coded.ljust(min_bytes(payload, first), b'\0')
  side += 8 * (len(data) - len(coded))
  return data, Bits(where, fine, tuple(shape), tuple(color), side, books)


def _put_scalars(encoder, payload: integer.Payload):
  """Codes shapes and colors as they are; returns bits of models and of channels."""
  near = contexts.find_neighbors(payload.cells)
  channels = np.concatenate([payload.shape, payload.color], 1).T
  around = contexts.join_passes(near)
  models = [contexts.fit_model(codes, around).model for codes in channels]
  side = sum(_put_model(encoder, model) for model in models)
  spent = np.zeros(len(channels))
  for turn, part in enumerate(split_passes(len(payload.cells))):
    for c, (codes, model) in enumerate(zip(channels, models, strict=True)):
      mean, classes = _context(codes, near, turn, len(part), model)
      spent[c] += put_codes(
        encoder, codes[part], *contexts.make_tables(model, mean, classes)
      )
  return side, spent[:3].tolist(), spent[3:].tolist()


def _get_scalars(decoder, cells: np.ndarray, channels: int, done) -> np.ndarray:
  """Inverts `_put_scalars`: int64 [channels, N]; `done` as in `vector_stream`."""
  models = [_get_model(decoder) for _ in range(channels)]
  near = contexts.find_neighbors(cells)
  codes = np.zeros((channels, len(cells)), np.int64)
  for turn, part in enumerate(split_passes(len(cells))):
    for c, model in enumerate(models):
      mean, classes = _context(codes[c], near, turn, len(part), model)
      codes[c, part] = get_codes(decoder, *contexts.make_tables(model, mean, classes))
    done(len(part))
  return codes


def _context(codes, near, turn: int, count: int, model: Model):
  if turn == 0:
    middle = np.full(count, model.middle * contexts.UNIT, np.int64)
    return middle, np.zeros(count, np.int64)
  return contexts.predict_in_classes(codes, near[turn - 1], model.middle, model.trust)


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
  data: bytes, size: tuple[int, int, int], first: bool = True
) -> integer.Payload:
  """Inverts `encode`.

  Raises:
    BitstreamError: the stream is unsound.
  """
  return decode_with_marks(data, size, first)[0]


def decode_with_marks(data: bytes, size: tuple[int, int, int], first: bool = True):
  """Decodes a stream as `decode`, with marks.

  Returns:
    The payload, and after every pass (Gaussians, bytes of whole words so far).
  """
  if first and len(data) < min_bytes_for_tiles(size):
    raise BitstreamError(f'{len(data)} bytes for the tiles of {size[1]} x {size[0]}')
  decoder = range_coder.Decoder(data)
  count = get_uniform(decoder, 1, positions.MAX_POINTS)
  if count > GAUSSIANS_PER_BYTE * len(data):
    raise BitstreamError(f'{count} Gaussians in {len(data)} bytes')
  covariance = integer.COVARIANCES[
    get_uniform(decoder, 0, len(integer.COVARIANCES) - 1)
  ]
  blend = integer.BLENDS[get_uniform(decoder, 0, len(integer.BLENDS) - 1)]
  coded = bool(get_uniform(decoder, 0, 1))
  base = np.array([get_uniform(decoder, 0, 255) for _ in range(size[2])], np.uint8)
  q_steps = integer.QSteps(
    *(get_uniform(decoder, *Q_STEP_RANGES[n]) for n in integer.QSteps._fields)
  )
  cells = positions.get(decoder, count, size[:2])
  marks, vectors = [], None

  def done(more: int):
    marks.append((more + (marks[-1][0] if marks else 0), 4 * decoder.words))

  if coded:
    books = [vector_stream.get_books(decoder, width) for width in (3, size[2])]
    vectors = vector_stream.get_indices(decoder, books, split_passes(count), done)
    shape, color = (group.codes for group in vectors)
  else:
    codes = _get_scalars(decoder, cells, 3 + size[2], done)
    shape, color = codes[:3].T, codes[3:].T
  white = integer.whiten(covariance, q_steps, shape)
  fine = _get_fine(decoder, integer.count_fine_bits(white, q_steps.fine))
  payload = integer.Payload(
    size, covariance, blend, q_steps, base, cells, fine, shape, color, vectors
  )
  least = min_bytes(payload, first)
  if len(data) < least:
    raise BitstreamError(f'{len(data)} bytes of Gaussians; their work asks for {least}')
  decoder.finish(least)
  return payload, marks
