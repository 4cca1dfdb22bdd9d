"""Dead codes move, mass is conserved, and nothing else changes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codax import averages
from codax.quantize import get
from codax.quantize.ops import revive

pair = jax.jit(revive.pair)
split_mass = jax.jit(revive.split_mass)
Z = jnp.asarray(np.random.default_rng(0).normal(size=(64, 4)), jnp.float32)


def uses(seed):
  return np.random.default_rng(seed).dirichlet(np.full(16, 0.1), 2).astype(np.float32)


@given(st.integers(0, 10**6), st.sampled_from([0.02, 0.3]))
def test_pairs_of_random_uses_conserve_mass(seed, below):
  use = uses(seed)
  moves = pair(use, below)
  dead, given_, donor = (np.asarray(x) for x in moves)
  shared = np.asarray(split_mass(use, moves))
  np.testing.assert_allclose(shared.sum(1), use.sum(1), rtol=1e-5)
  for g in range(2):
    donors = donor[g][dead[g]]
    assert (use[g][dead[g]] < below / 16).all()
    assert (use[g][donors] > 2 / 16).all()
    assert len(set(donors)) == len(donors)
    assert set(donors) == set(np.flatnonzero(given_[g]))
    assert not (dead[g] & given_[g]).any()
    np.testing.assert_array_equal(shared[g][dead[g]], shared[g][donors])
    both = use[g][dead[g]] + use[g][donors]
    np.testing.assert_allclose(2 * shared[g][dead[g]], both, rtol=1e-6)
    alone = ~dead[g] & ~given_[g]
    np.testing.assert_array_equal(shared[g][alone], use[g][alone])
    # a dead code stays only for want of donors
    left = ((use[g] < below / 16) & ~dead[g]).any()
    assert not left or len(donors) == (use[g] > 2 / 16).sum()


def test_split_codewords_puts_dead_codes_beside_their_donors():
  use = jnp.asarray(uses(3))
  moves = pair(use, 0.3)
  book = jnp.asarray(np.random.default_rng(1).normal(size=(2, 16, 3)), jnp.float32)
  for spread, scale in ((None, np.std(book, axis=1)), (jnp.full((2, 3), 10.0), 10.0)):
    out = np.asarray(revive.split_codewords(jax.random.key(0), book, moves, spread))
    dead = np.asarray(moves.dead)
    assert dead.sum() >= 4
    for g, k in zip(*np.nonzero(dead)):
      away = np.abs(out[g, k] - book[g, moves.donor[g, k]])
      limit = 0.05 * (scale if np.isscalar(scale) else scale[g])
      assert (0 < away).all() and (away < limit).all()
    np.testing.assert_array_equal(out[~dead], np.asarray(book)[~dead])


@functools.cache
def starved(name, below=0.1, to='split', **values):
  """A quantizer of 8 codes, two of which hold nearly everything."""
  revival = {'below': below, 'to': to}
  q = get(name, num_codes=8, revival=revival, **values)
  params, outer = jax.jit(q.init)(jax.random.key(0), Z)
  state = outer.inner if to == 'data' else outer
  use = jnp.array([[0.4, 0.001, 0.34, 0.05, 0.05, 0.05, 0.1, 0.009]])
  keep = lambda avg: avg._replace(total=use * avg.weight)
  if name == 'vq_ema':
    total = use * state.clusters.weight
    sums = state.codebook * total[..., None]
    clusters = state.clusters._replace(total=(total, sums))
    return q, params, state.replace(clusters=clusters)
  state = state.replace(counts=keep(state.counts), marginal=keep(state.marginal))
  if state.centroids is not None:
    total = use * state.centroids.weight
    sums = state.codebook * total[..., None]
    state = state.replace(centroids=state.centroids._replace(total=(total, sums)))
  return q, params, outer.replace(inner=state) if to == 'data' else state


DEAD, DONORS, REST = [1, 7], [0, 2], [3, 4, 5, 6]
KINDS = [
  ('vq_ema', {}),
  ('blahut_arimoto', {}),
  ('blahut_arimoto', {'codebook': 'free_energy'}),
  ('blahut_arimoto', {'balance': 0.5}),
  ('blahut_arimoto', {'to': 'data'}),
]


def book(q, params, state):
  return np.asarray(q.decode(params, state, jnp.arange(8)[:, None]))


@pytest.mark.parametrize('name,values', KINDS)
def test_revive_with_dead_codes_moves_them_alone(name, values):
  q, params, state = starved(name, **values)
  new_params, new, moved = jax.jit(q.revive)(params, state, jax.random.key(1))
  before, after = book(q, params, state), book(q, new_params, new)
  np.testing.assert_array_equal(after[DONORS + REST], before[DONORS + REST])
  if values.get('to') == 'data':
    near = ((after[DEAD][:, None] - np.asarray(Z)[None]) ** 2).sum(-1)
    assert (near.min(1) == 0).all() and len(set(near.argmin(1))) == len(DEAD)
  else:
    assert np.abs(after[DEAD] - before[DONORS]).max() < 0.06
    assert (after[DEAD] != before[DONORS]).any(1).all()
  prior = np.asarray(q.code_prior(new))[0]
  np.testing.assert_allclose(prior[DEAD], prior[DONORS], rtol=1e-6)
  np.testing.assert_allclose(prior[DEAD], [0.2005, 0.1745], rtol=1e-5)
  np.testing.assert_allclose(prior[REST], [0.05, 0.05, 0.05, 0.1], rtol=1e-5)
  assert jax.tree.structure(moved) == jax.tree.structure(params)
  for mask in moved.values():
    rows = np.asarray(mask)[0].all(-1)
    np.testing.assert_array_equal(np.flatnonzero(rows), DEAD)
    assert (np.asarray(mask)[0].any(-1) == rows).all()
  if name == 'vq_ema' or not params:  # the averages now say where the codes are
    new = new.inner if values.get('to') == 'data' else new
    kept = new.clusters if name == 'vq_ema' else new.centroids
    mass, sums = averages.value(kept)
    np.testing.assert_allclose(mass.sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(sums[0] / mass[0][:, None], after, atol=1e-5)


def test_revive_of_a_pair_splits_its_weight():
  """b = 0: w = log m, halved; a donor and its twin then split the donor's latents."""
  q, params, state = starved('blahut_arimoto')
  quantize = jax.jit(functools.partial(q.quantize, train=True, step=0))
  state = state.replace(log_weights=jnp.log(averages.value(state.marginal)))
  _, new, _ = jax.jit(q.revive)(params, state, jax.random.key(0))
  np.testing.assert_allclose(new.log_weights[0, DEAD], new.log_weights[0, DONORS])
  np.testing.assert_allclose(
    np.exp(new.log_weights[0, DEAD]), [0.2005, 0.1745], rtol=1e-4
  )
  # f is a function of the place alone, so twins have the same
  f = jnp.arange(1.0, 9.0)[None]
  varied = state.replace(factor=state.factor._replace(total=f))
  inherited = jax.jit(q.revive)(params, varied, jax.random.key(0))[1].factor.total[0]
  np.testing.assert_array_equal(inherited, [1, 1, 3, 4, 5, 6, 7, 3])
  state = quantize(params, new, Z).state
  assert np.isfinite(state.log_weights).all() and np.isfinite(state.codebook).all()


@pytest.mark.parametrize('name,values', KINDS)
def test_revive_without_dead_codes_moves_nothing(name, values):
  q, params, state = starved(name, **values, below=0.001)
  new_params, new, moved = jax.jit(q.revive)(params, state, jax.random.key(1))
  jax.tree.map(np.testing.assert_array_equal, (new_params, new), (params, state))
  assert not any(np.asarray(mask).any() for mask in moved.values())


@pytest.mark.parametrize('name,values', KINDS[:3])
def test_revive_below_zero_moves_nothing(name, values):
  q, params, state = starved(name, **values, below=0.0)
  new_params, new, moved = jax.jit(q.revive)(params, state, jax.random.key(1))
  jax.tree.map(np.testing.assert_array_equal, (new_params, new), (params, state))
  assert not any(np.asarray(mask).any() for mask in moved.values())


def test_revive_of_coinciding_codewords_parts_them():
  """Below beta_c all soft centroids are the mean; a split must not make exact twins."""
  q, params, state = starved('blahut_arimoto')
  met = jnp.zeros_like(state.codebook)
  _, new, _ = q.revive(params, state.replace(codebook=met), jax.random.key(0))
  assert len(np.unique(np.asarray(new.codebook)[0], axis=0)) == 3
