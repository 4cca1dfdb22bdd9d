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

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from codax.errors import CodaxError, unknown
from codax.layers import activations
from codax.layers.blocks import depth_to_space, space_to_depth
from codax.vae import blocks

ENDS = ('linear', 'bezier')
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
_SKIP = 0.1  # weight of a stage's skip
_COORDINATES = 2
# Variances at first are e^-4: the expander learns from nearly clean latents.
_LOG_VAR_START = -4.0
_LOG_VAR_RANGE = (-16.0, 8.0)


class ModelConfig(NamedTuple):
  """Architecture of the networks.

  Attributes:
    arch: 'compact' or 'reference'; names the sizes that the other keys start from.
    act: name of the activation, see `codax.layers.activations`.
    latent_dim: number of channels of the latents.
    width: number of channels inside.
    patch: side of the blocks of pixels that are the channels at both ends, a power of
      two.
    stages: number of halvings of the sides.
    kernels: sides of the kernels (before a halving, halving, doubling, after one).
    dilation: distance of the taps of the convolution after a doubling.
    body: number of residual convolutions at the latents' resolution, in each network.
    color_head: widths of the convolutions before the last one.
    has_coordinates: whether rows and columns are two more input channels.
    attention_blocks: number of attention blocks.
    heads: number of heads of an attention block; divides `width`.
    attention_window: side of an attention window in positions; 0 is the whole image.
    has_spade: whether the expander's stages are modulated by the latent map.
    has_linear_path: whether linear maps of blocks of pixels to means, and of latents to
      blocks, are added to the networks.
    norm: 'group' or 'position', see `codax.vae.blocks`.
    ends: 'bezier', curves of learned control points around means, log-variances and
      colors, or 'linear'.
    dtype: 'float32' or 'bfloat16', of the computation; parameters are float32.
    remat: whether gradients compute a stage again instead of keeping its values.
  """

  arch: str = 'compact'
  act: str = 'bezier_split'
  latent_dim: int = 48
  width: int = 48
  patch: int = 4
  stages: int = 1
  kernels: tuple[int, ...] = (3, 4, 4, 3)
  dilation: int = 1
  body: int = 0
  color_head: tuple[int, ...] = (48,)
  has_coordinates: bool = False
  attention_blocks: int = 0
  heads: int = 4
  attention_window: int = 8
  has_spade: bool = True
  has_linear_path: bool = True
  norm: str = 'position'
  ends: str = 'linear'
  dtype: str = 'float32'
  remat: bool = False

  @property
  def factor(self) -> int:
    """Side in pixels of a latent position."""
    return self.patch << self.stages


REFERENCE = ModelConfig(
  arch='reference',
  latent_dim=128,
  width=128,
  patch=1,
  stages=4,
  kernels=(3, 8, 16, 5),
  dilation=2,
  color_head=(96, 48),
  has_coordinates=True,
  attention_blocks=4,
  heads=8,
  attention_window=0,
  has_linear_path=False,
  norm='group',
  ends='bezier',
)
ARCHS = {'compact': ModelConfig(), 'reference': REFERENCE}


def check(config: ModelConfig) -> ModelConfig:
  """Returns the config after checks; `CodaxError` names a value out of range."""
  for name, valid in (('arch', ARCHS), ('norm', blocks.NORMS), ('ends', ENDS),
                      ('dtype', DTYPES)):  # fmt: skip
    if getattr(config, name) not in valid:
      raise unknown(f'model.{name}', getattr(config, name), valid)
  activations.get(config.act)
  for name, low, high in (
    ('latent_dim', 1, 1024), ('width', 1, 4096), ('patch', 1, 64), ('stages', 0, 6),
    ('dilation', 1, 16), ('body', 0, 64), ('attention_blocks', 0, 64),
    ('heads', 1, 64), ('attention_window', 0, 1024),
  ):  # fmt: skip
    value = getattr(config, name)
    if not isinstance(value, int) or not low <= value <= high:
      raise CodaxError(f'model.{name} is {value!r}; valid: {low} to {high}')
  if config.patch & (config.patch - 1):
    raise CodaxError(f'model.patch = {config.patch} is not a power of two')
  if config.attention_blocks and config.width % config.heads:
    raise CodaxError(
      f'model.width = {config.width} is not a multiple of model.heads = {config.heads}'
    )
  if len(config.kernels) != 4 or not all(_is_size(k, 32) for k in config.kernels):
    raise CodaxError(f'model.kernels is {config.kernels}; valid: four of 1 to 32')
  if not all(_is_size(k, 4096) for k in config.color_head):
    raise CodaxError(f'model.color_head is {config.color_head}; valid: 1 to 4096 each')
  return config


