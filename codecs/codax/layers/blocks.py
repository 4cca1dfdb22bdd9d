"""Building blocks of convolutional autoencoders: residual blocks, space-to-depth."""

from collections.abc import Callable

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp

ACTIVATIONS = {'relu': nn.relu, 'gelu': nn.gelu}


def space_to_depth(x: jax.Array, factor: int) -> jax.Array:
  """Reshapes [..., H, W, C] to [..., H/f, W/f, f*f*C], raster order inside a block."""
  *lead, h, w, c = x.shape
  x = x.reshape(*lead, h // factor, factor, w // factor, factor, c)
  x = jnp.moveaxis(x, -4, -3)
  return x.reshape(*lead, h // factor, w // factor, factor * factor * c)


def depth_to_space(x: jax.Array, factor: int) -> jax.Array:
  """Inverts `space_to_depth`."""
  *lead, h, w, c = x.shape
  x = x.reshape(*lead, h, w, factor, factor, c // factor**2)
  x = jnp.moveaxis(x, -3, -4)
  return x.reshape(*lead, h * factor, w * factor, c // factor**2)


class ResidualBlock(nn.Module):
  """Computes act(x + conv3(act(conv3(x)))), or the form with pre-activation.

  Attributes:
    hidden: number of channels, in and out.
    act: nonlinearity.
    pre: whether to compute x + conv3(act(conv3(act(x)))), which trains faster; the
      last convolution is 0 at first.
  """

  hidden: int
  act: Callable[[jax.Array], jax.Array]
  pre: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    chex.assert_axis_dimension(x, -1, self.hidden)
    y = self.act(x) if self.pre else x
    y = self.act(nn.Conv(self.hidden, (3, 3))(y))
    if self.pre:
      return x + nn.Conv(self.hidden, (3, 3), kernel_init=nn.initializers.zeros)(y)
    return self.act(x + nn.Conv(self.hidden, (3, 3))(y))
