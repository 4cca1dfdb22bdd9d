"""Vector quantization of shapes and colors: codebooks, files, training."""

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from test_splat_integer import make_payload

from codax import families
from codax.bitstream import BitstreamError
from codax.entropy import range_coder, tables
from codax.metrics import distortion
from codax.splat import (
  codebooks,
  describe,
  encode,
  fit,
  fit_config,
  quantization,
  seeding,
  step,
)
from codax.splat.format import (
  container,
  contexts,
  integer,
  stream,
  vector_stream,
  vectors,
)
from codax.splat.format.symbols import put_uniform
from codax.splat.target import make_target

RECIPE = fit_config.FitConfig(
  coding='vector',
  rvq_stages=2,
  codebook_size=12,
  q_steps=integer.QSteps(2, 2, 5, 8, 9),
  adaptive_steps=False,
)
PLAN = encode.EncodeConfig(recipe=RECIPE, total=200, count=60)


def coded(made, entries=(9, 4), seed=0):
  """Returns the payload with the nearest entries of codebooks."""
  rng, out = np.random.default_rng(seed), []
  for codes in (made.shape, made.color):
    books = [codes[rng.integers(0, len(codes), entries[0])]]
    books += [rng.integers(-3, 4, (n, codes.shape[1])) for n in entries[1:]]
    out.append(vectors.assign_entries(tuple(books), codes))
  shape, color = (group.codes for group in out)
  bits = integer.count_fine_bits(
    integer.whiten(made.covariance, made.q_steps, shape), made.q_steps.fine
  )
  return made._replace(
    shape=shape, color=color, fine=made.fine & (1 << bits) - 1, vectors=tuple(out)
  )


def assert_same(found, made):
  for name in set(made._fields) - {'vectors', 'layers'}:
    np.testing.assert_array_equal(getattr(found, name), getattr(made, name))
  assert found.layers is None and made.layers is None
  for a, b in zip(found.vectors, made.vectors, strict=True):
    np.testing.assert_array_equal(a.index, b.index)
    for one, other in zip(a.books, b.books, strict=True):
      np.testing.assert_array_equal(one, other)


@given(
  st.integers(1, 50), st.integers(1, 50), st.integers(1, 200), st.sampled_from((1, 3)),
  st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(0, 9),
)  # fmt: skip
def test_coded_payload_is_decoded_unchanged(h, w, count, channels, entries, seed):
  made = coded(make_payload((h, w, channels), count, seed=seed), entries, seed)
  payload, bits = stream.encode(made)
  assert_same(stream.decode(payload, made.size), made)
  assert abs(8 * len(payload) - bits.total) < 100
  assert len(bits.shape) == len(bits.color) == len(entries)


def test_entries_at_the_limits_are_decoded_unchanged():
  most = vectors.MAX_CODE
  book = np.array([[most, -most, most], [-most, most, -most], [0, 0, 0], [0, 0, 0]])
  book = book[vectors.sort_entries(book)]
  encoder = range_coder.Encoder()
  vector_stream.put_books(encoder, (book,))
  found = vector_stream.get_books(range_coder.Decoder(encoder.finish()), 3)
  np.testing.assert_array_equal(found[0], book)
  twice = vectors.Vectors((book, book), np.full((1, 2), np.argmax(book[:, 0])))
  np.testing.assert_array_equal(twice.codes, [[most, -most, most]])


def test_assignment_is_the_nearest_stage_by_stage():
  rng = np.random.default_rng(0)
  points = rng.normal(0, 9, (50, 3))
  books = tuple(rng.integers(-20, 21, (n, 3)) for n in (7, 30))
  found = vectors.assign_entries(books, points)
  for point, code, index in zip(points, found.codes, found.index, strict=True):
    first = min(books[0].tolist(), key=lambda e: np.square(point - e).sum())
    left = point - first
    second = min(books[1].tolist(), key=lambda e: np.square(left - e).sum())
    np.testing.assert_array_equal(code, np.add(first, second))
    np.testing.assert_array_equal(found.books[0][index[0]], first)
  # every entry that is kept is used
  assert all(
    len(set(i)) == len(b) for b, i in zip(found.books, found.index.T, strict=True)
  )


