"""Decoding in integers against float64, and files against what was put into them."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import example, given, settings
from test_splat_render import covariance_matrix, oracle

from codax import bitstream
from codax.bitstream import BitstreamError
from codax.splat import describe, fit_config, quantization, render
from codax.splat.format import (
  container,
  contexts,
  integer,
  lookup,
  pairs,
  positions,
  stream,
)

STEPS = integer.QSteps(5, 7, 14, 18, 9)


def make_payload(
  size=(45, 70, 3),
  count=60,
  covariance='cholesky',
  blend='normalized',
  seed=0,
  q_steps=STEPS,
):
  """Returns a random payload, in the order of coding."""
  rng = np.random.default_rng(seed)
  h, w, channels = size
  cells = np.stack([rng.integers(0, w, count), rng.integers(0, h, count)], 1)
  cells = cells[positions.order(cells, (h, w))]
  log = 64 // q_steps.log
  shape = np.stack(
    [rng.integers(0, 3 * log, count), rng.integers(0, 3 * log, count),
     rng.integers(-16, 17, count)], 1,
  )  # fmt: skip
  if covariance == 'rotation':
    q_steps = q_steps._replace(third=128)
    shape[:, 1] = rng.integers(-log // 2, log // 2, count)
  color = rng.integers(-8, 9, (count, channels))
  color[:, 0] = rng.integers(0, 70, count) // (1 if blend == 'normalized' else 4)
  base = rng.integers(0, 256, channels).astype(np.uint8)
  white = integer.whiten(covariance, q_steps, shape)
  fine = rng.integers(0, 1 << integer.count_fine_bits(white, q_steps.fine))
  return integer.Payload(
    size, covariance, blend, q_steps, base, cells, fine, shape, color
  )


def floats(made):
  """(xy, shape, color in levels, base) of a payload, float64."""
  white = integer.whiten(made.covariance, made.q_steps, made.shape)
  bits = integer.count_fine_bits(white, made.q_steps.fine)
  xy = made.cells + (made.fine + 0.5) / 2.0**bits
  units = quantization.make_units(made.covariance, made.q_steps, made.size[2])
  shape = made.shape * units.shape.astype(float)
  color = made.color * units.color.astype(float)
  color = np.asarray(quantization.to_pixels(color)) * 255
  return xy, shape, color, made.base.astype(float)


@pytest.mark.parametrize('blend', integer.BLENDS)
@pytest.mark.parametrize('covariance', integer.COVARIANCES)
@pytest.mark.parametrize('channels', [1, 3])
def test_decoded_pixels_are_those_of_the_definition(covariance, blend, channels):
  made = make_payload((45, 70, channels), covariance=covariance, blend=blend)
  expected = np.clip(
    oracle(covariance, blend, *floats(made), size=made.size[:2]), 0, 255
  )
  error = np.abs(integer.render(made) - expected)
  assert error.mean() < 0.26 and np.quantile(error, 0.99) < 0.6
  assert error.max() < 6  # where weights are almost nothing


@pytest.mark.parametrize('covariance', integer.COVARIANCES)
def test_whitening_matrices_are_roots_of_precisions(covariance):
  made = make_payload(covariance=covariance, count=300)
  white = integer.whiten(covariance, made.q_steps, made.shape) / 2.0**lookup.WHITE
  for w, shape in zip(white, floats(made)[1], strict=True):
    expected = np.linalg.inv(covariance_matrix(covariance, shape)) / (2 * np.log(2))
    np.testing.assert_allclose(w.T @ w, expected, rtol=1e-3, atol=1e-5)


def test_weights_fall_from_one_to_nothing():
  table = lookup.weight_table()
  expected = 2**15 * (2.0 ** (-np.arange(8193) / 1024) - 2.0**-8)
  np.testing.assert_allclose(table, expected, atol=0.51)
  assert table[-1] == 0 and np.all(np.diff(table) <= 0)


def test_tiles_beyond_the_reach_add_nothing():
  """As if every Gaussian were in every tile."""
  made = make_payload(count=40, seed=4)
  white = integer.whiten(made.covariance, made.q_steps, made.shape)
  whole = white * 0 + np.eye(2, dtype=np.int64)  # reaches everything
  real = integer.compute_reaches
  try:
    integer.compute_reaches = lambda w: real(whole)
    expected = integer.render(made)
  finally:
    integer.compute_reaches = real
  np.testing.assert_array_equal(integer.render(made), expected)


@given(
  st.integers(1, 60), st.integers(1, 60), st.integers(1, 200), st.sampled_from((1, 3)),
  st.sampled_from(integer.COVARIANCES), st.integers(0, 9),
)  # fmt: skip
@settings(max_examples=30)
@example(1, 1, 1, 1, 'cholesky', 0)
@example(60, 60, 200, 3, 'rotation', 0)
@example(1, 60, 200, 1, 'cholesky', 0)
def test_coded_payload_is_decoded_unchanged(h, w, count, channels, covariance, seed):
  made = make_payload((h, w, channels), count, covariance, seed=seed)
  payload, bits = stream.encode(made)
  assert_same(stream.decode(payload, made.size), made)
  assert abs(8 * len(payload) - bits.total) < 100


def assert_same(found, made):
  for a, b in zip(found, made, strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('count', [1, 63, 65, 1025, 4500, 7000, 10500])
def test_prefix_has_the_gaussians_of_the_first_passes(count, monkeypatch):
  """For every prefix that is listed, those of `contexts.passes`."""
  made = make_payload((90, 120, 1), count)
  payload, _ = stream.encode(made)
  _, marks = stream.decode_with_marks(payload, made.size)
  order, drawn = contexts.split_passes(count), []
  monkeypatch.setattr(
    integer, 'render', lambda part, wider: drawn.append((part, wider))
  )
  for turn, (listed, _) in enumerate(marks):
    integer.render_prefix(made, listed)
    some = np.sort(np.concatenate(order[: turn + 1]))
    part, wider = drawn[-1]
    assert len(part.cells) == listed == len(some)
    for name in ('cells', 'fine', 'shape', 'color'):
      np.testing.assert_array_equal(getattr(part, name), getattr(made, name)[some])
    # half an octave for every second one that is missing
    assert wider == 32 * (len(order) - 1 - turn)
  assert len(drawn) == len(order)


def test_neighbours_save_bits():
  """Colors that depend on the place cost less than the same ones shuffled."""
  made = make_payload((256, 256, 3), 800, seed=2)
  rng = np.random.default_rng(0)
  smooth = made.cells.sum(1) // 8 + rng.integers(0, 2, 800)
  color = np.stack([smooth, 0 * smooth, 0 * smooth], 1)
  bits = stream.encode(made._replace(color=color))[1].color[0]
  shuffled = stream.encode(made._replace(color=rng.permutation(color)))[1].color[0]
  assert bits < 0.6 * shuffled


def test_description_lists_prefixes_and_codebooks():
  made = make_payload((256, 256, 3), 800)
  data, _ = container.pack(made)
  facts = describe.describe(data)
  assert facts['gaussians'] == 800 and facts['render'] == 'normalized'
  prefixes = facts['prefixes']
  assert [p['gaussians'] for p in prefixes] == [50, 100, 200, 400, 800]
  sizes = [p['bytes'] for p in prefixes]
  assert sizes == sorted(sizes) and sizes[-1] < len(data)
  assert integer.render_prefix(made, 800).shape == made.size
  np.testing.assert_array_equal(integer.render_prefix(made, 800), integer.render(made))


def wide(count, size=(1500, 1500, 3)):
  """Gaussians as wide as they can be, of few bits."""
  made = make_payload(size, count)
  shape = np.tile(np.array([10, 10, 0]) * 12, (count, 1))
  return made._replace(
    shape=shape, fine=np.zeros((count, 2), int), color=0 * made.color
  )


def test_wide_gaussians_take_bytes_for_their_work():
  made = wide(40)
  data, bits = container.pack(made)
  # zeros are among them
  assert bits.side > bits.total / 2 and abs(8 * len(data) - bits.total) < 32 * 8
  np.testing.assert_array_equal(container.unpack(data).cells, made.cells)
  parsed = bitstream.read(data, known=None)
  payload = parsed[1][0].payload
  short = bitstream.write(
    parsed[0], [bitstream.Section(bitstream.CODES, payload[: len(payload) // 2])]
  )
  with pytest.raises(BitstreamError, match='their work asks for'):
    container.decode(short)


def test_large_image_takes_bytes_for_its_tiles():
  made = make_payload((12000, 12000, 1), 5)
  data, _ = container.pack(made)
  tiles = (12000 // 16) ** 2
  assert len(data) > (tiles - stream.FREE_TILES) / stream.TILES_PER_BYTE
  with pytest.raises(BitstreamError, match='tiles'):
    stream.decode(b'\x80' * 100, (60000, 4000, 3))


def test_many_gaussians_take_a_least_number_of_bytes():
  made = make_payload((1, 1, 1), 60000)
  made = made._replace(
    shape=0 * made.shape, color=0 * made.color, fine=0 * made.fine,
    q_steps=STEPS._replace(fine=0),
  )  # fmt: skip
  payload, bits = stream.encode(made)
  assert len(payload) == 60000 // stream.GAUSSIANS_PER_BYTE
  assert bits.total == pytest.approx(8 * len(payload), rel=0.05)
  assert len(stream.decode(payload, made.size).cells) == 60000
  with pytest.raises(BitstreamError, match='60000 Gaussians'):
    stream.decode(payload[:-1], made.size)


def test_image_rendered_in_bands_has_the_same_pixels(monkeypatch):
  made = make_payload((150, 120, 3), 60)
  whole = integer.render(made)
  first, sides = np.array([[0, 0], [2, 1]]), np.array([[3, 4], [1, 2]])
  # pairs of the rows: 3, 4, 4, 3 and none
  assert pairs.split_bands(first, sides, 5) == [(0, 5)]
  monkeypatch.setattr(pairs, '_BAND', 7)
  assert pairs.split_bands(first, sides, 5) == [(0, 1), (1, 3), (3, 5)]
  monkeypatch.setattr(pairs, '_BAND', 50)
  np.testing.assert_array_equal(integer.render(made), whole)


@pytest.mark.parametrize('third', [1, 2, 3, 128])
def test_angles_beyond_the_codes_are_turned_back_by_half_turns(third):
  """Training turns Gaussians as far as it likes; a half turn makes no difference."""
  rng = np.random.default_rng(0)
  angle = rng.uniform(-40, 40, 200)
  shape = np.stack([np.full(200, 2.0), np.full(200, 0.5), angle], 1)
  one = render.Gaussians(
    rng.uniform(0, 16, (200, 2)).astype(np.float32), shape.astype(np.float32),
    np.zeros((200, 1), np.float32), np.zeros(1, np.float32),
  )  # fmt: skip
  chosen = fit_config.FitConfig(
    covariance='rotation', q_steps=STEPS._replace(third=third)
  )
  made = quantization.to_payload(chosen, one, (16, 16, 1))
  found = made.shape[:, 2] * third * np.pi / 4096
  wanted = angle[quantization.sort_for_coding(one, (16, 16, 1))]
  beside = np.abs((found - wanted + np.pi / 2) % np.pi - np.pi / 2)
  # a step more at the end of the codes, which is not quite a half turn
  assert beside.max() <= 1.51 * third * np.pi / 4096 + 1e-5
  near = np.abs(wanted) < 2047 * third * np.pi / 4096
  np.testing.assert_allclose(found[near], wanted[near], atol=third * np.pi / 4096)
