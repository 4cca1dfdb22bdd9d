"""Composition of quantizers against the same arithmetic written out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantize_oracles import distances

from codax.errors import CodaxError
from codax.quantize import compose, exported, fsq, get, vq_ema
from codax.quantize.ops.straight_through import rotation_trick

KEY = jax.random.key(0)
Z = jnp.asarray(np.random.default_rng(0).normal(size=(64, 4)), jnp.float32)


def train(q, steps, z=Z):
  """Params, state and last output after `steps` on one batch."""
  params, state = jax.jit(q.init)(KEY, z)
  step = jax.jit(functools.partial(q.quantize, train=True))
  for i in range(steps):
    out = step(params, state, z, rng=KEY, step=i)
    state = out.state
  return params, state, step(params, state, z, rng=KEY, step=steps)


# --- residual -------------------------------------------------------------------------


def test_residual_stages_quantize_the_rest_of_those_before():
  q = get('vq_ema', num_codes=5, stages=3, commitment=0.5)
  params, state, out = train(q, 2)
  rest, loss = np.asarray(Z, np.float64), []
  for s in range(3):
    book = np.asarray(state[s].codebook[0], np.float64)
    codes = distances(rest, book).argmin(1)
    np.testing.assert_array_equal(out.codes[:, s], codes)
    rest = rest - book[codes]
    loss.append(0.5 * (rest**2).mean())
  np.testing.assert_allclose(out.values, np.asarray(Z) - rest, atol=1e-5)
  np.testing.assert_allclose(out.losses['commitment'], np.mean(loss), rtol=1e-4)


def test_each_residual_stage_lowers_the_error():
  errors = []
  for stages in (1, 2, 3):
    out = train(get('vq_ema', num_codes=8, stages=stages), 20)[2]
    errors.append(float(((out.values - Z) ** 2).mean()))
  assert errors[1] < 0.6 * errors[0] and errors[2] < 0.6 * errors[1]


def test_residual_passes_the_decoders_gradient_once():
  q = get('vq_ema', num_codes=5, stages=3, commitment=0.0)
  params, state = jax.jit(q.init)(KEY, Z)
  loss = lambda z: (q.quantize(params, state, z, train=True).values * Z).sum()
  np.testing.assert_allclose(jax.jit(jax.grad(loss))(Z), Z, atol=1e-6)


def test_residual_of_groups_orders_codes_stage_by_stage():
  q = get('vq_ema', num_codes=5, groups=2, stages=2)
  params, state, out = train(q, 1)
  first = jax.vmap(
    lambda book, x: ((x[:, None] - book[0][None]) ** 2).sum(-1).argmin(-1)
  )
  halves = jnp.stack([Z[:, :2], Z[:, 2:]])
  np.testing.assert_array_equal(out.codes[:, :2].T, first(state[0].codebook, halves))


def test_residual_of_a_quantizer_without_codebook_is_refused():
  with pytest.raises(CodaxError, match='stages > 1 needs a quantizer with a codebook'):
    get('fsq', levels=(3,) * 4, stages=2).init(KEY, Z)


# --- groups ---------------------------------------------------------------------------


def test_grouped_losses_and_stats_are_means_over_the_groups():
  q = get('vq_ema', num_codes=5, groups=2)
  params, state, out = train(q, 1)
  alone = get('vq_ema', num_codes=5)
  parts = [
    alone.quantize({}, jax.tree.map(lambda x: x[g], state), z, train=False)  # noqa: B023
    for g, z in enumerate((Z[:, :2], Z[:, 2:]))
  ]
  for kind in ('losses', 'stats'):
    for name, value in getattr(out, kind).items():
      mean = np.mean([getattr(part, kind)[name] for part in parts])
      np.testing.assert_allclose(value, mean, rtol=1e-5)


def test_grouped_gives_each_group_its_own_side_information():
  q = get('blahut_arimoto', num_codes=5, groups=2, beta_end=0.01, beta_steps=0)
  params, state = jax.jit(q.init)(KEY, Z)
  # at a small beta the code length decides alone: code 1 in group 0, 3 in group 1
  cheap = jnp.full((64, 2, 5), -20.0).at[:, 0, 1].set(0.0).at[:, 1, 3].set(0.0)
  quantize = jax.jit(functools.partial(q.quantize, train=False))
  out = quantize(params, state, Z, log_prior=cheap)
  np.testing.assert_array_equal(out.codes, np.tile([1, 3], (64, 1)))


def test_grouped_around_residual_is_a_mistake_of_the_program():
  inner = compose.residual(vq_ema.make(num_codes=5), 2)
  with pytest.raises(ValueError, match='not the other way round'):
    compose.grouped(inner, 2)


def test_one_group_and_one_stage_are_the_quantizer_itself():
  inner = vq_ema.make(num_codes=5)
  assert compose.grouped(inner, 1) is inner and compose.residual(inner, 1) is inner
  assert compose.with_revival(inner, below=0.0) is inner


# --- estimator ------------------------------------------------------------------------


@pytest.mark.parametrize('groups', [1, 2])
def test_with_estimator_changes_the_gradient_alone(groups):
  plain = get('vq_ema', num_codes=5, groups=groups, commitment=0.0)
  turned = get(
    'vq_ema', num_codes=5, groups=groups, commitment=0.0, estimator='rotation'
  )
  params, state = jax.jit(plain.init)(KEY, Z)

  def pull(q, z):
    out = q.quantize(params, state, z, train=True)
    return (out.values * Z[::-1]).sum(), out

  grads, out = jax.jit(jax.grad(lambda z: pull(turned, z), has_aux=True))(Z)
  other = jax.jit(functools.partial(pull, plain))(Z)[1]
  np.testing.assert_array_equal(out.values, other.values)
  np.testing.assert_array_equal(out.codes, other.codes)
  width = 4 // groups
  for g in range(groups):
    part = slice(g * width, (g + 1) * width)
    exact = jax.grad(
      lambda z: (rotation_trick(z, out.values[:, part]) * Z[::-1, part]).sum()  # noqa: B023
    )(Z[:, part])
    np.testing.assert_allclose(grads[:, part], exact, rtol=1e-5, atol=1e-6)


# --- finite scalar quantization -------------------------------------------------------


def test_fsq_rounds_to_the_nearest_level_of_each_channel():
  """Against the levels themselves, one channel at a time, in float64."""
  levels = (3, 4, 5, 2)
  q = get('fsq', levels=levels)
  params, state = jax.jit(q.init)(KEY, Z)
  out = jax.jit(functools.partial(q.quantize, train=True))(params, state, 2 * Z)
  code = np.zeros(64, int)
  for i, n in enumerate(levels):
    grid = np.linspace(-1, 1, n)
    bounded = np.tanh(2 * np.asarray(Z[:, i], np.float64))
    digit = np.abs(bounded[:, None] - grid).argmin(1)
    np.testing.assert_allclose(out.values[:, i], grid[digit], atol=1e-6)
    code = code * n + digit
  np.testing.assert_array_equal(out.codes[:, 0], code)


def test_fsq_gradient_is_that_of_the_bound():
  q = get('fsq', levels=(3,) * 4)
  params, state = jax.jit(q.init)(KEY, Z)
  loss = lambda z: (q.quantize(params, state, z, train=True).values * Z[::-1]).sum()
  exact = np.asarray(Z[::-1]) * (1 - np.tanh(np.asarray(Z)) ** 2)
  np.testing.assert_allclose(jax.jit(jax.grad(loss))(Z), exact, rtol=1e-4, atol=1e-6)


def test_fsq_prior_follows_the_codes():
  q = get('fsq', levels=(2,) * 4, decay=0.5)
  params, state, _ = train(q, 20)
  codes = q.quantize(params, state, Z, train=False).codes[:, 0]
  counts = np.bincount(codes, minlength=16) / 64
  np.testing.assert_allclose(q.code_prior(state)[0], counts, atol=1e-5)


@pytest.mark.parametrize(
  'levels',
  [
    None, np.ones((1, 2)), np.zeros((0, 2), np.int32), np.array([3, 4]),
    np.array([[3, 1]]), np.array([[2**31 - 1, 2**31 - 1]]), np.array([[-3, -3]]),
    np.array([[3, 4], [2, 5]]), np.full((2**12, 16), 2),
  ],
)  # fmt: skip
def test_fsq_levels_of_a_hostile_bundle_are_refused(levels):
  arrays = {} if levels is None else {'levels': levels}
  with pytest.raises(CodaxError, match='fsq'):
    fsq.codebook_from(arrays)


# --- exported arrays ------------------------------------------------------------------

BOOK = np.zeros((1, 4, 2), np.float32)


@pytest.mark.parametrize(
  'arrays',
  [
    {}, {'codebook': BOOK[0]}, {'codebook': BOOK[:, :0]}, {'codebook': BOOK + np.nan},
    {'codebook': BOOK, 'fsq/levels': np.array([[3]])}, {'vq_ema/codebook': BOOK},
    {'lfq/levels': np.array([[3]])}, {'residual/1/codebook': BOOK}, {'fsq/level': BOOK},
    {'residual/0/codebook': BOOK, 'residual/1/codebook': BOOK[:, :2]},
    {'residual/0/residual/0/codebook': BOOK}, {'residual': BOOK},
  ],
)  # fmt: skip
def test_arrays_that_form_no_quantizer_are_refused(arrays):
  with pytest.raises(CodaxError):
    exported.from_arrays(arrays)
