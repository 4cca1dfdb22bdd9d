"""Building blocks of convolutional autoencoders: residual blocks, activations."""

from collections.abc import Callable

import chex
import flax.linen as nn
import jax

ACTIVATIONS = {'relu': nn.relu, 'gelu': nn.gelu}


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