def _is_size(value: Any, high: int) -> bool:
  is_int = isinstance(value, int) and not isinstance(value, bool)
  return is_int and 1 <= value <= high


def stage_widths(config: ModelConfig) -> list[int]:
  """Returns the channels of the compressor's stages, the input's first.

  They grow evenly from the input's to `width`: 5, 36, 66, 97, 128 in the reference.
  """
  first = 3 * config.patch**2 + _COORDINATES * config.has_coordinates
  steps = max(config.stages, 1)
  if config.stages < 2:
    return [first] + [config.width] * steps
  gain = (config.width - first) / steps
  return [first] + [round(first + gain * (i + 1)) for i in range(steps)]


class Compressor(nn.Module):
  """Maps float [B, H, W, 3] in [-1, 1] to (mean, log-variance), [B, h, w, latent_dim].

  H and W are multiples of `ModelConfig.factor`; the results are float32.
  """

  config: ModelConfig

  @nn.compact
  def __call__(self, image: jax.Array) -> tuple[jax.Array, jax.Array]:
    cfg, dtype = self.config, DTYPES[self.config.dtype]
    x = space_to_depth(image, cfg.patch).astype(dtype)
    if cfg.has_coordinates:
      x = jnp.concatenate([x, blocks.coordinates(x)], -1)
    stage = _remat(_DownStage, cfg)
    for i, width in enumerate(stage_widths(cfg)[1:]):
      x = stage(cfg, width, name=f'stage_{i}')(x)
    x = _body(cfg, x)
    x = _Head(cfg, cfg.width, name='latent_head')(x)
    if cfg.attention_blocks:
      x = x + blocks.sine_positions(*self._positions(x), x.shape[-1]).astype(dtype)
      block = _remat(blocks.AttentionBlock, cfg)
      for i in range(cfg.attention_blocks):
        x = block(
          cfg.act, cfg.heads, cfg.attention_window, dtype, name=f'attention_{i}'
        )(x)
    mean = _Head(cfg, cfg.latent_dim, blocks.MEAN_CURVE, name='mean_head')(x)
    log_var = _Head(cfg, cfg.latent_dim, blocks.LOG_VAR_CURVE, name='log_var_head')(x)
    mean, log_var = mean.astype(jnp.float32), log_var.astype(jnp.float32)
    if cfg.ends == 'linear':
      log_var = log_var + _LOG_VAR_START
    if cfg.has_linear_path:
      pixels = space_to_depth(image, cfg.factor)
      mean = mean + nn.Dense(cfg.latent_dim, name='linear_path')(pixels)
    return mean, jnp.clip(log_var, *_LOG_VAR_RANGE)

  def _positions(self, x: jax.Array) -> tuple[int, int]:
    return x.shape[1:3]


