"""The EMA quantizer against a float64 oracle."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from quantize_oracles import assert_same_codes, distances

from codax.quantize import get

KEY = jax.random.key(0)


def latents(seed, offset=0.0):
  z = np.random.default_rng(seed).normal(size=(32, 3)) + offset
  return jnp.asarray(z, jnp.float32)


@functools.cache
def machine(**values):
  q = get('vq_ema', **values)
  return q, jax.jit(q.init), jax.jit(functools.partial(q.quantize, train=True))


@pytest.mark.parametrize('decay,epsilon', [(0.9, 1e-5), (0.0, 0.5), (0.99, 0.0)])
def test_state_over_batches_follows_the_oracle(decay, epsilon):
  """Sizes and sums are debiased averages; Laplace smoothing in vectors of a batch."""
  q, init, step = machine(num_codes=5, decay=decay, epsilon=epsilon)
  params, state = init(KEY, latents(0))
  book = np.asarray(state.codebook[0], np.float64)
  size, total, weight = np.full(5, 0.2), book * 0.2, 1 - decay
  size, total = size * weight, total * weight
  for i in range(6):
    z = latents(i)
    out = step(params, state, z)
    state = out.state
    d = distances(z, book)
    codes = d.argmin(1)
    assert_same_codes(out.codes[:, 0], d)
    hot = np.eye(5)[codes]
    size = decay * size + (1 - decay) * hot.mean(0)
    total = decay * total + (1 - decay) * hot.T @ np.asarray(z, np.float64) / 32
    weight = decay * weight + (1 - decay)
    smooth = (size / weight + epsilon / 32) / (1 + 5 * epsilon / 32)
    moved = total / weight / np.maximum(smooth, 1e-300)[:, None]
    book = np.where(hot.any(0)[:, None], moved, book)
    np.testing.assert_allclose(state.codebook[0], book, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(q.code_prior(state)[0], size / weight, atol=1e-6)


def test_laplace_smoothing_hardly_shrinks_rare_codes():
  z = latents(0, offset=10.0)
  books = []
  for epsilon in (0.0, 1e-5, 1.0):
    _, init, step = machine(num_codes=5, decay=0.5, epsilon=epsilon)
    params, state = init(KEY, z)
    books.append(np.asarray(step(params, state, z).state.codebook))
  np.testing.assert_allclose(books[1], books[0], rtol=1e-5)
  assert np.abs(books[2] - books[0]).max() > 0.1


def test_unused_code_keeps_its_place():
  """Fault 5: sizes that start at 0 beside sums that do not throw such codes away."""
  _, init, step = machine(num_codes=5, decay=0.9)
  params, state = init(KEY, latents(0))
  far = state.codebook.at[0, 2].set(50.0)
  state = state.replace(codebook=far)
  for i in range(200):
    out = step(params, state, latents(i % 5))
    state = out.state
    assert not (out.codes == 2).any()
  np.testing.assert_array_equal(state.codebook[0, 2], far[0, 2])
  # the original: codeword = sums / smoothed sizes, both after one step without hits
  size, n, epsilon = 0.0, 32, 1e-5
  smooth = (size + epsilon) / (n + 5 * epsilon) * n
  assert np.linalg.norm(0.9 * np.asarray(far[0, 2]) / smooth) > 1e6
  # hit after a long rest, it goes where the hits are
  state = step(params, state, jnp.full((32, 3), 40.0)).state
  np.testing.assert_allclose(state.codebook[0, 2], 40.0, rtol=1e-2)


def test_gradient_to_latents_is_the_closed_form():
  q, init, _ = machine(num_codes=5, commitment=0.5)
  params, state = init(KEY, latents(0))
  z, g = latents(1), latents(2)

  def loss(z):
    out = q.quantize(params, state, z, train=True)
    return (out.values * g).sum() + sum(out.losses.values()), out.values

  to_z, values = jax.jit(jax.grad(loss, has_aux=True))(z)
  exact = np.asarray(g) + 0.5 * 2 * np.asarray(z - values) / z.size
  np.testing.assert_allclose(to_z, exact, rtol=1e-5, atol=1e-6)


def test_init_by_name_gives_the_known_codebooks():
  z = latents(0, offset=3.0)
  book = machine(num_codes=5, init='uniform')[1](KEY, z)[1].codebook
  assert np.abs(book).max() <= 0.2 and np.ptp(book) > 0.1
  raw = machine(num_codes=5, kmeans_iterations=0)[1](KEY, z)[1].codebook[0]
  assert {tuple(e) for e in np.asarray(raw)} <= {tuple(x) for x in np.asarray(z)}
  fitted = machine(num_codes=5, kmeans_iterations=10)[1](KEY, z)[1].codebook[0]
  cost = lambda book: distances(z, book).min(1).mean()
  assert cost(fitted) < cost(raw) < cost(np.asarray(book[0]))


def test_groups_are_independent_quantizers():
  z = jnp.concatenate([latents(1), latents(2)], axis=1)
  _, init, step = machine(num_codes=5, groups=2)
  params, state = init(KEY, z)
  out = step(params, state, z)
  for g in range(2):
    group = functools.partial(jax.tree.map, lambda x: x[g])  # noqa: B023
    alone = machine(num_codes=5)[2](params, group(state), z[:, 3 * g : 3 * g + 3])
    np.testing.assert_array_equal(out.codes[:, g : g + 1], alone.codes)
    np.testing.assert_allclose(out.values[:, 3 * g : 3 * g + 3], alone.values)
    same = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6)
    jax.tree.map(same, group(out.state), alone.state)
