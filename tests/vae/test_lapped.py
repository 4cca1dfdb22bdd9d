"""The filter over block boundaries: its matrix written out, its inverse, its gain."""

import jax.numpy as jnp
import numpy as np
import pytest

from codax.vae import lapped


def boundary_matrix(patch, matrix):
  """Returns the filter of the pixels around a boundary, float64 [patch, patch]."""
  half = patch // 2
  same, mirror = np.eye(half), np.eye(half)[::-1]
  turn = np.block([[same, mirror], [same, -mirror]]) / np.sqrt(2)
  middle = np.block([[same, 0 * same], [0 * same, matrix]])
  return turn.T @ middle @ turn


def axis_matrix(patch, size, matrix):
  """Returns the filter of a whole row, float64 [size, size]."""
  full = np.eye(size)
  for start in range(patch // 2, size - patch, patch):
    at = slice(start, start + patch)
    full[at, at] = boundary_matrix(patch, matrix)
  return full


@pytest.mark.parametrize('xp', [np, jnp], ids=['numpy', 'jax'])
@pytest.mark.parametrize('patch, shape', [(4, (12, 20)), (8, (8, 24)), (16, (32, 16))])
def test_rows_and_columns_are_multiplied_by_the_matrix_of_the_filter(patch, shape, xp):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, *shape, 3)).astype(np.float32)
  matrix = rng.normal(size=(patch // 2, patch // 2)).astype(np.float32)
  rows, columns = (axis_matrix(patch, n, matrix) for n in shape)
  expected = np.einsum('ij,kl,bjlc->bikc', rows, columns, x.astype(np.float64))
  found = lapped.apply(xp.asarray(matrix), xp.asarray(x), patch, xp)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('patch', [4, 8, 16])
def test_flat_images_stay_and_the_inverse_brings_all_others_back(patch):
  matrix = lapped.design(patch)
  flat = np.full((1, 3 * patch, 2 * patch, 3), 77, np.float32)
  np.testing.assert_allclose(lapped.apply(matrix, flat, patch, np), flat, rtol=1e-6)
  x = np.random.default_rng(0).normal(size=flat.shape).astype(np.float32)
  y = lapped.apply(matrix, x, patch, np)
  assert np.abs(y - x).max() > 0.5
  back = lapped.apply(np.linalg.inv(matrix), y, patch, np)
  np.testing.assert_allclose(back, x, atol=1e-5)


def coding_gain(patch, matrix):
  """Computes the coding gain in dB of the KLT of filtered blocks, of an AR(1) process.

  That is, with steps of one size: -10 log10 of the geometric mean of variance times
  squared length of a coefficient's synthesis vector.
  """
  size = 3 * patch
  middle = slice(patch, 2 * patch)
  covariance = 0.95 ** np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
  full = axis_matrix(patch, size, matrix.astype(np.float64))
  variances, basis = np.linalg.eigh((full @ covariance @ full.T)[middle, middle])
  lengths = np.sum((np.linalg.inv(full)[:, middle] @ basis) ** 2, axis=0)
  return -10 * np.mean(np.log10(variances * lengths))


@pytest.mark.parametrize(
  'patch, block, best', [(4, 7.58, 8.54), (8, 8.85, 9.57), (16, 9.48, 9.95)]
)
def test_coding_gain_is_nearly_the_best_of_its_kind(patch, block, best):
  """`best` is what BFGS over all matrices finds from there on."""
  assert abs(coding_gain(patch, np.eye(patch // 2)) - block) < 0.01
  assert best - 0.03 < coding_gain(patch, lapped.design(patch)) < best + 0.01
