"""Residual blocks against the formula, and the pixel order of space-to-depth."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codax.layers import blocks, twins

KEY = jax.random.key(0)


@functools.partial(jax.jit, static_argnums=1)
def there_and_back(x, factor):
  """Returns (space to depth, that to space again)."""
  deep = twins.space_to_depth(x, factor)
  return deep, twins.depth_to_space(deep, factor)


@settings(max_examples=8)
@given(
  st.integers(1, 4),
  st.integers(1, 3),
  st.integers(1, 3),
  st.integers(1, 3),
  st.integers(0, 2),
)
def test_depth_to_space_inverts_space_to_depth(factor, h, w, c, lead):
  shape = (2,) * lead + (h * factor, w * factor, c)
  x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
  deep, back = there_and_back(x, factor)
  assert deep.shape == (2,) * lead + (h, w, factor**2 * c)
  np.testing.assert_array_equal(back, x)


def test_space_to_depth_is_in_raster_order():
  x = np.arange(4 * 6 * 3).reshape(1, 4, 6, 3)
  deep = twins.space_to_depth(x, 2)
  block = x[0, 2:4, 4:6].reshape(-1)  # rows, then columns, then channels
  np.testing.assert_array_equal(deep[0, 1, 2], block)


@pytest.mark.parametrize('pre', [False, True])
def test_residual_block_is_its_formula(pre):
  x = jax.random.normal(KEY, (1, 5, 5, 3))
  block = blocks.ResidualBlock(3, nn.relu, pre=pre)
  params = jax.tree.map(lambda p: p + 0.1, block.init(KEY, x)['params'])
  conv = lambda i, x: nn.Conv(3, (3, 3)).apply({'params': params[f'Conv_{i}']}, x)
  relu = lambda x: jnp.maximum(x, 0)
  y = x + conv(1, relu(conv(0, relu(x) if pre else x)))
  expected = y if pre else relu(y)
  np.testing.assert_allclose(block.apply({'params': params}, x), expected, atol=1e-5)


def test_residual_block_with_pre_activation_begins_as_the_identity():
  x = jax.random.normal(KEY, (1, 5, 5, 3))
  block = blocks.ResidualBlock(3, nn.relu, pre=True)
  np.testing.assert_array_equal(block.init_with_output(KEY, x)[0], x)


def test_residual_block_refuses_another_number_of_channels():
  block = blocks.ResidualBlock(4, nn.relu, pre=True)
  with pytest.raises(AssertionError):
    block.init(KEY, jnp.zeros((1, 5, 5, 3)))


class SpaceToDepth(chex.TestCase):
  @chex.variants(with_jit=True, without_jit=True, with_device=True)
  def test_depth_to_space_inverts_it(self):
    x = np.arange(2 * 4 * 6 * 3, dtype=np.float32).reshape(2, 4, 6, 3)

    def there_and_back(x):
      return twins.depth_to_space(twins.space_to_depth(x, 2), 2)

    np.testing.assert_array_equal(self.variant(there_and_back)(x), x)
