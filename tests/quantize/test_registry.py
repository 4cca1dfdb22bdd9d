"""The contract that every quantiser keeps, and errors that name the thing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ba_machine import jit

from codax.errors import CodaxError
from codax.quantize import REGISTRY, base, get

KEY = jax.random.key(0)
Z = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 6)), jnp.float32)
HARD = sorted(set(REGISTRY) - {'ba_reference'})


@functools.cache
def ready(name):
  q = get(name, num_codes=5, groups=2)
  params, state = jit(q.init)(KEY, Z.reshape(-1, 6))
  return q, params, state


@functools.cache
def output(name, train):
  q, params, state = ready(name)
  f = functools.partial(q.quantize, train=train)
  return jit(f)(params, state, Z, rng=KEY, step=3)


@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('name', REGISTRY)
def test_shapes_and_dtypes(name, train):
  q, params, state = ready(name)
  out = output(name, train)
  assert out.values.shape == Z.shape and out.values.dtype == jnp.float32
  assert out.codes.shape == (2, 4, 4, 2) and out.codes.dtype == jnp.int32
  assert 0 <= out.codes.min() and out.codes.max() < 5
  for scalar in (*out.losses.values(), *out.stats.values()):
    assert scalar.shape == () and np.isfinite(scalar)
  describe = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert describe(out.state) == describe(state)  # a scan can carry it
  prior = q.code_prior(out.state)
  assert prior.shape == (2, 5) and (prior >= 0).all()
  np.testing.assert_allclose(prior.sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize('name', REGISTRY)
def test_evaluation_leaves_the_state_untouched(name):
  _, _, state = ready(name)
  jax.tree.map(np.testing.assert_array_equal, output(name, False).state, state)
  trained = jax.tree.leaves(output(name, True).state)
  assert any((a != b).any() for a, b in zip(trained, jax.tree.leaves(state)))


@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('name', HARD)
def test_what_is_decoded_is_what_was_sent(name, train):
  q, params, state = ready(name)
  out = output(name, train)
  np.testing.assert_array_equal(q.decode(params, state, out.codes), out.values)


@pytest.mark.parametrize('name', REGISTRY)
def test_revive_keeps_the_structure(name):
  q, params, state = ready(name)
  new_params, new_state, moved = jax.eval_shape(q.revive, params, state, KEY)
  same = lambda a, b: jax.tree.map(jnp.shape, a) == jax.tree.map(jnp.shape, b)
  assert same(new_params, params) and same(new_state, state) and same(moved, params)
  assert all(m.dtype == bool for m in jax.tree.leaves(moved))


@pytest.mark.parametrize('name', REGISTRY)
@pytest.mark.parametrize('codes,groups', [(1, 1), (7, 3)])
def test_num_codes_and_groups(name, codes, groups):
  q = get(name, num_codes=codes, groups=groups)
  z = Z.reshape(-1, 6)

  def both(key, z):
    params, state = q.init(key, z)
    out = q.quantize(params, state, z, train=True, rng=key)
    return out, q.code_prior(out.state)

  out, prior = jax.eval_shape(both, KEY, z)
  assert out.codes.shape == (32, groups) and prior.shape == (groups, codes)


@pytest.mark.parametrize('name', REGISTRY)
def test_latents_that_do_not_split_are_refused(name):
  with pytest.raises(CodaxError, match='6 is not a multiple of groups = 4'):
    get(name, groups=4).init(KEY, Z.reshape(-1, 6))


def test_unknown_quantiser_names_the_nearest():
  with pytest.raises(CodaxError, match="'vq_emma'.*did you mean 'vq_ema'"):
    get('vq_emma')


@pytest.mark.parametrize('name', REGISTRY)
def test_unknown_knob_names_the_nearest(name):
  with pytest.raises(CodaxError, match="'num_code'.*did you mean 'num_codes'") as e:
    get(name, num_code=3)
  assert '\n' not in str(e.value)


BAD = [
  (REGISTRY, {'num_codes': 0}, 'num_codes = 0'),
  (REGISTRY, {'num_codes': 2.5}, 'num_codes = 2.5'),
  (REGISTRY, {'num_codes': '8'}, "num_codes = '8'"),
  (REGISTRY, {'groups': -1}, 'groups = -1'),
  (REGISTRY, {'commitment': -0.1}, 'commitment = -0.1'),
  (REGISTRY, {'commitment': float('nan')}, 'commitment = nan'),
  (['vq_ema'], {'decay': 1.0}, 'decay = 1.0'),
  (['vq_ema'], {'start': 'kmean'}, "did you mean 'kmeans'"),
  (['vq_ema', 'blahut_arimoto'], {'estimator': 'rotate'}, "did you mean 'rotation'"),
  (['vq_ema', 'blahut_arimoto'], {'revive_below': 1.5}, 'revive_below = 1.5'),
  (['ba_reference'], {'epochs': 0}, 'epochs = 0'),
  (['blahut_arimoto', 'ba_reference'], {'iterations': 0}, 'iterations = 0'),
  (['blahut_arimoto'], {'balance': 1.2}, 'balance = 1.2'),
  (['blahut_arimoto'], {'beta_end': 0}, 'beta_end = 0'),
  (['blahut_arimoto'], {'beta_schedule': 'cosin'}, "did you mean 'cosine'"),
  (['blahut_arimoto'], {'codebook': 'emma'}, "did you mean 'ema'"),
  (['blahut_arimoto'], {'codes': 'stochastic'}, 'stochastic_steps'),
  (['blahut_arimoto'], {'revive_to': 'dat'}, "did you mean 'data'"),
  (['blahut_arimoto'], {'marginal_decay': 1.0}, 'marginal_decay = 1.0'),
  (['blahut_arimoto'], {'target_bits': 9.0}, 'num_codes = 256'),
  (['blahut_arimoto'], {'chunk': -1}, 'chunk = -1'),
]


@pytest.mark.parametrize('names,knobs,says', BAD)
def test_bad_knobs_are_refused(names, knobs, says):
  for name in names:
    with pytest.raises(CodaxError) as e:
      get(name, **knobs)
    assert says in str(e.value) and '\n' not in str(e.value)


def test_groups_are_slices_of_the_channels():
  groups = base.split_groups(Z, 3)
  assert groups.shape == (3, 32, 2)
  np.testing.assert_array_equal(groups[1], Z.reshape(-1, 6)[:, 2:4])
  np.testing.assert_array_equal(base.merge_groups(groups, Z.shape), Z)
  codes = base.merge_codes(jnp.arange(64).reshape(2, 32), (2, 4, 4))
  assert codes.shape == (2, 4, 4, 2) and codes[1, 2, 3].tolist() == [27, 59]


def test_entropy_is_the_mean_over_the_groups():
  p = jnp.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
  np.testing.assert_allclose(base.mean_entropy_bits(p), 0.5)
