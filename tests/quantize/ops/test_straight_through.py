"""What flows backward through the estimators, against explicit matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from codax.quantize.ops.straight_through import (
  ESTIMATORS,
  estimate,
  rotation_trick,
  round_through,
  straight_through,
  with_gradient,
)

R = np.random.default_rng(0)
Z, V, G = (jnp.asarray(R.normal(size=(6, 5)), jnp.float32) for _ in range(3))


def pull(estimator, z, values, g):
  out, vjp = jax.vjp(estimator, z, values)
  return out, *vjp(g)


@pytest.mark.parametrize('name', ESTIMATORS)
def test_forward_value_is_the_quantized_value_to_the_last_bit(name):
  far = 1e6 * Z  # z + (values - z) would be off by 0.06
  np.testing.assert_array_equal(ESTIMATORS[name](far, V), V)
  _, _, to_values = pull(ESTIMATORS[name], Z, V, G)
  np.testing.assert_array_equal(to_values, np.zeros_like(G))


def test_straight_through_gradient_is_the_identity():
  _, to_z, _ = pull(straight_through, Z, V, G)
  np.testing.assert_array_equal(to_z, G)


def rotation(a, b):
  """The rotation of unit a to unit b in their plane (Rodrigues in n dimensions)."""
  k = np.outer(b, a) - np.outer(a, b)
  return np.eye(len(a)) + k + k @ k / (1 + a @ b)


def test_rotation_gradient_is_the_transposed_rotation():
  _, to_z, _ = pull(rotation_trick, Z, V, G)
  for z, v, g, found in zip(*(np.asarray(x, np.float64) for x in (Z, V, G, to_z))):
    nz, nv = np.linalg.norm(z), np.linalg.norm(v)
    matrix = rotation(z / nz, v / nv)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(5), atol=1e-12)
    np.testing.assert_allclose(nv / nz * matrix @ z, v, atol=1e-12)
    np.testing.assert_allclose(found, nv / nz * matrix.T @ g, rtol=1e-4, atol=1e-5)


def test_rotation_keeps_the_angle_between_gradient_and_vector():
  _, to_z, _ = pull(rotation_trick, Z, V, G)
  cos = lambda a, b: (
    (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
  )
  np.testing.assert_allclose(cos(to_z, Z), cos(G, V), atol=1e-5)


def test_rotation_of_a_vector_onto_itself_is_the_identity():
  _, to_z, _ = pull(rotation_trick, Z, Z, G)
  np.testing.assert_allclose(to_z, G, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('scale', [0.0, 1e-20])
def test_rotation_of_no_direction_passes_the_gradient_on(scale):
  _, to_z, _ = pull(rotation_trick, scale * Z, V, G)
  np.testing.assert_array_equal(to_z, G)


def test_opposite_vectors_give_finite_gradients():
  _, to_z, _ = pull(rotation_trick, Z, -Z, G)
  assert np.isfinite(to_z).all()


def test_estimate_of_groups_rotates_each_alone():
  z, v, g = (jnp.asarray(R.normal(size=(2, 3, 8)), jnp.float32) for _ in range(3))
  _, whole, _ = pull(lambda z, v: estimate(rotation_trick, z, v, 2), z, v, g)
  for part in (slice(0, 4), slice(4, 8)):
    _, own, _ = pull(rotation_trick, z[..., part], v[..., part], g[..., part])
    np.testing.assert_allclose(whole[..., part], own, rtol=1e-6)


def test_with_gradient_equals_differentiation():
  f = lambda x: with_gradient(x, jnp.sum(x**3) * 2.0, 6 * x**2)
  check_grads(f, (Z,), order=1, modes=['rev'], rtol=2e-2)
  np.testing.assert_array_equal(f(Z), jnp.sum(Z**3) * 2.0)


def test_round_through_has_the_identity_gradient():
  x = jnp.array([-1.5, -0.4, 0.5, 1.5, 2.5, 2.6])
  np.testing.assert_array_equal(round_through(x), [-2, 0, 0, 2, 2, 3])
  np.testing.assert_array_equal(jax.grad(lambda x: round_through(x).sum())(x), 1.0)
