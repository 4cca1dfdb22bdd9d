"""Architectures of the classifiers: names, widths, what counts as valid."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from codax import config as config_lib
from codax.errors import CodaxError, unknown
from codax.layers import kan_wide

FRONTS = ('conv', 'none')
HEADS = ('kan', 'mlp')


class ModelConfig(NamedTuple):
  """Architecture of a classifier: a convolutional front, a dense layer and a head.

  Attributes:
    front: 'conv', convolutions with batch normalization and ReLU, average pooling and
      a dense layer of the first width; or 'none', the pixels themselves.
    front_widths: channels of the convolutions.
    front_kernels: sides of their kernels.
    front_strides: strides.
    pool: side of the map that is left by average pooling.
    head: 'kan' or 'mlp': the same widths without splines.
    widths: width of the dense layer, with a front, and widths of the head's layers.
    classes: number of classes.
    dropout: share of the dense layer's outputs that training sets to 0.
    has_batch_norm: whether the head normalizes between its layers.
    has_residual: whether a linear map is added to every KAN layer but the last.
    grid: see `kan_wide.Spec`, as all below.
    basis: basis of the edge functions.
    low: lower end of the grids at first.
    high: upper end of the grids at first.
    base_scale: scale of the base branch at first.
    spline_init: start of the splines.
    form: form of the sum.
    dtype: type of the factors in products, 'float32' or 'bfloat16'.
  """

  front: str = 'conv'
  front_widths: tuple[int, ...] = (64, 128, 256)
  front_kernels: tuple[int, ...] = (5, 3, 3)
  front_strides: tuple[int, ...] = (2, 2, 2)
  pool: int = 4
  head: str = 'kan'
  widths: tuple[int, ...] = (2048, 512, 128)
  classes: int = 10
  dropout: float = 0.1
  has_batch_norm: bool = True
  has_residual: bool = True
  grid: int = 10
  basis: str = 'bspline'
  low: float = -2.0
  high: float = 2.0
  base_scale: float = 2.5
  spline_init: str = 'identity'
  form: str = 'product'
  dtype: str = 'float32'

  @property
  def spec(self) -> kan_wide.Spec:
    """Returns the form of the KAN layers."""
    return kan_wide.Spec(**{key: getattr(self, key) for key in kan_wide.Spec._fields})

  @property
  def edges(self) -> tuple[int, ...]:
    """Returns the widths of the head from its inputs to the classes.

    Without a front the number of inputs depends on the images, and is left out.
    """
    return (*self.widths, self.classes)


_LITE = ModelConfig(widths=(1024, 256), grid=8, dropout=0.15)
_RAPID = ModelConfig()
# The models of the guide, and rivals of the same front.
VARIANTS = {
  'rapid_kan_lite': _LITE,
  'rapid_kan': _RAPID,
  'rapid_kan_power': ModelConfig(widths=(2048, 1024, 256), grid=15),
  'memory_safe_kan': _RAPID._replace(form='scan'),
  'fast_exact_kan': _RAPID._replace(form='recursion'),
  'standard_kan': ModelConfig(
    front='none', widths=(64,), grid=5, dropout=0.0, has_batch_norm=False,
    has_residual=False, base_scale=1.0, spline_init='noise', form='recursion',
  ),
  'mlp': _RAPID._replace(head='mlp'),
  'cnn': _RAPID._replace(head='mlp', widths=(2048,)),
  # scikit-learn's digits, 8 x 8 pixels, on two CPU cores
  'digits': ModelConfig(
    front_widths=(16, 32, 64), front_kernels=(3, 3, 3), front_strides=(1, 2, 1),
    widths=(128, 64), grid=8,
  ),
}  # fmt: skip
# Fields that a front and a KAN head have, and nothing else uses.
_OF_FRONT = ('front_widths', 'front_kernels', 'front_strides', 'pool', 'dropout')
_OF_KAN = ('has_residual', 'grid', 'basis', 'low', 'high', 'base_scale', 'spline_init',
           'form')  # fmt: skip
_RANGES = {
  'front_widths': (1, 65_536),
  'front_kernels': (1, 31),
  'front_strides': (1, 8),
  'widths': (1, 65_536),
  'pool': (1, 64),
  'classes': (2, 10_000),
  'dropout': (0, 0.95),
  'grid': (1, 1024),
  'base_scale': (0, 1e3),
}


def get(variant: str) -> ModelConfig:
  """Returns the architecture of a name.

  Raises:
    CodaxError: no such architecture; names the nearest.
  """
  if variant not in VARIANTS:
    raise unknown('model', variant, VARIANTS)
  return VARIANTS[variant]


def name_of(config: ModelConfig) -> str:
  """Names an architecture, whatever the number of its classes; 'custom' if new."""
  alike = lambda other: other._replace(classes=config.classes) == config
  return next((name for name, other in VARIANTS.items() if alike(other)), 'custom')


def read(section: Mapping[str, Any]) -> ModelConfig:
  """Reads the section `model` of a configuration.

  Raises:
    CodaxError: a key or value that is not valid.
  """
  choices = {'front': FRONTS, 'head': HEADS}
  config = config_lib.parse(
    section, ModelConfig, 'config.model', choices=choices, ranges=_RANGES
  )
  kan_wide.check(config.spec)
  sizes = {len(getattr(config, f'front_{k}')) for k in ('widths', 'kernels', 'strides')}
  if len(sizes) > 1:
    raise CodaxError(
      'config.model.front_widths, front_kernels and front_strides differ in length'
    )
  if config.front == 'conv' and not config.widths:
    raise CodaxError('config.model.widths is empty; a front needs its dense layer')
  if config.front == 'none':
    _check_unused(config, 'front', _OF_FRONT)
  if config.head != 'kan':
    _check_unused(config, 'head', _OF_KAN)
  return config


def _check_unused(config: ModelConfig, part: str, fields: tuple[str, ...]) -> None:
  """Checks that fields without use were not changed: a variant has all of them.

  Raises:
    CodaxError: a field differs from the nearest variant.
  """
  differing = [
    [key for key in fields if getattr(config, key) != getattr(variant, key)]
    for variant in VARIANTS.values()
  ]
  nearest = min(differing, key=len)
  if nearest:
    raise CodaxError(
      f'config.model.{nearest[0]} = {getattr(config, nearest[0])!r} changes nothing '
      f'with {part} {getattr(config, part)!r}'
    )