class Expander(nn.Module):
  """Maps latents [B, h, w, latent_dim] to float32 [B, H, W, 3], not clipped."""

  config: ModelConfig

  @nn.compact
  def __call__(self, z: jax.Array) -> jax.Array:
    cfg, dtype = self.config, DTYPES[self.config.dtype]
    latents = z.astype(dtype)
    x = latents
    if cfg.latent_dim != cfg.width:
      x = nn.Conv(cfg.width, (1, 1), dtype=dtype, name='widen')(x)
    x = _body(cfg, x)
    stage = _remat(_UpStage, cfg)
    for i in range(max(cfg.stages, 1)):
      x = stage(cfg, name=f'stage_{i}')(x, latents)
    for i, width in enumerate(cfg.color_head):
      x = nn.Conv(width, (3, 3), dtype=dtype, name=f'color_{i}')(x)
      x = nn.silu(blocks.Norm(cfg.norm, name=f'color_norm_{i}')(x))
    init = nn.initializers.zeros if cfg.has_linear_path else None
    kwargs = {'kernel_init': init} if init else {}
    x = nn.Conv(3 * cfg.patch**2, (1, 1), dtype=dtype, name='color_last', **kwargs)(x)
    x = x.astype(jnp.float32)
    if cfg.ends == 'bezier':
      x = blocks.Activated(
        'bezier', (('start', blocks.COLOR_CURVE),), name='color_act'
      )(x)
    image = depth_to_space(x, cfg.patch)
    if cfg.has_linear_path:
      pixels = nn.Dense(3 * cfg.factor**2, name='linear_path')(z.astype(jnp.float32))
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
    cfg, dtype = self.config, DTYPES[self.config.dtype]
    first, second = cfg.kernels[:2]
    x = blocks.GatedConv(
      self.width, cfg.act, first, has_bias=False, dtype=dtype, name='mix'
    )(x)
    if not cfg.stages:
      return x
    return blocks.GatedConv(self.width, cfg.act, second, 2, dtype=dtype, name='down')(x)


class _UpStage(nn.Module):
  """Modulates by the latents, doubles the sides, convolves; adds a weak skip.

  With `ModelConfig.stages` 0 nothing is doubled.
  """

  config: ModelConfig

  @nn.compact
  def __call__(self, x: jax.Array, latents: jax.Array) -> jax.Array:
    cfg, dtype = self.config, DTYPES[self.config.dtype]
    third, fourth = cfg.kernels[2:]
    skip = x
    if cfg.has_spade:
      x = blocks.Spade(cfg.norm, cfg.width, dtype, name='spade')(x, latents)
    if cfg.stages:
      x = blocks.GatedConv(
        cfg.width, cfg.act, third, 2, is_transposed=True, dtype=dtype, name='up'
      )(x)
    x = blocks.GatedConv(
      cfg.width, cfg.act, fourth, dilation=cfg.dilation, dtype=dtype, name='mix'
    )(x)
    return x + _SKIP * blocks.resize(skip, x.shape[1])


class _Head(nn.Module):
  """Computes two 1x1 convolutions, [B, h, w, C] to [B, h, w, features].

  Both are followed by the activation, the last one of an output with 'linear' ends
  apart, which is 0 at first for log-variances and wherever the linear path is there.

  Attributes:
    config: the architecture.
    features: number of output channels.
    curve: control points at first of the curve around an output; None for features
      inside of the network.
  """

  config: ModelConfig
  features: int
  curve: tuple[float, ...] | None = None

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    cfg, dtype = self.config, DTYPES[self.config.dtype]
    conv = lambda width, name: blocks.GatedConv(
      width, cfg.act, 1, dtype=dtype, name=name
    )
    x = conv(cfg.width, 'first')(x)
    if self.curve is None or cfg.ends == 'bezier':
      x = conv(self.features, 'second')(x)
    if self.curve is None:
      return x
    if cfg.ends == 'bezier':
      curve = blocks.Activated('bezier', (('start', self.curve),), name='curve')
      return curve(x.astype(jnp.float32))
    is_zero = self.curve == blocks.LOG_VAR_CURVE or cfg.has_linear_path
    init = nn.initializers.zeros if is_zero else nn.initializers.lecun_normal()
    return nn.Conv(self.features, (1, 1), dtype=dtype, kernel_init=init, name='second')(
      x
    )


def _body(config: ModelConfig, x: jax.Array) -> jax.Array:
  """Adds residual convolutions; within the caller's module."""
  dtype = DTYPES[config.dtype]
  for i in range(config.body):
    y = blocks.normalize(x, config.norm)
    y = blocks.GatedConv(config.width, config.act, 3, dtype=dtype, name=f'body_{i}')(y)
    x = x + nn.Conv(
      config.width, (1, 1), dtype=dtype, kernel_init=nn.initializers.zeros,
      name=f'body_out_{i}',
    )(y)  # fmt: skip
  return x


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