def oracle_frequencies(seen, entries):
  """In exact Python integers, from all indices before."""
  weights = [1 + seen.count(k) for k in range(entries)]
  freqs = [1 + (2**24 - entries) * w // sum(weights) for w in weights]
  freqs[weights.index(max(weights))] += 2**24 - sum(freqs)
  return freqs


def test_indices_have_the_frequencies_of_the_passes_before():
  """The bits of a skewed stage, by the words of the format."""
  made = coded(make_payload((60, 60, 3), 150))
  rng = np.random.default_rng(1)
  skewed = np.minimum(rng.geometric(0.4, 150) - 1, 8)
  shape = made.vectors[0]._replace(index=np.stack([skewed, 0 * skewed], 1))
  entries = len(shape.books[0])
  skewed %= entries
  order = contexts.split_passes(150)
  spent = vector_stream.put_indices(range_coder.Encoder(), (shape,), order)
  seen, bits = [], 0.0
  for part in order:
    freqs = oracle_frequencies(seen, entries)
    bits += sum(24 - np.log2(freqs[k]) for k in skewed[part])
    seen += skewed[part].tolist()
  assert spent[0][0] == pytest.approx(bits)
  table = vector_stream.make_frequencies(np.bincount(seen, minlength=entries))
  assert table.tolist() == oracle_frequencies(seen, entries)
  tables.check_freqs(table)
  # a stage of which one entry alone is used costs little
  assert spent[0][1] < 150


@pytest.mark.parametrize('what', ['stages', 'entries'])
def test_too_many_stages_or_entries_are_refused(what):
  encoder = range_coder.Encoder()
  put_uniform(encoder, 3 if what == 'stages' else 0, 0, 3)
  if what == 'entries':
    put_uniform(encoder, 1023, 0, 1023)
  with pytest.raises(BitstreamError):
    vector_stream.get_books(range_coder.Decoder(encoder.finish()), 3)


def large(count):
  """Returns the largest codebooks, of equal entries: few bytes."""
  made = make_payload((20, 33, 3), count)
  index = np.zeros((count, vectors.MAX_STAGES), np.int64)
  books = (np.zeros((vectors.MAX_ENTRIES, 3), np.int64),) * vectors.MAX_STAGES
  group = vectors.Vectors(books, index)
  return made._replace(
    shape=group.codes, color=group.codes, fine=0 * made.fine, vectors=(group, group),
    q_steps=made.q_steps._replace(fine=0),
  )  # fmt: skip


def test_largest_codebooks_are_decoded_unchanged():
  made = large(9)
  data, _ = container.pack(made)
  assert_same(container.unpack(data), made)


def test_description_lists_prefixes_and_codebooks():
  made = coded(make_payload((256, 256, 3), 800), (30, 20))
  data, bits = container.pack(made)
  facts = describe.describe(data)
  assert facts['coding'] == 'vector'
  total = 0
  for name, group in zip(vectors.GROUPS, made.vectors, strict=True):
    found = facts['codebooks'][name]
    assert found['entries'] == [len(b) for b in group.books]
    total += found['bytes']
  assert 8 * total == pytest.approx(bits.books)
  assert [p['gaussians'] for p in facts['prefixes']] == [50, 100, 200, 400, 800]
  sizes = [p['bytes'] for p in facts['prefixes']]
  assert sizes == sorted(sizes) and sizes[-1] < len(data)
  plain = describe.describe(container.pack(make_payload())[0])
  assert plain['coding'] == 'scalar' and plain['codebooks'] == {}


@pytest.fixture(scope='module')
def fitted(image):
  return fit.run(image, 60, 200, RECIPE, 0)


@pytest.fixture(scope='module')
def encoded(image, fitted):
  return encode.encode_image(image, PLAN, initial_fit=fitted)


def test_decoded_file_is_the_reconstruction(image, encoded):
  np.testing.assert_array_equal(families.decode(encoded.data), encoded.reconstruction)
  assert abs(8 * len(encoded.data) - encoded.estimated_bits) < 64 * 8
  details = encoded.details
  assert details['psnr'] == distortion.psnr(image, encoded.reconstruction)
  for group in details['vectors'].values():
    assert len(group['entries']) == 2 and max(group['entries']) <= 12
  bits = details['bits']
  spent = sum(bits['shape']) + sum(bits['color']) + bits['books']
  assert details['attribute_ratio'] == pytest.approx(60 * 6 * 32 / spent)


def test_training_with_codebooks_beats_codebooks_of_a_finished_fit(image, encoded):
  details = encoded.details
  late = encode.encode_image(
    image, PLAN._replace(recipe=RECIPE._replace(qat_start=1.0))
  )
  assert details['psnr'] > late.details['psnr'] + 0.3
  assert details['psnr'] > details['psnr_rounded'] + 0.3


def test_codebooks_of_the_file_are_those_of_the_training(image, fitted, encoded):
  """Encoded again from the fit: the file has the values of the training."""
  gaussians = fitted.gaussians
  made = quantization.to_payload(RECIPE, gaussians, image.shape)
  assert_same(container.unpack(encoded.data), made)
  units = quantization.make_units(RECIPE.covariance, RECIPE.q_steps, 3)
  trained = quantization.quantize(RECIPE.covariance, units, gaussians)
  active = seeding.active_indices(gaussians)
  codes = np.asarray(trained.shape / units.shape[None])
  order = np.lexsort(np.round(codes[active]).T)
  np.testing.assert_allclose(
    codes[active][order], made.shape[np.lexsort(made.shape.T)], atol=1e-3
  )


def test_inactive_gaussians_do_not_influence_codebooks(image):
  """In the shapes of the fit, so that its programs are these."""
  rng = np.random.default_rng(0)
  start = seeding.init_gaussians(make_target(image), 60, RECIPE, rng)
  away = (start.xy[:, 0] < 0).astype(np.float32)[:, None]
  assert away.sum() >= 30
  other = start._replace(shape=start.shape + 50 * away, color=start.color - 9 * away)
  units = quantization.make_units(RECIPE.covariance, RECIPE.q_steps, 3)
  refreshed = jax.jit(lambda g: codebooks.update_codebooks(g, g.books, units))
  found = []
  for gaussians in (start, other):
    state = codebooks.init_codebooks(
      step.init_state(gaussians), RECIPE, np.random.default_rng(3)
    )
    found.append(refreshed(state.gaussians))
  for a, b in zip(*found, strict=True):
    for one, two in zip(a, b, strict=True):
      np.testing.assert_array_equal(one, two)
      assert np.array_equal(one, jnp.round(one))


def test_commitment_moves_values_to_those_of_the_file(image):
  rng = np.random.default_rng(0)
  start = seeding.init_gaussians(make_target(image), 60, RECIPE, rng)
  units = quantization.make_units('cholesky', RECIPE.q_steps, 3)
  near = quantization.quantize('cholesky', units, start)
  for share in (0.0, 0.25, 1.0):
    found = quantization.commit('cholesky', units, start, share)
    for name in ('shape', 'color'):
      a, b = getattr(start, name), getattr(near, name)
      expected = (1 - share) * a + share * b
      np.testing.assert_allclose(getattr(found, name), expected, atol=1e-6)


@pytest.mark.parametrize(
  ('count', 'given', 'entries'),
  [(60, 0, 60), (400, 0, 128), (500, 0, 256), (2000, 0, 256), (2001, 0, 512),
   (400, 32, 32), (9, 32, 9)],
)  # fmt: skip
def test_codebook_size_follows_the_number_of_gaussians(count, given, entries):
  assert codebooks.choose_size(RECIPE._replace(codebook_size=given), count) == entries


def test_scalar_coding_has_no_codebooks(image):
  rng = np.random.default_rng(0)
  state = step.init_state(seeding.init_gaussians(make_target(image), 60, RECIPE, rng))
  plain = fit_config.FitConfig()
  assert codebooks.init_codebooks(state, plain, rng) is state
  assert codebooks.update_codebooks(state.gaussians, None, None) is None
