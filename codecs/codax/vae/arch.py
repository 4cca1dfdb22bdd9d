"""Architecture of the convolutional VAE: keys of `config.model`, sizes, checks.

This module needs no JAX.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from codax.config import parse
from codax.errors import CodaxError, unknown
from codax.layers import activations

ENDS = ('linear', 'bezier')
DTYPES = ('float32', 'bfloat16')
NORMS = ('group', 'position')


class ActConfig(NamedTuple):
  """An activation by its name.

  Attributes:
    name: name in `codax.layers.activations`.
    options: (keyword, value) pairs for `activations.get`.
  """

  name: str
  options: tuple[tuple[str, Any], ...] = ()

  @property
  def expansion(self) -> int:
    """Number of input channels for each output channel."""
    return self.make().expansion

  def make(self) -> activations.Activation:
    """Makes the activation; `CodaxError` for an unknown name or option."""
    return activations.get(self.name, **dict(self.options))


# Curves of learned control points that end the report's networks, one a channel. The
# numbers are the control points at first.
MEAN_CURVE = ActConfig('bezier', (('init', (-2.0, -0.5, 0.5, 2.0)),))
LOG_VAR_CURVE = ActConfig('bezier', (('init', (-3.0, -1.0, 1.0, 3.0)),))
COLOR_CURVE = ActConfig('bezier', (('init', (-1.0, 0.25, 0.75, 1.0)),))
_COORDINATES = 2


class ModelConfig(NamedTuple):
  """Architecture of the networks.

  Attributes:
    arch: 'compact' or 'reference'; names the sizes that the other keys start from.
    act: name of the activation, see `codax.layers.activations`.
    act_options: (keyword, value) pairs for it.
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
  act_options: tuple[tuple[str, Any], ...] = ()
  latent_dim: int = 48
  width: int = 32
  patch: int = 4
  stages: int = 1
  kernels: tuple[int, ...] = (3, 4, 4, 3)
  dilation: int = 1
  body: int = 1
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

  @property
  def activation(self) -> ActConfig:
    """The activation of the compressor."""
    return ActConfig(self.act, self.act_options)

  @property
  def expander_activation(self) -> ActConfig:
    """The activation of the expander: divisive normalization is inverted there."""
    inverse = (('inverse', True),) if self.act == 'gdn' else ()
    return ActConfig(self.act, self.act_options + inverse)


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
  body=0,
  ends='bezier',
)
ARCHS = {'compact': ModelConfig(), 'reference': REFERENCE}


def from_section(section: Mapping[str, Any]) -> ModelConfig:
  """Returns `config.model` as a `ModelConfig`; refuses unknown keys and bad values."""
  return check(
    parse(section, ModelConfig, 'config.model', nested={'act_options': _read_options})
  )


def _read_options(value: Any, path: str) -> tuple[tuple[str, Any], ...]:
  """Returns the options of an activation as hashable (name, value) pairs."""
  is_pair = lambda x: isinstance(x, list | tuple) and len(x) == 2
  if not isinstance(value, list | tuple) or not all(map(is_pair, value)):
    raise CodaxError(f'{path} is {value!r}; valid: (name, value) pairs, or ()')
  freeze = lambda x: tuple(x) if isinstance(x, list) else x
  return tuple((str(name), freeze(x)) for name, x in value)


def check(config: ModelConfig) -> ModelConfig:
  """Returns the config after checks; `CodaxError` names a value out of range."""
  for name, valid in (('arch', ARCHS), ('norm', NORMS), ('ends', ENDS),
                      ('dtype', DTYPES)):  # fmt: skip
    if getattr(config, name) not in valid:
      raise unknown(f'model.{name}', getattr(config, name), valid)
  config.activation.make()
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
