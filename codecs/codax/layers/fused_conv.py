"""3 x 3 convolutions of a few channels, each image with its own kernel, on a GPU.

XLA turns a convolution under `vmap` over kernels into a grouped one, for which there is
no fast routine, and its kernel's gradient is slower still. Here a program reads the
shifted samples of a block of pixels from the cache and multiplies them on the matrix
units. In Pallas for its Triton backend; see `fused_mlp`, also for the precision.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

from codax.layers import fused_mlp
from codax.layers.fused_mlp import BLOCK

_OUT = 16  # rows of the products: the matrix units' least


def _taps(channels: int) -> int:
  return max(16, pl.next_power_of_2(9 * channels))


def _samples(x_ref: Any, first: Any, channels: int, size: tuple[int, int]):
  """Gathers the inputs of a block of outputs, [taps, BLOCK].

  x_ref is padded, [C (H + 2) (W + 2)].
  Tap 9 c + 3 i + j is channel c, i rows and j columns on.
  """
  height, width = size
  shape = _taps(channels), BLOCK
  tap = lax.broadcasted_iota(jnp.int32, shape, 0)
  at = first + lax.broadcasted_iota(jnp.int32, shape, 1)
  at = jnp.minimum(at, height * width - 1)
  row, column = at // width, at % width
  channel, i, j = tap // 9, tap // 3 % 3, tap % 3
  place = (channel * (height + 2) + row + i) * (width + 2) + column + j
  inside = tap < 9 * channels
  return jnp.where(inside, x_ref[jnp.where(inside, place, 0)], 0.0)


def _forward_kernel(x_ref, w_ref, out_ref, *, channels, size):
  x = _samples(x_ref, pl.program_id(0) * BLOCK, channels, size)
  y = jnp.dot(w_ref[...], x, preferred_element_type=jnp.float32)
  row = lax.broadcasted_iota(jnp.int32, y.shape, 0)
  for i in range(channels):  # a row at a time: the others are padding
    out_ref[i, :] = jnp.sum(jnp.where(row == i, y, 0.0), axis=0)


def _kernel_gradient_kernel(x_ref, g_ref, out_ref, *, channels, size, blocks):
  first = pl.program_id(0) * blocks

  def body(j, total):
    x = _samples(x_ref, (first + j) * BLOCK, channels, size)
    row = lax.broadcasted_iota(jnp.int32, (_OUT, BLOCK), 0)
    g = jnp.zeros(row.shape, jnp.float32)
    for i in range(channels):
      g = jnp.where(row == i, g_ref[i, pl.ds(j * BLOCK, BLOCK)][None], g)
    return total + jnp.dot(g, x.T, preferred_element_type=jnp.float32)

  zero = jnp.zeros((_OUT, _taps(channels)), jnp.float32)
  out_ref[...] = lax.fori_loop(0, blocks, body, zero)


def _correlate(padded: jax.Array, kernel: jax.Array, interpret: bool) -> jax.Array:
  """Correlates [P, C, H + 2, W + 2] with [P, 3, 3, C, C] to [P, C, H, W]."""
  count, channels, height, width = padded.shape
  height, width = height - 2, width - 2
  blocks = -(-height * width // BLOCK)
  weights = kernel.transpose(0, 4, 3, 1, 2).reshape(count, channels, -1)
  sides = (0, 0), (0, _OUT - channels), (0, _taps(channels) - 9 * channels)
  run = functools.partial(_forward_kernel, channels=channels, size=(height, width))
  out = pl.pallas_call(
    run,
    grid=(blocks, count),
    in_specs=[
      pl.BlockSpec((None, padded[0].size), lambda s, p: (p, 0)),
      pl.BlockSpec((None, _OUT, _taps(channels)), lambda s, p: (p, 0, 0)),
    ],
    out_specs=pl.BlockSpec((None, channels, BLOCK), lambda s, p: (p, 0, s)),
    out_shape=jax.ShapeDtypeStruct((count, channels, blocks * BLOCK), jnp.float32),
    interpret=interpret,
    compiler_params=fused_mlp.compiler_params(),
    name='conv3',
  )(padded.reshape(count, -1), jnp.pad(weights, sides))
  return out[:, :, : height * width].reshape(count, channels, height, width)


def _kernel_gradient(padded: jax.Array, g: jax.Array, interpret: bool) -> jax.Array:
  """Returns the gradient of `_correlate` in its kernel, [P, 3, 3, C, C]."""
  count, channels, height, width = g.shape
  _, samples = fused_mlp.padded_shape(channels, height * width)
  parts = fused_mlp.parts(samples)
  size = samples // parts
  g = g.reshape(count, channels, -1)
  g = jnp.pad(g, ((0, 0), (0, 0), (0, samples - g.shape[2])))
  run = functools.partial(
    _kernel_gradient_kernel,
    channels=channels,
    size=(height, width),
    blocks=size // BLOCK,
  )
  sums = (_OUT, _taps(channels))
  out = pl.pallas_call(
    run,
    grid=(parts, count),
    in_specs=[
      pl.BlockSpec((None, padded[0].size), lambda s, p: (p, 0)),
      pl.BlockSpec((None, channels, size), lambda s, p: (p, 0, s)),
    ],
    out_specs=pl.BlockSpec((None, None, *sums), lambda s, p: (p, s, 0, 0)),
    out_shape=jax.ShapeDtypeStruct((count, parts, *sums), jnp.float32),
    interpret=interpret,
    compiler_params=fused_mlp.compiler_params(),
    name='conv3_kernel_gradient',
  )(padded.reshape(count, -1), g)
  out = out.sum(1)[:, :channels, : 9 * channels]
  return out.reshape(count, channels, channels, 3, 3).transpose(0, 3, 4, 2, 1)


def _edges(x: jax.Array) -> jax.Array:
  return jnp.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode='edge')


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def conv3(
  x: jax.Array, kernel: jax.Array, bias: jax.Array, interpret: bool = False
) -> jax.Array:
  """Convolves with 3 x 3 kernels and repeated edges.

  Args:
    x: float32 [P, C, H, W].
    kernel: float32 [P, 3, 3, C, C]: rows, columns, input, output.
    bias: float32 [P, C].
    interpret: whether to run on any machine, slowly, for tests.

  Returns:
    float32 [P, C, H, W].
  """
  return _correlate(_edges(x), kernel, interpret) + bias[:, :, None, None]


def _forward(x, kernel, bias, interpret):
  return conv3(x, kernel, bias, interpret), (x, kernel)


def _backward(interpret, residuals, g):
  x, kernel = residuals
  # The gradient of the padded image is a convolution of g by the reversed kernel.
  around = jnp.pad(g, ((0, 0), (0, 0), (2, 2), (2, 2)))
  mirrored = kernel[:, ::-1, ::-1].swapaxes(3, 4)
  (dx,) = jax.linear_transpose(_edges, x)(_correlate(around, mirrored, interpret))
  return dx, _kernel_gradient(_edges(x), g, interpret), g.sum((2, 3))


conv3.defvjp(_forward, _backward)
