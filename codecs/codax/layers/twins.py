"""Layers that run in NumPy and in JAX: one function, given the array module.

A codec trains in JAX; its files are to be opened without it (importing and compiling
take longer than the work). Arrays are channels-last, parameters are dicts. `xp` is
`numpy` or `jax.numpy`; both compute in the type of their arguments, and agree up to
rounding.
"""

from typing import Any

import numpy as np

from codax.layers import activations

Params = dict[str, Any]


def dense(p: Params, x: Any) -> Any:
  """Multiplies x [..., in] by ``p['kernel']`` [in, out] and adds ``p['bias']``."""
  y = x.reshape(-1, x.shape[-1]) @ p['kernel']
  return (y + p['bias'][None]).reshape(*x.shape[:-1], y.shape[-1])


def conv3(p: Params, x: Any, xp: Any) -> Any:
  """Convolves x [B, H, W, in] with ``p['kernel']`` [3, 3, in, out], zeros outside.

  Returns [B, H, W, out], ``p['bias']`` added.
  """
  if xp is not np:
    from jax import lax

    dims = ('NHWC', 'HWIO', 'NHWC')
    y = lax.conv_general_dilated(x, p['kernel'], (1, 1), 'SAME', dimension_numbers=dims)
    return y + p['bias'][None, None, None]
  b, h, w, _ = x.shape
  kernel = p['kernel']
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  y = np.broadcast_to(p['bias'], (b, h, w, kernel.shape[-1])).copy()
  for i in range(3):
    for j in range(3):
      y += dense_only(padded[:, i : i + h, j : j + w], kernel[i, j])
  return y


def dense_only(x: Any, kernel: Any) -> Any:
  """Multiplies x [..., in] by a kernel [in, out]."""
  return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)


def space_to_depth(x: Any, factor: int) -> Any:
  """Reshapes [..., H, W, C] to [..., H/f, W/f, f*f*C], raster order inside a block."""
  *lead, h, w, c = x.shape
  x = x.reshape(*lead, h // factor, factor, w // factor, factor, c).swapaxes(-4, -3)
  return x.reshape(*lead, h // factor, w // factor, factor * factor * c)


def depth_to_space(x: Any, factor: int) -> Any:
  """Inverts `space_to_depth`."""
  *lead, h, w, c = x.shape
  x = x.reshape(*lead, h, w, factor, factor, c // factor**2).swapaxes(-3, -4)
  return x.reshape(*lead, h * factor, w * factor, c // factor**2)


def residual_block(p: Params, x: Any, act: activations.Activation, xp: Any) -> Any:
  """Computes x + conv3(act(conv3(x))); x [B, H, W, C]."""
  y = act.apply(p.get('act', {}), conv3(p['conv_0'], x, xp), xp)
  return x + conv3(p['conv_1'], y, xp)


def init_dense(rng: Any, num_in: int, num_out: int, scale: float = 1.0) -> Params:
  """Draws a dense layer: variance scale**2 / num_in (0: all zeros), no bias."""
  return {
    'kernel': _draw(rng, (num_in, num_out), num_in, scale),
    'bias': _zeros(num_out),
  }


def init_conv3(rng: Any, num_in: int, num_out: int, scale: float = 1.0) -> Params:
  """Draws a 3x3 convolution: variance scale**2 / (9 num_in), no bias."""
  shape = (3, 3, num_in, num_out)
  return {'kernel': _draw(rng, shape, 9 * num_in, scale), 'bias': _zeros(num_out)}


def init_residual_block(rng: Any, width: int, act: activations.Activation) -> Params:
  """Draws a residual block whose second convolution is small at first, but not 0.

  At 0, behind a last layer that is 0 too, the first convolution would learn only when
  both had left it.
  """
  import jax

  keys = jax.random.split(rng)
  return {
    'conv_0': init_conv3(keys[0], width, act.expansion * width, 2**0.5),
    'act': act.init(width),
    'conv_1': init_conv3(keys[1], width, width, 0.3),
  }


def _draw(rng: Any, shape: tuple[int, ...], fan_in: int, scale: float) -> Any:
  import jax

  if not scale:
    return _zeros(*shape)
  return scale * fan_in**-0.5 * jax.random.normal(rng, shape)


def _zeros(*shape: int) -> Any:
  import jax.numpy as jnp

  return jnp.zeros(shape, jnp.float32)
