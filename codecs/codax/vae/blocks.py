"""Building blocks of the convolutional VAE: gated convolutions, attention, SPADE.

A convolution before an activation makes all of the activation's inputs: a split Bezier
curve takes five channels for each that it returns, so the convolution is five times as
wide. Normalization is either by groups of channels over the whole image (Wu and He
2018; the report's) or over the channels of a position, which keeps a network of
convolutions local, so that the tiles of an image fit together.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from codax.layers import transposed_conv
from codax.layers.activations.modules import Activated
from codax.vae.arch import ActConfig

_GROUPS = 32  # at most; a width that 32 does not divide gets fewer


class GatedConv(nn.Module):
  """Computes a convolution and an activation: [B, h, w, I] to [B, h', w', features].

  Attributes:
    features: number of output channels.
    act: the activation.
    kernel: side of the kernel.
    stride: step of the convolution; of the output where `is_transposed`.
    dilation: distance of the kernel's taps.
    is_transposed: whether `stride` makes the sides larger.
    has_bias: whether the convolution has a bias.
    dtype: dtype of the computation.
  """

  features: int
  act: ActConfig
  kernel: int
  stride: int = 1
  dilation: int = 1
  is_transposed: bool = False
  has_bias: bool = True
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    width = self.features * self.act.expansion
    window, strides = (self.kernel,) * 2, (self.stride,) * 2
    if self.is_transposed and (window, strides) == ((4, 4), (2, 2)):
      # the same parameters; its gradient is fast on CPUs
      y = transposed_conv.ConvTranspose(width, self.dtype, name='conv')(x)
    elif self.is_transposed:
      y = nn.ConvTranspose(width, window, strides, dtype=self.dtype, name='conv')(x)
    else:
      y = nn.Conv(
        width,
        window,
        strides,
        kernel_dilation=self.dilation,
        use_bias=self.has_bias,
        dtype=self.dtype,
        name='conv',
      )(x)
    return Activated(self.act.make(), name='act')(y)


def normalize(x: jax.Array, norm: str) -> jax.Array:
  """Normalizes to mean 0 and variance 1, in float32.

  Args:
    x: float [B, h, w, C].
    norm: 'group' or 'position', see the module's docstring.
  """
  groups = math.gcd(_GROUPS, x.shape[-1]) if norm == 'group' else 1
  wide = x.astype(jnp.float32)
  split = wide.reshape(*x.shape[:3], groups, -1)
  axes = (1, 2, 4) if norm == 'group' else (4,)
  mean = split.mean(axes, keepdims=True)
  centred = split - mean
  variance = (centred**2).mean(axes, keepdims=True)
  out = centred * jax.lax.rsqrt(variance + 1e-6)
  return out.reshape(x.shape).astype(x.dtype)


class Norm(nn.Module):
  """Normalizes, then scales and shifts each channel.

  Attributes:
    norm: 'group' or 'position'.
  """

  norm: str

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    scale = self.param('scale', nn.initializers.ones, x.shape[-1:])
    bias = self.param('bias', nn.initializers.zeros, x.shape[-1:])
    shape = (1, 1, 1, -1)
    y = normalize(x, self.norm).astype(jnp.float32)
    return (y * scale.reshape(shape) + bias.reshape(shape)).astype(x.dtype)


class Spade(nn.Module):
  """Normalizes and modulates by a map: SPADE (Park et al. 2019, section 3).

  Attributes:
    norm: 'group' or 'position'.
    hidden: number of channels of the convolution that gain and shift share.
    dtype: dtype of the computation.
  """

  norm: str
  hidden: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, condition: jax.Array) -> jax.Array:
    conv = lambda features, name: nn.Conv(features, (3, 3), dtype=self.dtype, name=name)
    shared = nn.relu(conv(self.hidden, 'shared')(resize(condition, x.shape[1])))
    gain, shift = conv(x.shape[-1], 'gain')(shared), conv(x.shape[-1], 'shift')(shared)
    return normalize(x, self.norm) * (1 + gain) + shift


def resize(x: jax.Array, height: int) -> jax.Array:
  """Repeats the pixels of [B, h, w, C] until the image is `height` high."""
  factor = height // x.shape[1]
  return x if factor == 1 else x.repeat(factor, 1).repeat(factor, 2)


class AttentionBlock(nn.Module):
  """Applies a pre-norm transformer block to a map: [B, h, w, C] to the same shape.

  Attributes:
    act: activation of the feed-forward part.
    heads: number of heads; divides C.
    window: side of the square windows that are attended to by themselves, in
      positions; 0 is the whole map.
    dtype: dtype of the computation; the attention's weights are float32.
  """

  act: ActConfig
  heads: int
  window: int = 0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    batch, h, w, width = x.shape
    x = pad_to_windows(x, self.window)
    padded = x.shape[1:3]
    mask = _inside(padded, (h, w), self.window)
    y = to_windows(x, self.window)
    norm = lambda name: nn.LayerNorm(dtype=self.dtype, name=name)
    attended = _Attention(self.heads, self.dtype, name='attention')(
      norm('norm_attention')(y), mask
    )
    y = y + attended
    hidden = self.act.expansion * 2 * width
    z = nn.Dense(hidden, dtype=self.dtype, name='widen')(norm('norm_widen')(y))
    z = Activated(self.act.make(), name='act')(z)
    y = y + nn.Dense(width, dtype=self.dtype, name='narrow')(z)
    return from_windows(y, (batch, *padded), self.window)[:, :h, :w]


class _Attention(nn.Module):
  """Computes multi-head attention of tokens [N, T, C] among themselves.

  Attributes:
    heads: number of heads.
    dtype: dtype of the products.
  """

  heads: int
  dtype: Any

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
    n, tokens, width = x.shape
    dense = lambda name: nn.Dense(width, dtype=self.dtype, name=name)
    split = lambda y: y.reshape(n, tokens, self.heads, -1)
    query, key, value = (split(dense(name)(x)) for name in ('query', 'key', 'value'))
    logits = jnp.einsum('nqhd,nkhd->nhqk', query, key).astype(jnp.float32)
    logits = logits / math.sqrt(query.shape[-1])
    if mask is not None:  # [windows, T]; n is images times windows
      seen = jnp.tile(mask, (n // len(mask), 1)).reshape(n, 1, 1, tokens)
      logits = jnp.where(seen, logits, -1e9)
    weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
    y = jnp.einsum('nhqk,nkhd->nqhd', weights, value).reshape(n, tokens, width)
    return dense('out')(y)


def pad_to_windows(x: jax.Array, window: int) -> jax.Array:
  """Pads a map [B, h, w, C] by zeros to whole windows."""
  if not window:
    return x
  pad = [(0, -side % window) for side in x.shape[1:3]]
  return jnp.pad(x, ((0, 0), *pad, (0, 0)))


def to_windows(x: jax.Array, window: int) -> jax.Array:
  """Cuts a map into windows: [B, h, w, C] to tokens [B * windows, T, C]."""
  b, h, w, c = x.shape
  if not window:
    return x.reshape(b, h * w, c)
  x = x.reshape(b, h // window, window, w // window, window, c)
  return jnp.moveaxis(x, 3, 2).reshape(-1, window * window, c)


def from_windows(x: jax.Array, shape: tuple[int, int, int], window: int) -> jax.Array:
  """Inverts `to_windows` for a map of `shape` (B, h, w)."""
  b, h, w = shape
  if not window:
    return x.reshape(b, h, w, -1)
  x = x.reshape(b, h // window, w // window, window, window, -1)
  return jnp.moveaxis(x, 2, 3).reshape(b, h, w, -1)


def _inside(padded: tuple, shape: tuple, window: int) -> jax.Array | None:
  """Marks the tokens that are no padding, bool [windows, T]; None without padding."""
  if padded == shape:
    return None
  rows, columns = (jnp.arange(p) < s for p, s in zip(padded, shape))
  both = rows.reshape(-1, 1) & columns.reshape(1, -1)
  return to_windows(both.reshape(1, *padded, 1), window)[..., 0]


def sine_positions(height: int, width: int, channels: int) -> jax.Array:
  """Returns sines and cosines of rows and columns, float32 [1, h, w, channels].

  The first half of the channels is of the rows, the rest of the columns; frequencies
  fall from 1 to 1/10,000 (Vaswani et al. 2017, section 3.5).
  """

  def axis(length: int, channels: int) -> jax.Array:
    half = -(-channels // 2)
    rates = 10_000.0 ** (-jnp.arange(half) / half)
    angles = jnp.arange(length).reshape(-1, 1) * rates.reshape(1, -1)
    waves = jnp.stack([jnp.sin(angles), jnp.cos(angles)], -1)
    return waves.reshape(length, -1)[:, :channels]

  rows, columns = channels // 2, channels - channels // 2
  of_rows = jnp.broadcast_to(axis(height, rows)[:, None], (height, width, rows))
  of_columns = jnp.broadcast_to(axis(width, columns)[None], (height, width, columns))
  return jnp.concatenate([of_rows, of_columns], -1)[None]


def coordinates(x: jax.Array) -> jax.Array:
  """Returns rows and columns from -1 to 1 as two channels, [B, h, w, 2]."""
  b, h, w, _ = x.shape
  rows, columns = jnp.linspace(-1, 1, h), jnp.linspace(-1, 1, w)
  pair = jnp.stack(jnp.meshgrid(rows, columns, indexing='ij'), -1)
  return jnp.broadcast_to(pair[None], (b, h, w, 2)).astype(x.dtype)
