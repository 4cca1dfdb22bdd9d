"""The fixed-point context model: files, agreement with the float twin, savings."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from codax.bitstream import BitstreamError
from codax.entropy import context, context_coder, fixed_point, tables
from codax.errors import CodaxError

CONFIGS = {
  'plain': context.ContextConfig(9, hidden=6, embed=3),
  'groups': context.ContextConfig(5, groups=3, hidden=4, layers=(6,), embed=2),
  'wide': context.ContextConfig(
    4, groups=2, offsets=((-1, 3), (-2, -1), (0, -2)), hidden=3, embed=2
  ),
  'row': context.ContextConfig(3, offsets=((0, -1),), hidden=3, embed=2),
  'single': context.ContextConfig(1, hidden=3, embed=2),
}


def random_context(name, seed=0):
  config = CONFIGS[name]
  rng = np.random.default_rng(seed)
  params = context.init(jax.random.key(seed), config)
  params = jax.tree.map(
    lambda x: np.asarray(x) + 0.3 * rng.normal(size=x.shape), params
  )
  return params, config, context_coder.to_int(params, config)


MODELS = {name: random_context(name) for name in CONFIGS}


@settings(max_examples=30)
@given(
  st.sampled_from(sorted(CONFIGS)),
  st.integers(1, 9),
  st.integers(1, 9),
  st.integers(0, 2**32),
)
def test_codes_round_trip_at_their_ideal_length(name, height, width, seed):
  _, config, model = MODELS[name]
  rng = np.random.default_rng(seed)
  codes = rng.integers(0, config.codes, (height, width, config.groups))
  data, bits = context_coder.encode(model, codes)
  assert abs(8 * len(data) - bits) <= 64
  decoded = context_coder.decode(model, data, height, width)
  assert decoded.dtype == np.int32
  np.testing.assert_array_equal(decoded, codes)


@pytest.mark.parametrize('name', ['plain', 'groups', 'wide', 'row'])
def test_bits_are_close_to_the_float_twin(name):
  params, config, model = MODELS[name]
  codes = np.random.default_rng(1).integers(0, config.codes, (12, 10, config.groups))
  _, bits = context_coder.encode(model, codes)
  bits_of = jax.jit(context.bits, static_argnums=1)
  expected = float(bits_of(params, config, codes[None].astype(np.int32)).sum())
  assert bits == pytest.approx(expected, rel=2e-3)


def test_waves_give_the_tables_of_raster_order():
  # One position at a time in raster order, each network run at batch size one.
  _, config, model = MODELS['groups']
  codes = np.random.default_rng(2).integers(0, 5, (6, 7, 3))
  seen = {}

  def step(positions, freqs):
    for at, row in zip(positions.tolist(), freqs):
      assert at not in seen
      seen[at] = row
    return codes.reshape(-1)[positions]

  np.testing.assert_array_equal(context_coder.walk(model, 6, 7, step), codes)
  for y, x, g in np.ndindex(6, 7, 3):
    row = []
    for dy, dx in config.offsets:
      inside = y + dy >= 0 and 0 <= x + dx < 7
      for other in range(3):
        row.append(model.embed[other, codes[y + dy, x + dx, other] if inside else 5])
    row += [model.embed[other, codes[y, x, other]] for other in range(g)]
    logits = fixed_point.apply_int(model.mlps[g], np.concatenate(row)[None])
    expected = tables.logits_to_freqs(logits)[0]
    np.testing.assert_array_equal(seen[(y * 7 + x) * 3 + g], expected)


def test_blocks_of_any_size_change_nothing(monkeypatch):
  _, config, model = MODELS['groups']
  codes = np.random.default_rng(3).integers(0, 5, (9, 8, 3))
  data, _ = context_coder.encode(model, codes)
  monkeypatch.setattr(context_coder, '_BLOCK', 10)
  assert context_coder.encode(model, codes)[0] == data


def test_model_from_its_arrays_is_the_same():
  for _, config, model in MODELS.values():
    arrays = context_coder.to_arrays(model)
    assert all(a.dtype.kind == 'i' for a in arrays.values())
    again = context_coder.from_arrays(arrays)
    assert again.config == config
    codes = np.random.default_rng(4).integers(0, config.codes, (5, 4, config.groups))
    data, bits = context_coder.encode(model, codes)
    assert context_coder.encode(again, codes) == (data, bits)


@pytest.mark.parametrize(
  'name, value',
  [
    ('sizes', None),
    ('sizes', np.array([5, 3, 4])),
    ('sizes', np.array([5.0, 3, 4, 2])),
    ('sizes', np.array([5, -3, 4, 2])),
    ('sizes', np.array([2**31 - 1, 3, 4, 2])),
    ('sizes', np.array([5, 2, 4, 2])),
    ('sizes', np.array([5, 3, 5, 2])),
    ('offsets', np.array([[0, 1]])),
    ('offsets', np.array([0, -1])),
    ('offsets', np.array([[0, -1]])),
    ('layers', np.array([7])),
    ('layers', None),
    ('embed', None),
    ('embed', np.zeros((3, 5, 2), int)),
    ('embed', np.zeros((3, 6, 2))),
    ('embed', np.full((3, 6, 2), 2**31 - 1)),
    ('group_1/kernel_0', None),
    ('group_1/bounds', np.array([1, 5])),
    ('group_1/bounds', np.array([2**50, 5])),
    ('group_3/kernel_0', np.zeros((2, 2), int)),
    ('other', np.zeros(2, int)),
  ],
)
def test_hostile_arrays_are_refused(name, value):
  arrays = context_coder.to_arrays(MODELS['groups'][2])
  if value is None:
    del arrays[name]
  else:
    arrays[name] = value
  with pytest.raises(CodaxError):
    context_coder.from_arrays(arrays)


def test_damage_is_an_error_or_other_valid_codes():
  _, config, model = MODELS['plain']
  codes = np.random.default_rng(5).integers(0, 9, (3, 4, 1))
  data, _ = context_coder.encode(model, codes)
  bad = [data[:i] for i in range(len(data))] + [data + b'\0', data + b'\1']
  for i in range(len(data)):
    flips = (1, 2, 4, 8, 16, 32, 64, 128, 255)
    bad += [data[:i] + bytes([data[i] ^ x]) + data[i + 1 :] for x in flips]
  for broken in bad:
    try:
      got = context_coder.decode(model, broken, 3, 4)
    except BitstreamError:
      continue
    assert got.min() >= 0 and got.max() < 9 and (got != codes).any()


def test_payload_decoded_at_a_wrong_size_is_an_error():
  _, _, model = MODELS['plain']
  codes = np.random.default_rng(6).integers(0, 9, (6, 6, 1))
  data, _ = context_coder.encode(model, codes)
  for height, width in ((5, 6), (7, 6), (6, 5)):
    with pytest.raises(BitstreamError):
      context_coder.decode(model, data, height, width)
  with pytest.raises(CodaxError):
    context_coder.decode(model, data, 0, 6)


@pytest.mark.parametrize(
  'codes',
  [
    np.zeros((4, 4), int), np.zeros((4, 4, 2), int), np.zeros((0, 4, 1), int),
    np.full((2, 2, 1), 9), np.full((2, 2, 1), -1), np.zeros((2, 2, 1)),
  ],
)  # fmt: skip
def test_bad_codes_are_refused(codes):
  with pytest.raises(CodaxError):
    context_coder.encode(MODELS['plain'][2], codes)
  with pytest.raises(CodaxError):
    context_coder.encode_static(np.full((1, 8), 2**21), codes)


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 3), st.integers(1, 9))
def test_static_codes_round_trip_at_their_ideal_length(height, width, groups, k):
  rng = np.random.default_rng(height * 1000 + width * 100 + groups * 10 + k)
  freqs = tables.quantize_pmf(rng.dirichlet(np.ones(k), groups))
  codes = rng.integers(0, k, (height, width, groups))
  data, bits = context_coder.encode_static(freqs, codes)
  expected = -np.log2(freqs[np.arange(groups), codes] / 2**24).sum()
  assert bits == pytest.approx(expected)
  assert abs(8 * len(data) - bits) <= 64
  decoded = context_coder.decode_static(freqs, data, height, width)
  np.testing.assert_array_equal(decoded, codes)
  with pytest.raises(BitstreamError):
    context_coder.decode_static(freqs, data + b'\0', height, width)


def test_static_length_is_the_empirical_entropy():
  rng = np.random.default_rng(7)
  codes = rng.binomial(15, 0.3, (64, 64, 1))
  counts = np.bincount(codes.ravel(), minlength=16)
  p = counts[counts > 0] / counts.sum()
  data, _ = context_coder.encode_static(tables.quantize_pmf(counts[None]), codes)
  entropy = -(p * np.log2(p)).sum() * codes.size
  assert abs(8 * len(data) - entropy) <= 64


def smooth_codes(seed, count, size, k):
  """Indices of a smooth random field, shuffled so that their order says nothing."""
  rng = np.random.default_rng(seed)
  field = rng.normal(size=(count, size, size))
  field = ndimage.gaussian_filter(field, (0, 1.5, 1.5), mode='wrap')
  edges = np.quantile(field, np.linspace(0, 1, k + 1)[1:-1])
  shuffle = np.random.default_rng(99).permutation(k)
  return shuffle[np.digitize(field, edges)][..., None].astype(np.int32)


def test_trained_context_saves_bits_and_integers_lose_under_half_a_percent():
  k = 32
  config = context.ContextConfig(k, hidden=32, embed=8)
  train = jnp.asarray(smooth_codes(0, 8, 32, k))
  held_out = smooth_codes(1, 2, 32, k)
  counts = np.bincount(np.asarray(train).ravel(), minlength=k) + 1.0
  params = context.init(jax.random.key(0), config, prior=counts[None] / counts.sum())
  optimiser = optax.adam(1e-2)

  @jax.jit
  def train_all(params):
    def step(carry, _):
      params, state = carry
      grads = jax.grad(lambda p: context.bits(p, config, train).mean())(params)
      updates, state = optimiser.update(grads, state)
      return (optax.apply_updates(params, updates), state), None

    carry = (params, optimiser.init(params))
    return jax.lax.scan(step, carry, None, length=150)[0][0]

  params = train_all(params)
  model = context_coder.to_int(params, config)
  freqs = tables.quantize_pmf(counts[None])
  static = sum(context_coder.encode_static(freqs, c)[1] for c in held_out)
  integer = sum(8 * len(context_coder.encode(model, c)[0]) for c in held_out)
  real = float(jax.jit(context.bits, static_argnums=1)(params, config, held_out).sum())
  assert integer < 1.005 * real + 16
  assert integer < 0.9 * static
