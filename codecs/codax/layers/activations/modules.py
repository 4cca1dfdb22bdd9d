"""The Linen module of an activation, which holds its parameters."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from codax.layers.activations import base


class Activated(nn.Module):
  """Applies an activation: [..., expansion * C] -> [..., C].

  Attributes:
    act: nonlinearity, from `activations.get`.
  """

  act: base.Activation

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    init = self.act.init(x.shape[-1] // self.act.expansion)
    params = {
      key: self.param(key, lambda rng, value=value: jnp.asarray(value))
      for key, value in init.items()
    }
    return self.act.apply(params, x)
