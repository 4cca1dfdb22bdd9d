"""The decoder against a second one that was written from its page alone."""

import itertools

import hostile
import numpy as np
import pytest
import splat_reference as reference
from test_splat_integer import make_payload, wide
from test_splat_vectors import coded, large

from codax import bitstream
from codax.bitstream import BitstreamError
from codax.entropy import laplace
from codax.splat.format import (
  container,
  integer,
  lookup,
  positions,
  quality_layers,
  stream,
  vectors,
)

SIZES = [((9, 7), 5), ((20, 13), 70), ((1, 1), 1), ((3, 17), 40), ((18, 1), 33)]


def assert_alike(found, made):
  """Asserts that the second decoder's numbers are those of a payload."""
  assert integer.COVARIANCES[found.kind] == made.covariance
  assert integer.BLENDS[found.how] == made.blend
  assert vars(found.steps) == made.q_steps._asdict()
  for name in ('base', 'cells', 'shape', 'fine'):
    np.testing.assert_array_equal(getattr(found, name), getattr(made, name))
  np.testing.assert_array_equal(found.colour, made.color)
  assert found.coding == (made.vectors is not None)
  for group, books, indices in zip(made.vectors or (), found.books, found.indices):
    for book, other in zip(group.books, books, strict=True):
      np.testing.assert_array_equal(book, other)
    np.testing.assert_array_equal(group.index.T, indices)


def in_layers(made, count):
  """Returns a payload with layers, dealt out in turn but for the first."""
  numbers = np.minimum(np.arange(len(made.cells)) % (count + 1), count - 1)
  return made._replace(layers=numbers)


def agree(made):
  """Asserts that both decode the file of a payload to it, and to the same pixels."""
  data, _ = container.pack(made)
  found = reference.decode(data)
  for layer, part in zip(found.layers, quality_layers.split(made), strict=True):
    assert_alike(layer, part)
  pixels = container.decode(data)
  np.testing.assert_array_equal(found.pixels, pixels)
  return data, pixels


@pytest.mark.parametrize('channels', [1, 3])
@pytest.mark.parametrize('blend', integer.BLENDS)
@pytest.mark.parametrize('covariance', integer.COVARIANCES)
def test_both_decoders_agree_on_files(covariance, blend, channels):
  for seed, (sides, count) in enumerate(SIZES):
    made = make_payload((*sides, channels), count, covariance, blend, seed)
    agree(made)
    agree(coded(made, (5, 1, 3, 2)[: 1 + seed % 4], seed))


@pytest.mark.parametrize('count', [2, 3, 4])
def test_both_decoders_agree_on_layers(count):
  for seed, (covariance, blend) in enumerate(
    itertools.product(integer.COVARIANCES, integer.BLENDS)
  ):
    made = in_layers(
      make_payload((20, 13, (1, 3)[seed % 2]), 70, covariance, blend, seed), count
    )
    data, pixels = agree(made)
    held = container.unpack(data)
    for part, other in zip(
      quality_layers.split(held), quality_layers.split(made), strict=True
    ):
      for name in ('cells', 'fine', 'shape', 'color'):
        np.testing.assert_array_equal(getattr(part, name), getattr(other, name))
    # all layers make the image, in any order
    np.testing.assert_array_equal(integer.render(made), pixels)


