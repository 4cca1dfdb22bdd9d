"""Networks of the convolutional VAE: compressor and expander.

One code for two sizes. 'reference' has the sizes of the report that this family
starts from: 12,580,553 parameters in the compressor and 94,006,863 in the expander.
'compact' is of the same kind and trains on two CPU cores; it works on blocks of pixels
(`patch`) in place of pixels, and each of its parts is local, so that images of any
size can be coded by tiles.

Compressor: stages of a convolution and one of stride 2, a head of two 1x1 convolutions,
attention blocks with sine positions, then two heads: mean and log-variance of the
latents. Expander: stages of SPADE on the latent map, a transposed convolution and a
dilated one with a weak skip, then colors. The expander sees the sampled latents and
nothing else of the image.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from codax.layers.activations.modules import Activated
from codax.layers.twins import depth_to_space, space_to_depth
from codax.vae import arch, blocks, dct
from codax.vae.arch import ModelConfig
from codax.vae.blocks import ActConfig

_SKIP = 0.1  # weight of a stage's skip
# Variances at first are e^-4: the expander learns from nearly clean latents.
_LOG_VAR_START = -4.0
_LOG_VAR_RANGE = (-16.0, 8.0)


class Compressor(nn.Module):
  """Maps float [B, H, W, 3] in [-1, 1] to (mean, log-variance), [B, h, w, latent_dim].

  H and W are multiples of `ModelConfig.factor`; the results are float32.
  """

  config: ModelConfig

  @nn.compact
  def __call__(self, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    cfg, dtype = self.config, jnp.dtype(self.config.dtype)
    x = space_to_depth(image, cfg.patch).astype(dtype)
    if cfg.has_coordinates:
      x = jnp.concatenate([x, blocks.coordinates(x)], -1)
    stage = _remat(_DownStage, cfg)
    for i, width in enumerate(arch.stage_widths(cfg)[1:]):
      x = stage(cfg, width, name=f'stage_{i}')(x)
    x = _body(cfg, cfg.activation, x)
    x = _Head(cfg, cfg.width, name='latent_head')(x)
    if cfg.attention_blocks:
      x = x + blocks.sine_positions(*x.shape[1:]).astype(dtype)
      block = _remat(blocks.AttentionBlock, cfg)
      for i in range(cfg.attention_blocks):
        x = block(
          cfg.activation, cfg.heads, cfg.attention_window, dtype, name=f'attention_{i}'
        )(x)
    mean = _Head(cfg, cfg.latent_dim, arch.MEAN_CURVE, name='mean_head')(x)
    log_var = _Head(cfg, cfg.latent_dim, arch.LOG_VAR_CURVE, name='log_var_head')(x)
    mean, log_var = mean.astype(jnp.float32), log_var.astype(jnp.float32)
    if cfg.ends == 'linear':
      log_var = log_var + _LOG_VAR_START
    if cfg.has_linear_path:
      pixels = space_to_depth(image, cfg.factor)
      start = dct.linear_maps(cfg.factor, cfg.latent_dim)[0]
      mean = mean + nn.Dense(
        cfg.latent_dim, kernel_init=_constant(start), name='linear_path'
      )(pixels)
    return mean, jnp.clip(log_var, *_LOG_VAR_RANGE)


class Expander(nn.Module):
  """Maps latents [B, h, w, latent_dim] to float32 [B, H, W, 3], not clipped."""

  config: ModelConfig

  @nn.compact
  def __call__(self, z: jax.Array) -> jax.Array:
    cfg, dtype = self.config, jnp.dtype(self.config.dtype)
    latents = z.astype(dtype)
    x = latents
    if cfg.latent_dim != cfg.width:
      x = nn.Conv(cfg.width, (1, 1), dtype=dtype, name='widen')(x)
    x = _body(cfg, cfg.expander_activation, x)
    stage = _remat(_UpStage, cfg)
    for i in range(max(cfg.stages, 1)):
      x = stage(cfg, name=f'stage_{i}')(x, latents)
    for i, width in enumerate(cfg.color_head):
      x = nn.Conv(width, (3, 3), dtype=dtype, name=f'color_{i}')(x)
      x = nn.silu(blocks.Norm(cfg.norm, name=f'color_norm_{i}')(x))
    init = _last_init(cfg.has_linear_path)
    x = nn.Conv(
      3 * cfg.patch**2, (1, 1), dtype=dtype, kernel_init=init, name='color_last'
    )(x)
    x = x.astype(jnp.float32)
    if cfg.ends == 'bezier':
      x = Activated(arch.COLOR_CURVE.make(), name='color_act')(x)
    image = depth_to_space(x, cfg.patch)
    if cfg.has_linear_path:
      start = dct.linear_maps(cfg.factor, cfg.latent_dim)[1]
      pixels = nn.Dense(
        3 * cfg.factor**2, kernel_init=_constant(start), name='linear_path'
      )(z.astype(jnp.float32))
      image = image + depth_to_space(pixels, cfg.factor)
    return image


class _DownStage(nn.Module):
  """Computes a convolution without bias, then one that halves the sides.

  With `ModelConfig.stages` 0 the second one is missing.
  """

  config: ModelConfig
  width: int

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    cfg, dtype = self.config, jnp.dtype(self.config.dtype)
    first, second = cfg.kernels[:2]
    x = blocks.GatedConv(
      self.width, cfg.activation, first, has_bias=False, dtype=dtype, name='mix'
    )(x)
    if not cfg.stages:
      return x
    return blocks.GatedConv(
      self.width, cfg.activation, second, 2, dtype=dtype, name='down'
    )(x)


class _UpStage(nn.Module):
  """Modulates by the latents, doubles the sides, convolves; adds a weak skip.

  With `ModelConfig.stages` 0 nothing is doubled.
  """

  config: ModelConfig

  @nn.compact
  def __call__(self, x: jax.Array, latents: jax.Array) -> jax.Array:
    cfg, dtype = self.config, jnp.dtype(self.config.dtype)
    third, fourth = cfg.kernels[2:]
    skip = x
    if cfg.has_spade:
      x = blocks.Spade(cfg.norm, cfg.width, dtype, name='spade')(x, latents)
    if cfg.stages:
      x = blocks.GatedConv(
        cfg.width,
        cfg.expander_activation,
        third,
        2,
        is_transposed=True,
        dtype=dtype,
        name='up',
      )(x)
    x = blocks.GatedConv(
      cfg.width,
      cfg.expander_activation,
      fourth,
      dilation=cfg.dilation,
      dtype=dtype,
      name='mix',
    )(x)
    return x + _SKIP * blocks.resize(skip, x.shape[1])


class _Head(nn.Module):
  """Computes two 1x1 convolutions, [B, h, w, C] to [B, h, w, features].

  Both are followed by the activation, the last one of an output with 'linear' ends
  apart, which is 0 at first for log-variances and wherever the linear path is there.

  Attributes:
    config: the architecture.
    features: number of output channels.
    curve: Bezier curve around an output; None for features inside of the network.
  """

  config: ModelConfig
  features: int
  curve: blocks.ActConfig | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    cfg, dtype = self.config, jnp.dtype(self.config.dtype)
    conv = lambda width, name: blocks.GatedConv(
      width, cfg.activation, 1, dtype=dtype, name=name
    )
    x = conv(cfg.width, 'first')(x)
    if self.curve is None or cfg.ends == 'bezier':
      x = conv(self.features, 'second')(x)
    if self.curve is None:
      return x
    if cfg.ends == 'bezier':
      curve = Activated(self.curve.make(), name='curve')
      return curve(x.astype(jnp.float32))
    is_zero = self.curve == arch.LOG_VAR_CURVE or cfg.has_linear_path
    return nn.Conv(
      self.features, (1, 1), dtype=dtype, kernel_init=_last_init(is_zero), name='second'
    )(x)


def _body(config: ModelConfig, act: ActConfig, x: jax.Array) -> jax.Array:
  """Adds residual convolutions; within the caller's module."""
  dtype = jnp.dtype(config.dtype)
  for i in range(config.body):
    y = blocks.normalize(x, config.norm)
    y = blocks.GatedConv(config.width, act, 3, dtype=dtype, name=f'body_{i}')(y)
    x = x + nn.Conv(
      config.width, (1, 1), dtype=dtype, kernel_init=nn.initializers.zeros,
      name=f'body_out_{i}',
    )(y)  # fmt: skip
  return x


