"""Codebook starts against float64, and what each promises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quantize_oracles import assert_same_codes, distances
from scipy.cluster import vq

from codax.quantize.ops import kmeans

plus_plus = jax.jit(kmeans.plus_plus, static_argnums=2)
lloyd = jax.jit(kmeans.lloyd, static_argnums=2)
until = jax.jit(kmeans.lloyd_until)
nearest = jax.jit(kmeans.nearest)
squared_distances = jax.jit(kmeans.squared_distances)
distortion = jax.jit(kmeans.distortion)


def points(seed, n, d, offset=0.0):
  x = np.random.default_rng(seed).normal(size=(n, d)) + offset
  return jnp.asarray(x, jnp.float32)


@pytest.mark.parametrize('offset', [0.0, 1000.0])
@pytest.mark.parametrize('d', [1, 4, 64])
def test_nearest_and_distances_equal_float64(d, offset):
  x, centers = points(0, 300, d, offset), points(1, 17, d, offset)
  exact = distances(x, centers)
  found = nearest(x, centers)
  assert found.dtype == jnp.int32
  assert_same_codes(found, exact)
  np.testing.assert_allclose(
    squared_distances(x, centers), exact, atol=3e-6 * exact.max()
  )


def test_distances_to_oneself_are_not_negative():
  x = points(2, 50, 8, 3.0)
  d = np.asarray(squared_distances(x, x))
  assert d.min() >= 0 and np.diag(d).max() < 1e-4


def test_nearest_of_ties_is_the_lowest_index():
  centers = jnp.array([[2.0], [0.0], [0.0], [2.0], [4.0]])
  x = jnp.array([[0.0], [2.0], [1.0], [9.0]])
  np.testing.assert_array_equal(kmeans.nearest(x, centers), [1, 0, 0, 4])


@settings(max_examples=25)
@given(st.integers(0, 2**31 - 1), st.sampled_from([1e-12, 1.0, 1e12]))
def test_plus_plus_picks_distinct_points(seed, scale):
  """8 distinct points, each three times: 8 picks find every one."""
  distinct = points(seed, 8, 3) * scale
  x = jnp.repeat(distinct, 3, axis=0)
  picked = np.asarray(plus_plus(jax.random.key(seed), x, 8))
  assert {tuple(p) for p in picked} == {tuple(p) for p in np.asarray(distinct)}


def test_plus_plus_with_fewer_points_than_centers_repeats_them():
  x = points(3, 4, 2)
  picked = np.asarray(plus_plus(jax.random.key(0), x, 9))
  assert {tuple(p) for p in picked} == {tuple(p) for p in np.asarray(x)}
  assert plus_plus(jax.random.key(0), x, 1).shape == (1, 2)


def test_plus_plus_prefers_far_points():
  """Two far clusters, 2 picks: both are hit (chance of a miss < 1e-3 each time)."""
  x = jnp.concatenate([points(4, 50, 2), points(5, 50, 2) + 1000.0])
  for seed in range(5):
    picked = plus_plus(jax.random.key(seed), x, 2)
    assert sorted(np.asarray(picked[:, 0] > 500)) == [False, True]


def test_lloyd_never_raises_distortion_and_equals_float64():
  x = points(6, 200, 3)
  centers, exact = x[:8], np.asarray(x[:8], np.float64)
  last = np.inf
  for _ in range(12):
    now = distances(x, centers).min(1).mean()
    assert now <= last * (1 + 1e-6)
    last = now
    codes = distances(x, exact).argmin(1)
    x64 = np.asarray(x, np.float64)
    exact = np.stack([x64[codes == k].mean(0) for k in range(8)])
    centers = lloyd(x, centers, 1)
    np.testing.assert_allclose(centers, exact, atol=1e-4)
  np.testing.assert_allclose(lloyd(x, x[:8], 12), centers, atol=1e-5)


def test_lloyd_center_without_points_stays():
  far = jnp.full((1, 2), 1e3)
  found = lloyd(points(7, 32, 2), jnp.concatenate([points(8, 3, 2), far]), 3)
  np.testing.assert_array_equal(found[3], far[0])


def test_fit_is_a_function_of_its_key():
  x = points(9, 64, 2)
  fit = jax.jit(kmeans.fit, static_argnums=(2, 3))
  a, b = (fit(jax.random.key(k), x, 4, 5) for k in (0, 0))
  np.testing.assert_array_equal(a, b)
  assert distances(x, a).min(1).mean() < 0.6 * np.var(np.asarray(x), 0).sum()


def test_distortion_is_the_mean_of_the_least_squares():
  x, centers = points(10, 90, 3, 50.0), points(11, 7, 3, 50.0)
  exact = distances(x, centers).min(1)
  assert distortion(x, centers) == pytest.approx(exact.mean(), rel=1e-5)
  weight = jnp.arange(90, dtype=jnp.float32)
  expected = np.average(exact, weights=np.arange(90))
  assert distortion(x, centers, weight) == pytest.approx(expected, rel=1e-5)


def test_lloyd_until_arrives_where_scipy_does():
  x = points(12, 150, 2)
  found, made = until(x, x[:6], tolerance=0.0)
  expected, _ = vq.kmeans2(np.asarray(x, float), np.asarray(x[:6], float), 60,
                           minit='matrix')  # fmt: skip
  np.testing.assert_allclose(found, expected, atol=1e-5)
  assert 2 < int(made) < 60
  np.testing.assert_allclose(lloyd(x, found, 3), found, atol=1e-6)


def test_lloyd_until_ends_by_tolerance_and_by_number():
  x = points(13, 150, 2)
  made = [int(until(x, x[:6], t)[1]) for t in (0.0, 0.02, 0.9)]
  assert made[0] > made[1] > made[2] == 1
  few, count = until(x, x[:6], 0.0, 3)
  assert count == 3
  np.testing.assert_allclose(few, lloyd(x, x[:6], 3), atol=1e-6)


def test_weights_equal_repeated_points():
  """Whole weights are repeated points, weight 0 is none."""
  x, weight = points(14, 40, 3), jnp.arange(40) % 4
  repeated = jnp.repeat(x, weight, axis=0)
  found = lloyd(x, x[:5], 4, weight.astype(x.dtype))
  np.testing.assert_allclose(found, lloyd(repeated, x[:5], 4), atol=1e-5)
  picked = plus_plus(jax.random.key(0), x, 50, (weight == 1).astype(x.dtype))
  chosen = {tuple(p) for p in np.asarray(picked)}
  assert chosen == {tuple(p) for p in np.asarray(x)[np.asarray(weight) == 1]}