def test_layers_of_two_images_are_refused():
  made = make_payload((20, 13, 3), 70)
  parts = quality_layers.split(in_layers(made, 2))
  other = parts[1]._replace(base=parts[1].base ^ 1)
  for two in (
    other,
    coded(parts[1], (3,)),
    parts[1]._replace(q_steps=made.q_steps._replace(luma=77)),
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
  color = rng.integers(-most, most + 1, made.color.shape)
  white = integer.whiten(made.covariance, made.q_steps, shape)
  bits = integer.count_fine_bits(white, made.q_steps.fine)
  fine = rng.integers(0, 1 << bits)
  return made._replace(shape=shape, color=color, fine=fine)


@pytest.mark.parametrize('covariance', integer.COVARIANCES)
@pytest.mark.parametrize('log', [1, 5, 64])
def test_both_decoders_agree_on_codes_and_steps_of_all_sizes(covariance, log):
  rng = np.random.default_rng(log)
  for seed, most in enumerate((63, 64, 400, 2047)):
    steps = integer.QSteps(log, *rng.integers(1, 1025, 3).tolist(), 5 * seed)
    made = make_payload((11, 13, 3), 40, covariance, seed=seed)._replace(q_steps=steps)
    made = random_codes(made, most, seed)
    agree(made)
    books = [made.shape[:9], made.shape[9:11]], [made.color[:7], made.color[7:12]]
    both = (made.shape, made.color)
    both = tuple(vectors.assign_entries(b, codes) for b, codes in zip(books, both))
    shape, color = (group.codes for group in both)
    white = integer.whiten(covariance, steps, shape)
    fine = made.fine & (1 << integer.count_fine_bits(white, steps.fine)) - 1
    agree(made._replace(shape=shape, color=color, fine=fine, vectors=both))


def same_place(count, size=(2, 3, 3), blend='normalized'):
  """Gaussians of one shape, without bits for it, in few pixels."""
  made = make_payload(size, count, blend=blend)
  return made._replace(
    shape=0 * made.shape, fine=0 * made.fine, q_steps=made.q_steps._replace(fine=0)
  )


@pytest.mark.parametrize('blend', integer.BLENDS)
def test_both_decoders_agree_on_many_gaussians_in_few_pixels(blend):
  made = same_place(600, blend=blend)
  agree(made)  # more than 255 in a half
  # the least number of bytes for so many
  filled = same_place(2000, (1, 1, 1), blend)
  filled = filled._replace(color=0 * filled.color)
  data, _ = agree(filled)
  header, (codes,) = bitstream.read(data, known=None)
  assert len(codes.payload) == -(-2000 // stream.GAUSSIANS_PER_BYTE)
  short = bitstream.Section(bitstream.CODES, codes.payload[:-1])
  with pytest.raises(BitstreamError, match='2000 Gaussians'):
    container.decode(bitstream.write(header, [short]))


def test_sums_of_the_largest_colors_are_exact():
  """Which cancel: any rounding of a sum would be seen."""
  most, rng = vectors.MAX_CODE, np.random.default_rng(0)
  made = same_place(1200, (1, 1, 3))
  color = rng.choice([-most, most], made.color.shape)
  color[600:] = -color[:600]
  made = made._replace(
    color=color, q_steps=made.q_steps._replace(luma=1024, chroma=1024)
  )
  agree(made)
  assert abs(integer.to_rgb(made.color, made.q_steps)).max() == integer.MAX_COLOR
  largest = positions.MAX_POINTS * lookup.weight_table()[0] * integer.MAX_COLOR
  assert largest + 2**38 < 2**53


@pytest.mark.parametrize(
  'made',
  [
    wide(40),
    wide(30)._replace(covariance='rotation', shape=np.tile([120, 60, 7], (30, 1))),
    make_payload((12000, 9000, 1), 5),
    make_payload((45, 70, 3), 1200, seed=1),
    large(40),
  ],
  ids=['wide', 'long', 'large', 'many', 'codebooks'],
)
def test_both_decoders_agree_on_numbers_of_large_files(made):
  if made.covariance == 'rotation':
    white = integer.whiten(made.covariance, made.q_steps, made.shape)
    made = made._replace(fine=made.fine & (1 << integer.count_fine_bits(white, 9)) - 1)
  data, _ = container.pack(made)
  assert_alike(reference.unpack(data)[0], made)


@pytest.mark.parametrize('sort', ['scalar', 'vector', 'layers'])
def test_both_decoders_refuse_the_same_files(sort):
  made = make_payload((5, 6, 1), 3)
  made = {
    'scalar': made, 'vector': coded(made, (2, 1)), 'layers': in_layers(made, 2)
  }[sort]  # fmt: skip
  data, _ = container.pack(made)
  images = refused = 0
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
      images += 1
      np.testing.assert_array_equal(reference.decode(damaged).pixels, pixels)
  assert images > 2 and refused > 20


def test_tables_are_those_of_exact_arithmetic():
  found = [reference.turn(k) for k in range(4096)]
  np.testing.assert_array_equal(lookup.circle(), found)
  found = [reference.root(k) for k in range(lookup.MIN_LOG, lookup.MAX_LOG + 1)]
  np.testing.assert_array_equal(lookup.inverse_scales(), found)
  found = [reference.weight(i) for i in range(8193)]
  np.testing.assert_array_equal(lookup.weight_table(), found)
  shared = laplace.make(126)
  for level, mean in itertools.product(range(laplace.LEVELS), (-16, 3)):
    table = laplace.freqs(shared, np.array([level]), np.array([mean]), -63, 63)[0]
    assert table.tolist() == reference.laplace(level, mean)
  for n, a in itertools.product((1, 2, 17, 254, 255, 256, 999), range(1, 16)):
    assert positions.make_table(n, a).tolist() == reference.halves(n, a)
