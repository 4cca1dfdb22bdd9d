"""PatchGAN: a discriminator that judges patches, its losses and their weight.

Isola, Zhu, Zhou and Efros, *Image-to-image translation with conditional adversarial
networks* (CVPR 2017), appendix 6.1.2: with `depth` 3 every logit sees 70 x 70 pixels.
Normalization is that of groups and not of the batch: it has no running statistics, so
the discriminator is a function of its parameters and of one image alone. The hinge
losses are those of Lim and Ye, *Geometric GAN* (2017). The weight that adapts itself is
that of Esser, Rombach and Ommer, *Taming transformers* (CVPR 2021), section 3.2, with a
bound: without one it reaches 1e8 where the discriminator's gradient vanishes, and every
clipped step is then the discriminator's alone.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from codax.errors import CodaxError

_SLOPE = 0.2  # of LeakyReLU below 0
_PADDING = ((1, 1), (1, 1))
_GROUPS = 32
_MAX_FACTOR = 8  # channels of the widest layer, in widths
MAX_WEIGHT = 100.0
_EPS = 1e-6


class PatchGan(nn.Module):
  """Computes a logit for every patch: above 0 for patches that look real.

  Attributes:
    width: number of channels of the first layer.
    depth: number of layers of stride 2; 3 is the discriminator of 70 x 70 pixels.
    is_normalized: whether all layers but the first and last normalize groups.
  """

  width: int = 64
  depth: int = 3
  is_normalized: bool = True

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Maps float [B, H, W, 3] on [-1, 1] to logits float [B, h, w, 1]."""
    if min(x.shape[1:3]) < min_side(self.depth):
      raise CodaxError(
        f'a discriminator of depth {self.depth} needs images of '
        f'{min_side(self.depth)} pixels a side or more, not {x.shape[2]}x{x.shape[1]}'
      )
    x = nn.leaky_relu(self._conv(self.width, 2)(x), _SLOPE)
    for i in range(1, self.depth + 1):
      channels = self.width * min(2**i, _MAX_FACTOR)
      stride = 2 if i < self.depth else 1
      x = self._conv(channels, stride, has_bias=not self.is_normalized)(x)
      if self.is_normalized:
        x = nn.GroupNorm(_largest_divisor(channels))(x)
      x = nn.leaky_relu(x, _SLOPE)
    return self._conv(1, 1)(x)

  def _conv(self, channels: int, stride: int, has_bias: bool = True) -> nn.Conv:
    init = nn.initializers.normal(0.02)  # the paper's
    return nn.Conv(
      channels, (4, 4), stride, _PADDING, use_bias=has_bias, kernel_init=init
    )


def min_side(depth: int) -> int:
  """Returns the least number of pixels a side that leaves a logit."""
  side = 1 + 2  # two layers of stride 1 that take one pixel each
  for _ in range(depth):
    side = 2 * side
  return side


def _largest_divisor(channels: int) -> int:
  """Returns the number of groups: the largest divisor of `channels` up to 32."""
  return max(n for n in range(1, _GROUPS + 1) if channels % n == 0)


class Losses(NamedTuple):
  """Hinge losses of a discriminator.

  Attributes:
    total: mean of both parts, float32 scalar.
    real: mean of max(0, 1 - logit) over patches of real images.
    fake: mean of max(0, 1 + logit) over patches of reconstructions.
  """

  total: jax.Array
  real: jax.Array
  fake: jax.Array


def discriminator_loss(real_logits: jax.Array, fake_logits: jax.Array) -> Losses:
  """Computes the discriminator's loss, in float32.

  Args:
    real_logits: float [B, h, w, 1], logits of images.
    fake_logits: float [B, h, w, 1], logits of reconstructions, whose gradient the
      caller stops.
  """
  real = jnp.mean(nn.relu(1.0 - real_logits.astype(jnp.float32)))
  fake = jnp.mean(nn.relu(1.0 + fake_logits.astype(jnp.float32)))
  return Losses(0.5 * (real + fake), real, fake)


def generator_loss(fake_logits: jax.Array) -> jax.Array:
  """Returns the networks' loss, minus the mean logit of reconstructions, float32."""
  return -jnp.mean(fake_logits.astype(jnp.float32))


class AdaptiveWeight(NamedTuple):
  """Weight of the generator's loss; both are to be logged.

  Attributes:
    value: float32 scalar, without a gradient.
    is_capped: float32 scalar, 1 where the bound holds, else 0. Its mean is the share
      of steps in which the gradients' balance is not what the ratio says.
  """

  value: jax.Array
  is_capped: jax.Array


def adaptive_weight(
  reconstruction_grad: Any, generator_grad: Any, max_weight: float = MAX_WEIGHT
) -> AdaptiveWeight:
  """Computes the weight that makes two losses pull a layer equally hard.

  Args:
    reconstruction_grad: pytree of arrays: gradient of the reconstruction's loss by the
      parameters of the last layer.
    generator_grad: pytree of arrays: gradient of `generator_loss` by the same.
    max_weight: bound of the ratio of both norms, above 0.
  """
  above, below = optax.tree.norm(reconstruction_grad), optax.tree.norm(generator_grad)
  ratio = above.astype(jnp.float32) / (below.astype(jnp.float32) + _EPS)
  value, is_capped = jnp.minimum(ratio, max_weight), ratio > max_weight
  stop = jax.lax.stop_gradient
  return AdaptiveWeight(stop(value), stop(is_capped.astype(jnp.float32)))


def start_factor(step: jax.Array, start: int) -> jax.Array:
  """Returns 0.0 before step `start` and 1.0 from it on: the networks learn first."""
  return jnp.asarray(step >= start, jnp.float32)