def _last_init(is_zero: bool) -> Any:
  """Returns the initializer of an output: zeros where another path starts it."""
  return nn.initializers.zeros if is_zero else nn.initializers.lecun_normal()


def _constant(value: np.ndarray) -> Any:
  return lambda rng, shape, dtype=jnp.float32: jnp.asarray(value, dtype)


def _remat(module: Any, config: ModelConfig) -> Any:
  return nn.remat(module) if config.remat else module


def to_model(image: jax.Array) -> jax.Array:
  """Maps uint8 to float32 in [-1, 1]."""
  return image.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(x: jax.Array) -> jax.Array:
  """Maps floats in [-1, 1] to uint8, clamped and rounded."""
  return jnp.round(jnp.clip(x * 127.5 + 127.5, 0.0, 255.0)).astype(jnp.uint8)


def analyze(config: ModelConfig, params: Any, image: jax.Array) -> jax.Array:
  """Computes the means of the latents of images.

  Args:
    config: the architecture.
    params: parameters of the compressor.
    image: uint8 [B, H, W, 3]; H and W are multiples of `config.factor`.

  Returns:
    float32 [B, H/f, W/f, latent_dim].
  """
  return Compressor(config).apply({'params': params}, to_model(image))[0]


def synthesize(config: ModelConfig, params: Any, z: jax.Array) -> jax.Array:
  """Decodes latents.

  Args:
    config: the architecture.
    params: parameters of the expander.
    z: float32 [B, h, w, latent_dim].

  Returns:
    uint8 [B, h*f, w*f, 3].
  """
  return to_uint8(Expander(config).apply({'params': params}, z))
