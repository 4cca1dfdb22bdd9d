"""Transposed convolution that doubles an image's sides, trainable on CPUs.

`ConvTranspose` computes what `flax.linen.ConvTranspose(features, (4, 4), (2, 2),
padding=((2, 2), (2, 2)))` does, from the same parameters, bit for bit. Only the
gradient of its kernel differs on CPUs, where XLA has no fast routine for the dilated
convolution: it is one matrix product of the input with the 16 shifted copies of the
output's gradient. For 256 images of 8 x 8, 256 to 128 channels, on two
cores: 0.2 s in place of 17 s.
"""

from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

TAPS, STRIDE = 4, 2
_PADDING = ((2, 2), (2, 2))  # of the dilated input: torch's padding=1
_LAYOUT = ('NHWC', 'HWIO', 'NHWC')


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
  return lax.conv_transpose(
    x, kernel, (STRIDE, STRIDE), _PADDING, dimension_numbers=_LAYOUT
  )


@jax.custom_vjp
def double(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Applies a transposed convolution with stride 2.

  Args:
    x: float [B, h, w, I].
    kernel: float [4, 4, I, O].

  Returns:
    float [B, 2h, 2w, O].
  """
  chex.assert_rank([x, kernel], 4)
  chex.assert_equal(x.shape[-1], kernel.shape[2])
  return _convolve(x, kernel)


def _forward(x, kernel):
  return _convolve(x, kernel), (x, kernel)


def _backward(saved, grad):
  x, kernel = saved
  by_input = jax.vjp(lambda x: _convolve(x, kernel), x)[1]
  by_kernel = lambda x, grad: jax.vjp(lambda k: _convolve(x, k), kernel)[1](grad)[0]
  return by_input(grad)[0], lax.platform_dependent(
    x, grad, cpu=_kernel_gradient, default=by_kernel
  )


double.defvjp(_forward, _backward)


def _kernel_gradient(x: jax.Array, grad: jax.Array) -> jax.Array:
  """Returns the kernel's gradient [4, 4, I, O] from x and the output's gradient.

  x is [B, h, w, I], the output's gradient [B, 2h, 2w, O].

  Tap t of a kernel carries input i to output 2i + 2 - t, so its gradient is the sum
  over i of x[i] times the output's gradient there.
  """
  _, h, w, _ = x.shape
  grad = jnp.pad(grad, ((0, 0), (1, 1), (1, 1), (0, 0)))
  at = lambda tap, n: slice(3 - tap, 3 - tap + STRIDE * n - 1, STRIDE)
  row = lambda t: jnp.stack([grad[:, at(t, h), at(u, w)] for u in range(TAPS)], 3)
  shifted = jnp.stack([row(t) for t in range(TAPS)], 3)
  return jnp.einsum('bhwi,bhwtuo->tuio', x, shifted)


class ConvTranspose(nn.Module):
  """Maps float [B, h, w, I] to [B, 2h, 2w, features]; see the module's docstring.

  Parameters: kernel float32 [4, 4, I, features], bias float32 [features].

  Attributes:
    features: number of output channels.
    dtype: dtype of the computation.
  """

  features: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = TAPS, TAPS, x.shape[-1], self.features
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
    bias = self.param('bias', nn.initializers.zeros, (self.features,))
    x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
    return double(x, kernel) + bias.reshape(1, 1, 1, -1)
