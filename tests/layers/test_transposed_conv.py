"""The transposed convolution against Flax's and against its definition."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codax.layers import transposed_conv

KEYS = jax.random.split(jax.random.key(0), 3)
THEIRS = nn.ConvTranspose(5, (4, 4), (2, 2), padding=((2, 2), (2, 2)))
OURS = transposed_conv.ConvTranspose(5)


@pytest.fixture(params=[(2, 3, 4, 6), (1, 1, 1, 1), (3, 5, 1, 2)])
def case(request):
  """(input, parameters, a gradient of the output)."""
  x = jax.random.normal(KEYS[0], request.param)
  params = THEIRS.init(KEYS[1], x)['params']
  params = {**params, 'bias': jnp.arange(5.0)}
  b, h, w, _ = request.param
  return x, params, jax.random.normal(KEYS[2], (b, 2 * h, 2 * w, 5))


def test_parameters_and_outputs_equal_flaxs_bit_for_bit(case):
  x, params, _ = case
  ours = OURS.init(KEYS[1], x)['params']
  theirs = THEIRS.init(KEYS[1], x)['params']
  assert jax.tree.map(jnp.shape, ours) == jax.tree.map(jnp.shape, theirs)
  np.testing.assert_array_equal(ours['kernel'], theirs['kernel'])
  got, wanted = (net.apply({'params': params}, x) for net in (OURS, THEIRS))
  np.testing.assert_array_equal(got, wanted)


def test_gradients_equal_flaxs(case):
  x, params, grad = case

  def gradients(net):
    return jax.vjp(lambda p, x: net.apply({'params': p}, x), params, x)[1](grad)

  for a, b in zip(*(jax.tree.leaves(jax.jit(gradients, static_argnums=0)(net))
                    for net in (OURS, THEIRS)), strict=True):  # fmt: skip
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max())


def test_output_equals_the_definition_in_float64():
  """out[o] = sum of x[i] k[t] over all o = 2i + 2 - t, in loops."""
  rng = np.random.default_rng(0)
  x, k = rng.normal(size=(1, 2, 3, 2)), rng.normal(size=(4, 4, 2, 3))
  out = np.zeros((1, 4, 6, 3))
  for i, j, t, u in np.ndindex(2, 3, 4, 4):
    y, z = 2 * i + 2 - t, 2 * j + 2 - u
    if 0 <= y < 4 and 0 <= z < 6:
      out[0, y, z] += x[0, i, j] @ k[t, u]
  got = transposed_conv.double(*(jnp.asarray(a, jnp.float32) for a in (x, k)))
  np.testing.assert_allclose(got, out, atol=1e-5)
