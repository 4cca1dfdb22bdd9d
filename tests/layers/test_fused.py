"""The GPU kernels, run by Pallas' interpreter, against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codax.layers import fused_conv, fused_mlp

RNG = np.random.default_rng(0)


def normal(*shape):
  return RNG.normal(size=shape).astype(np.float32)


def perceptrons(x, layers, linear):
  """float64, one perceptron and one layer after the other."""
  out = []
  for p, samples in enumerate(np.asarray(x, np.float64)):
    h = samples
    for i, (w, b) in enumerate(layers):
      h = np.asarray(w[p], np.float64).T @ h + np.asarray(b[p], np.float64)[:, None]
      if i + 1 < len(layers):
        h = np.maximum(h, 0)
    if linear is not None:
      h = h + np.asarray(linear[p], np.float64).T @ samples
    out.append(h)
  return np.stack(out)


@pytest.mark.parametrize(
  'widths, beside, samples',
  [((14, 16, 16, 2), True, 300), ((7, 24, 3), True, 128), ((3, 2), False, 1)],
)
def test_fused_perceptrons_equal_xlas_with_gradients(widths, beside, samples):
  count = 2
  layers = [(normal(count, a, b), normal(count, b)) for a, b in zip(widths, widths[1:])]
  linear = normal(count, widths[0], widths[-1]) if beside else None
  x, weight = normal(count, widths[0], samples), normal(count, widths[-1], samples)
  wide, many = fused_mlp.padded_shape(widths[0], samples)
  assert many % fused_mlp.BLOCK == 0

  def loss(x, layers, linear):
    full = jnp.pad(x, ((0, 0), (0, wide - widths[0]), (0, many - samples)))
    out = fused_mlp.apply(full, layers, linear, interpret=True)
    assert out.shape == (count, widths[-1], many)
    return (out[:, :, :samples] * weight).sum(), out[:, :, :samples]

  run = jax.jit(jax.value_and_grad(loss, (0, 1, 2) if beside else (0, 1), has_aux=True))
  (_, found), grads = run(x, layers, linear)
  np.testing.assert_allclose(
    found, perceptrons(x, layers, linear), rtol=1e-4, atol=1e-4
  )

  # the gradient along a direction is a difference of the oracle's
  leaves, tree = jax.tree.flatten((x, layers, linear) if beside else (x, layers))
  along = [normal(*leaf.shape) for leaf in leaves]
  got = sum(np.vdot(g, d) for g, d in zip(jax.tree.leaves(grads), along))
  step = 1e-6

  def at(sign):
    moved = [
      leaf + sign * step * d.astype(np.float64) for leaf, d in zip(leaves, along)
    ]
    args = tree.unflatten(moved)
    out = perceptrons(*args) if beside else perceptrons(*args, None)
    return (out * weight).sum()

  np.testing.assert_allclose(got, (at(1) - at(-1)) / (2 * step), rtol=2e-3, atol=2e-2)


def convolution(x, kernel, bias):
  """float64: out[o, y, x] = sum of kernel[i, j, c, o] * edges[c, y + i, x + j]."""
  x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
  edges = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), 'edge')
  h, w = x.shape[2:]
  out = np.zeros((len(x), kernel.shape[4], h, w)) + bias[:, :, None, None]
  for p in range(len(x)):
    for i in range(3):
      for j in range(3):
        part = edges[p, :, i : i + h, j : j + w]
        out[p] += np.einsum('chw,co->ohw', part, kernel[p, i, j])
  return out


@pytest.mark.parametrize('channels, size', [(3, (12, 17)), (1, (9, 5)), (3, (1, 1))])
def test_fused_convolutions_equal_xlas_with_gradients(channels, size):
  count = 2
  x, weight = normal(count, channels, *size), normal(count, channels, *size)
  kernel, bias = normal(count, 3, 3, channels, channels), normal(count, channels)

  def loss(x, kernel, bias):
    out = fused_conv.conv3(x, kernel, bias, True)
    return (out * weight).sum(), out

  run = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))
  (_, found), grads = run(x, kernel, bias)
  np.testing.assert_allclose(found, convolution(x, kernel, bias), rtol=1e-4, atol=1e-4)
  # it is linear in each argument: a gradient's product with a direction is exact
  for i, value in enumerate((x, kernel, bias)):
    direction = normal(*value.shape)
    args = [x, kernel, bias]
    args[i] = direction
    if i < 2:
      args[2] = np.zeros_like(bias)
    else:
      args[1] = np.zeros_like(kernel)
    wanted = (convolution(*args) * weight).sum()
    np.testing.assert_allclose(
      np.vdot(grads[i], direction), wanted, rtol=1e-3, atol=1e-3
    )
