"""The decoder against a second one that was written from its page alone."""

import itertools

import hostile
import numpy as np
import pytest
import splat_reference as reference
from test_splat_integer import picture, wide
from test_splat_vectors import coded, large

from codax import bitstream
from codax.bitstream import BitstreamError
from codax.entropy import laplace
from codax.splat.format import (
  container,
  integer,
  positions,
  quality_layers,
  stream,
  vectors,
)

SIZES = [((9, 7), 5), ((20, 13), 70), ((1, 1), 1), ((3, 17), 40), ((18, 1), 33)]


def assert_alike(found, made):
  """Whether the second decoder's numbers are those of a picture."""
  assert integer.KINDS[found.kind] == made.kind
  assert integer.RENDERS[found.how] == made.render
  assert vars(found.steps) == made.steps._asdict()
  for name in ('base', 'cells', 'shape', 'colour', 'fine'):
    np.testing.assert_array_equal(getattr(found, name), getattr(made, name))
  assert found.coding == (made.vectors is not None)
  for group, books, indices in zip(made.vectors or (), found.books, found.indices):
    for book, other in zip(group.books, books, strict=True):
      np.testing.assert_array_equal(book, other)
    np.testing.assert_array_equal(group.index.T, indices)


def in_layers(made, count):
  """A picture whose Gaussians are in layers, dealt out in turn but for the first."""
  numbers = np.minimum(np.arange(len(made.cells)) % (count + 1), count - 1)
  return made._replace(layers=numbers)


def agree(made):
  """Whether both decode the file of a picture to it, and to the same pixels."""
  data, _ = container.pack(made)
  found = reference.decode(data)
  for layer, part in zip(found.layers, quality_layers.split(made), strict=True):
    assert_alike(layer, part)
  pixels = container.decode(data)
  np.testing.assert_array_equal(found.pixels, pixels)
  return data, pixels


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('how', integer.RENDERS)
@pytest.mark.parametrize('kind', integer.KINDS)
def test_both_decoders_agree(kind, how, channels):
  for seed, (sides, count) in enumerate(SIZES):
    made = picture((*sides, channels), count, kind, how, seed)
    agree(made)
    agree(coded(made, (5, 1, 3, 2)[: 1 + seed % 4], seed))


@pytest.mark.parametrize('count', [2, 3, 4])
def test_both_decoders_agree_on_layers(count):
  for seed, (kind, how) in enumerate(itertools.product(integer.KINDS, integer.RENDERS)):
    made = in_layers(picture((20, 13, (1, 3)[seed % 2]), 70, kind, how, seed), count)
    data, pixels = agree(made)
    held = container.unpack(data)
    for part, other in zip(
      quality_layers.split(held), quality_layers.split(made), strict=True
    ):
      for name in ('cells', 'fine', 'shape', 'colour'):
        np.testing.assert_array_equal(getattr(part, name), getattr(other, name))
    # all of them are the picture, and the order in which layers are does not matter
    np.testing.assert_array_equal(integer.render(made), pixels)


def test_layers_of_two_pictures_are_refused():
  made = picture((20, 13, 3), 70)
  parts = quality_layers.split(in_layers(made, 2))
  other = parts[1]._replace(base=parts[1].base ^ 1)
  for two in (
    other,
    coded(parts[1], (3,)),
    parts[1]._replace(steps=made.steps._replace(luma=77)),
  ):
    payloads = stream.encode(parts[0])[0], stream.encode(two, False)[0]
    found = [bitstream.Section(k, p) for k, p in zip((bitstream.CODES, 0x40), payloads)]
    header = bitstream.Header(3, container.LAYERED, *made.size)
    data = bitstream.write(header, found)
    with pytest.raises(BitstreamError, match='layer'):
      container.decode(data)
    with pytest.raises(reference.Refused):
      reference.decode(data)
    # nor a layer without the one before, or in a file that says that it has none
    for profile, kinds in ((1, (1, 0x41)), (0, (1, 0x40)), (1, (1,))):
      wrong = [bitstream.Section(k, p) for k, p in zip(kinds, payloads)]
      with pytest.raises(BitstreamError, match='layer'):
        container.decode(bitstream.write(header._replace(profile=profile), wrong))


def random_codes(made, most, seed=0):
  """With shapes and colours of all sizes."""
  rng = np.random.default_rng(seed)
  shape = rng.integers(-most, most + 1, made.shape.shape)
  colour = rng.integers(-most, most + 1, made.colour.shape)
  white = integer.whiten(made.kind, made.steps, shape)
  bits = integer.fine_bits(white, made.steps.fine)
  fine = rng.integers(0, 1 << bits)
  return made._replace(shape=shape, colour=colour, fine=fine)


