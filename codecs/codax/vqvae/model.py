"""Encoder and decoder of the VQ-VAE (van den Oord et al. 2017, section 4.1).

Two architectures, picked by ``ModelConfig.resample``:

* ``'strided'``: 4x4 convolutions of stride 2 and their transposes, as the reference
  model has them (6,962,179 parameters at ``REFERENCE``);
* ``'patch'``: space-to-depth by the whole factor, every convolution at the latent
  resolution, depth-to-space at the end. It takes 4-10 times less time per pixel on a
  CPU at equal quality, so it is the small default.

All arrays are channels-last float32 in [-1, 1]; sides must be multiples of
``ModelConfig.factor``. The codec pads images.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from codax.errors import CodaxError, unknown
from codax.layers import transposed_conv
from codax.layers.blocks import ACTIVATIONS, ResidualBlock
from codax.layers.twins import depth_to_space, space_to_depth

RESAMPLE = ('patch', 'strided')


class ModelConfig(NamedTuple):
  """Architecture of the networks.

  Attributes:
    resample: 'patch' or 'strided', see the module docstring.
    factor: latent step in pixels, a power of two.
    hidden: number of channels inside.
    latent_dim: number of channels to quantize; equal to `hidden` means no projection
      ('strided' only).
    encoder_blocks: number of residual blocks in the encoder.
    decoder_blocks: number of residual blocks in the decoder.
    activation: 'relu' or 'gelu'.
  """

  resample: str = 'patch'
  factor: int = 4
  hidden: int = 64
  latent_dim: int = 16
  encoder_blocks: int = 2
  decoder_blocks: int = 4
  activation: str = 'relu'


def check(config: ModelConfig) -> ModelConfig:
  """Returns the config after checks; `CodaxError` names a value out of range."""
  if config.resample not in RESAMPLE:
    raise unknown('model.resample', config.resample, RESAMPLE)
  if config.activation not in ACTIVATIONS:
    raise unknown('model.activation', config.activation, ACTIVATIONS)
  for name, low, high in (
    ('factor', 2, 64), ('hidden', 1, 4096), ('latent_dim', 1, 4096),
    ('encoder_blocks', 0, 64), ('decoder_blocks', 0, 64),
  ):  # fmt: skip
    value = getattr(config, name)
    if not isinstance(value, int) or not low <= value <= high:
      raise CodaxError(f'model.{name} is {value!r}; valid: {low} to {high}')
  if config.factor & (config.factor - 1):
    raise CodaxError(f'model.factor = {config.factor} is not a power of two')
  if config.resample == 'strided' and config.hidden < config.factor // 2:
    # each halving but one halves the channels too
    raise CodaxError(
      f"model.hidden is {config.hidden}; valid with 'strided' and factor "
      f'{config.factor}: {config.factor // 2} or more'
    )
  return config


REFERENCE = ModelConfig(
  resample='strided', hidden=256, latent_dim=256, encoder_blocks=2, decoder_blocks=2
)


class Encoder(nn.Module):
  """Maps float [B, H, W, 3] in [-1, 1] to latents [B, H/f, W/f, latent_dim]."""

  config: ModelConfig

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    cfg, act = self.config, ACTIVATIONS[self.config.activation]
    if cfg.resample == 'patch':
      x = nn.Conv(cfg.hidden, (3, 3))(space_to_depth(x, cfg.factor))
      for _ in range(cfg.encoder_blocks):
        x = ResidualBlock(cfg.hidden, act, pre=True)(x)
      return nn.Conv(cfg.latent_dim, (1, 1))(act(x))
    halvings = cfg.factor.bit_length() - 1
    for i in range(halvings):
      width = cfg.hidden >> (halvings - 1 - i)
      x = act(nn.Conv(width, (4, 4), (2, 2), padding=1)(x))
    x = act(nn.Conv(cfg.hidden, (3, 3))(x))
    for _ in range(cfg.encoder_blocks):
      x = ResidualBlock(cfg.hidden, act, pre=False)(x)
    if cfg.latent_dim != cfg.hidden:
      x = nn.Conv(cfg.latent_dim, (1, 1))(x)
    return x


class Decoder(nn.Module):
  """Maps latents [B, h, w, latent_dim] to float [B, h*f, w*f, 3], not clipped."""

  config: ModelConfig

  @nn.compact
  def __call__(self, z: jax.Array) -> jax.Array:
    cfg, act = self.config, ACTIVATIONS[self.config.activation]
    if cfg.resample == 'patch':
      x = nn.Conv(cfg.hidden, (3, 3))(z)
      for _ in range(cfg.decoder_blocks):
        x = ResidualBlock(cfg.hidden, act, pre=True)(x)
      x = nn.Conv(3 * cfg.factor**2, (3, 3))(act(x))
      return depth_to_space(x, cfg.factor)
    x = z if cfg.latent_dim == cfg.hidden else nn.Conv(cfg.hidden, (1, 1))(z)
    for _ in range(cfg.decoder_blocks):
      x = ResidualBlock(cfg.hidden, act, pre=False)(x)
    x = act(nn.Conv(cfg.hidden, (3, 3))(x))
    halvings = cfg.factor.bit_length() - 1
    for i in range(halvings):
      last = i == halvings - 1
      width = 3 if last else cfg.hidden >> (i + 1)
      x = transposed_conv.ConvTranspose(width)(x)
      x = x if last else act(x)
    return x


def to_model(image: jax.Array) -> jax.Array:
  """Maps uint8 to float32 in [-1, 1]."""
  return image.astype(jnp.float32) / 127.5 - 1.0


def to_uint8(x: jax.Array) -> jax.Array:
  """Maps floats in [-1, 1] to uint8, clamped and rounded."""
  return jnp.round(jnp.clip(x * 127.5 + 127.5, 0.0, 255.0)).astype(jnp.uint8)