@pytest.mark.parametrize('kind', integer.KINDS)
@pytest.mark.parametrize('log', [1, 5, 64])
def test_codes_and_steps_of_all_sizes(kind, log):
  rng = np.random.default_rng(log)
  for seed, most in enumerate((63, 64, 400, 2047)):
    steps = integer.Steps(log, *rng.integers(1, 1025, 3).tolist(), 5 * seed)
    made = picture((11, 13, 3), 40, kind, seed=seed)._replace(steps=steps)
    made = random_codes(made, most, seed)
    agree(made)
    books = [made.shape[:9], made.shape[9:11]], [made.colour[:7], made.colour[7:12]]
    both = (made.shape, made.colour)
    both = tuple(vectors.assigned(b, codes) for b, codes in zip(books, both))
    shape, colour = (group.codes for group in both)
    white = integer.whiten(kind, steps, shape)
    fine = made.fine & (1 << integer.fine_bits(white, steps.fine)) - 1
    agree(made._replace(shape=shape, colour=colour, fine=fine, vectors=both))


def same_place(count, size=(2, 3, 3), how='normalised'):
  """Gaussians of one shape, without bits for it, in few pixels."""
  made = picture(size, count, how=how)
  return made._replace(
    shape=0 * made.shape, fine=0 * made.fine, steps=made.steps._replace(fine=0)
  )


@pytest.mark.parametrize('how', integer.RENDERS)
def test_many_gaussians_on_few_pixels(how):
  made = same_place(600, how=how)
  agree(made)  # more than 255 in a half
  # as many bytes as there are to be for so many
  filled = same_place(2000, (1, 1, 1), how)
  filled = filled._replace(colour=0 * filled.colour)
  data, _ = agree(filled)
  header, (codes,) = bitstream.read(data, known=None)
  assert len(codes.payload) == -(-2000 // stream.GAUSSIANS_PER_BYTE)
  short = bitstream.Section(bitstream.CODES, codes.payload[:-1])
  with pytest.raises(BitstreamError, match='2000 Gaussians'):
    container.decode(bitstream.write(header, [short]))


def test_sums_of_the_largest_colours_are_exact():
  """Which cancel: any rounding of a sum would be seen."""
  most, rng = vectors.MAX_CODE, np.random.default_rng(0)
  made = same_place(1200, (1, 1, 3))
  colour = rng.choice([-most, most], made.colour.shape)
  colour[600:] = -colour[:600]
  made = made._replace(colour=colour, steps=made.steps._replace(luma=1024, chroma=1024))
  agree(made)
  assert abs(integer.to_rgb(made.colour, made.steps)).max() == integer.MAX_COLOUR
  largest = positions.MAX_POINTS * integer.weight_table()[0] * integer.MAX_COLOUR
  assert largest + 2**38 < 2**53


@pytest.mark.parametrize(
  'made',
  [
    wide(40),
    wide(30)._replace(kind='rotation', shape=np.tile([120, 60, 7], (30, 1))),
    picture((12000, 9000, 1), 5),
    picture((45, 70, 3), 1200, seed=1),
    large(40),
  ],
  ids=['wide', 'long', 'large', 'many', 'codebooks'],
)
def test_numbers_of_larger_pictures(made):
  if made.kind == 'rotation':
    white = integer.whiten(made.kind, made.steps, made.shape)
    made = made._replace(fine=made.fine & (1 << integer.fine_bits(white, 9)) - 1)
  data, _ = container.pack(made)
  assert_alike(reference.unpack(data)[0], made)


@pytest.mark.parametrize('sort', ['scalar', 'vector', 'layers'])
def test_both_refuse_the_same_files(sort):
  made = picture((5, 6, 1), 3)
  made = {
    'scalar': made, 'vector': coded(made, (2, 1)), 'layers': in_layers(made, 2)
  }[sort]  # fmt: skip
  data, _ = container.pack(made)
  pictures = refused = 0
  # profile and sizes of sections too
  start = 12 * 8 if sort != 'layers' else 6 * 8
  for at in range(start, 8 * (len(data) - 4), 3 if sort == 'scalar' else 7):
    damaged = bytearray(data[:-4])
    damaged[at // 8] ^= 1 << at % 8
    damaged = hostile.with_checksum(bytes(damaged))
    try:
      pixels = container.decode(damaged)
    except BitstreamError:
      refused += 1
      with pytest.raises(reference.Refused):
        reference.unpack(damaged)
    else:
      pictures += 1
      np.testing.assert_array_equal(reference.decode(damaged).pixels, pixels)
  assert pictures > 2 and refused > 20


def test_tables_are_those_of_exact_arithmetic():
  found = [reference.turn(k) for k in range(4096)]
  np.testing.assert_array_equal(integer._circle(), found)
  found = [reference.root(k) for k in range(integer.MIN_LOG, integer.MAX_LOG + 1)]
  np.testing.assert_array_equal(integer._inverse_scales(), found)
  found = [reference.weight(i) for i in range(8193)]
  np.testing.assert_array_equal(integer.weight_table(), found)
  shared = laplace.make(126)
  for level, mean in itertools.product(range(laplace.LEVELS), (-16, 3)):
    table = laplace.freqs(shared, np.array([level]), np.array([mean]), -63, 63)[0]
    assert table.tolist() == reference.laplace(level, mean)
  for n, a in itertools.product((1, 2, 17, 254, 255, 256, 999), range(1, 16)):
    assert positions.table(n, a).tolist() == reference.halves(n, a)
