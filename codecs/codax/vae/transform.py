"""Analysis and synthesis of the transform codec: a KLT of blocks plus a nonlinear part.

Analysis: a filter over block boundaries (`lapped`), then 16 x 16 x 3 patches times the
KLT of training patches, plus a small network on the patches. Synthesis: the transposed
KLT plus a network on the coefficients, the filter's inverse, and a convolutional
post-filter. The networks end in zeros at first, so an untrained codec is a lapped
transform codec and decodes images at step 0; everything is learnt from there. A network
from random weights takes hours to get that far.

Convolutions run at 1/16 of the resolution, those of the post-filter at 1/4: about
sixteen thousand multiplications a pixel. The functions run in JAX (training) and in
NumPy (coding): `xp` is the array module.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from codax import config as config_lib
from codax.errors import CodaxError
from codax.layers import activations, twins
from codax.vae import lapped
from codax.vae.format import scales

OFFSET = 128.0  # subtracted from pixels
_PATCH_SCALE = 1 / 64  # turns pixels into numbers about 1, for the networks
_MIN_UNIT = 8.0  # least unit of a coefficient, for the networks
# Greatest unit of what a network adds to a coefficient, in pixel values. In units of
# their deviations the first coefficients would jump by a quantization step whenever the
# optimizer moves: trainings went astray.
_MAX_STEP = 32.0
FILTER = 4  # pixels a side of a position of the post-filter


class TransformConfig(NamedTuple):
  """Architecture of the transform codec.

  Attributes:
    act: name of the activation, see `codax.layers.activations`.
    patch: side of a block in pixels, a multiple of 4.
    lapped: whether a filter over block boundaries goes before the blocks.
    latent_dim: number of coefficients C of a block.
    width: number of channels of the networks.
    blocks: number of residual blocks in each network.
    filter_width: number of channels of the post-filter.
    hyper_dim: number of channels of the hyper-latents; 0 is a factorized prior.
    hyper_width: number of channels of the networks of the hyperprior.
    context: whether means depend on decoded neighbours (two checkerboard passes).
    scale_context: number of channels of the networks that predict scales from decoded
      coefficients; 0 is none.
    coarse_dim: number of coefficients of a block that are coded before its others, with
      `scale_context`.
    levels: number of rate levels L, each with gains of its own.
  """

  act: str = 'relu'
  patch: int = 16
  lapped: bool = False
  latent_dim: int = 320
  width: int = 160
  blocks: int = 2
  filter_width: int = 48
  hyper_dim: int = 96
  hyper_width: int = 192
  context: bool = True
  scale_context: int = 0
  coarse_dim: int = 48
  levels: int = 7


_RANGES = {
  'patch': (4, 32),
  'latent_dim': (1, 3 * 32**2),
  'width': (1, 4096),
  'blocks': (0, 16),
  'filter_width': (1, 1024),
  'hyper_dim': (0, 1024),
  'hyper_width': (1, 4096),
  'scale_context': (0, 1024),
  'coarse_dim': (1, 3 * 32**2),
  'levels': (2, scales.MAX_LEVELS),
}


def read_config(section: Mapping[str, Any]) -> TransformConfig:
  """Reads the section `model` of a configuration.

  Raises:
    CodaxError: a key or value that is not valid.
  """
  config = config_lib.parse(section, TransformConfig, 'config.model', ranges=_RANGES)
  activations.get(config.act)
  if config.patch % FILTER:
    raise CodaxError(f'config.model.patch is {config.patch}; valid: multiples of 4')
  if config.latent_dim > 3 * config.patch**2:
    raise CodaxError(
      f'config.model.latent_dim is {config.latent_dim}; valid: 1 to '
      f'{3 * config.patch**2}, the numbers of a block'
    )
  if config.scale_context and not config.hyper_dim:
    raise CodaxError('config.model.scale_context needs hyper-latents: hyper_dim > 0')
  if config.scale_context and config.coarse_dim >= config.latent_dim:
    raise CodaxError(
      f'config.model.coarse_dim is {config.coarse_dim}; valid: below latent_dim = '
      f'{config.latent_dim}'
    )
  return config


def init(rng: Any, config: TransformConfig, pixels: Any) -> dict[str, Any]:
  """Draws the parameters of both transforms.

  Args:
    rng: key.
    config: architecture.
    pixels: float32 [B, H, W, 3], 0 to 255, training images whose blocks the KLT is of;
      sides are multiples of the patch.

  Returns:
    {'analysis', 'synthesis', 'deviation'}; the last is float32 [C], the standard
    deviations of the coefficients, and does not change.
  """
  import jax
  import jax.numpy as jnp

  from codax.vae import klt

  keys = jax.random.split(rng, 4)
  before, after = {}, {}
  if config.lapped:
    matrix = lapped.design(config.patch)
    before = {'lapped': jnp.asarray(matrix)}
    after = {'lapped': jnp.asarray(np.linalg.inv(matrix))}
  patches = _to_patches(before, config, pixels, jnp)
  size, dim = patches.shape[-1], config.latent_dim
  found = klt.fit(patches.reshape(-1, size), config.patch, dim)
  pixels = 3 * FILTER**2
  act = activations.get(config.act)
  return {
    'analysis': before
    | {
      'klt': found.basis,
      'network': _init_network(keys[0], config, size, dim),
    },
    'synthesis': after
    | {
      'klt': found.basis.T,
      'network': _init_network(keys[1], config, dim, size)
      | {'level': _zeros(config.levels, config.width)},
      'filter': {
        'conv_0': twins.init_conv3(
          keys[2], pixels, act.expansion * config.filter_width, 2**0.5
        ),
        'level': _zeros(config.levels, act.expansion * config.filter_width),
        'act': act.init(config.filter_width),
        'conv_1': twins.init_conv3(keys[3], config.filter_width, pixels, 0.0),
      },
    },
    'deviation': found.deviation,
  }


def _init_network(
  rng: Any, config: TransformConfig, num_in: int, num_out: int
) -> dict[str, Any]:
  """Draws dense, residual blocks, dense; the last is 0."""
  import jax

  keys = jax.random.split(rng, config.blocks + 1)
  act = activations.get(config.act)
  blocks = {
    f'block_{i}': twins.init_residual_block(keys[i + 1], config.width, act)
    for i in range(config.blocks)
  }
  return {
    'first': twins.init_dense(keys[0], num_in, config.width),
    **blocks,
    'last': twins.init_dense(keys[0], config.width, num_out, 0.0),
  }


def _zeros(*shape: int) -> Any:
  import jax.numpy as jnp

  return jnp.zeros(shape, jnp.float32)


def units(deviation: Any, xp: Any) -> Any:
  """Returns the unit of each coefficient [C] as the networks see it, in pixel values.

  It is the standard deviation, or more where that is below any quantization step.
  """
  return xp.maximum(deviation, xp.float32(_MIN_UNIT))


def _apply_network(p: Any, config: TransformConfig, x: Any, bias: Any, xp: Any) -> Any:
  """Runs a network of `_init_network`; `bias` [B, width] or None enters it."""
  act = activations.get(config.act)
  y = twins.dense(p['first'], x)
  if bias is not None:
    y = y + bias[:, None, None]
  for i in range(config.blocks):
    y = twins.residual_block(p[f'block_{i}'], y, act, xp)
  return twins.dense(p['last'], y)


def _to_patches(p: Any, config: TransformConfig, pixels: Any, xp: Any) -> Any:
  """Returns blocks [B, h, w, patch * patch * 3] of images, filtered and about 0."""
  x = pixels - xp.float32(OFFSET)
  if config.lapped:
    x = lapped.apply(p['lapped'], x, config.patch, xp)
  return twins.space_to_depth(x, config.patch)


def analyze(params: Any, config: TransformConfig, pixels: Any, xp: Any) -> Any:
  """Computes the coefficients of images.

  Args:
    params: parameters of `init`.
    config: architecture.
    pixels: float32 [B, H, W, 3], 0 to 255; sides are multiples of the patch.
    xp: array module.

  Returns:
    float32 [B, H / patch, W / patch, C], in pixel values.
  """
  p = params['analysis']
  x = _to_patches(p, config, pixels, xp)
  residual = _apply_network(
    p['network'], config, x * xp.float32(_PATCH_SCALE), None, xp
  )
  unit = xp.minimum(units(params['deviation'], xp), xp.float32(_MAX_STEP))
  return twins.dense_only(x, p['klt']) + residual * unit[None, None, None]


def synthesize(
  params: Any, config: TransformConfig, y: Any, mixing: Any, xp: Any
) -> Any:
  """Computes images from coefficients.

  Args:
    params: parameters of `init`.
    config: architecture.
    y: float32 [B, h, w, C], in pixel values.
    mixing: float32 [B, L], weights of the rate levels, see `levels.mixing`.
    xp: array module.

  Returns:
    float32 [B, h * patch, w * patch, 3], 0 to 255 but for overshoots.
  """
  p = params['synthesis']
  unit = units(params['deviation'], xp)[None, None, None]
  level = mixing @ p['network']['level']
  residual = _apply_network(p['network'], config, y / unit, level, xp)
  x = twins.dense_only(y, p['klt']) + residual * xp.float32(1 / _PATCH_SCALE)
  x = twins.depth_to_space(x, config.patch)
  if config.lapped:
    x = lapped.apply(p['lapped'], x, config.patch, xp)
  f = p['filter']
  z = twins.space_to_depth(x * xp.float32(_PATCH_SCALE), FILTER)
  z = twins.conv3(f['conv_0'], z, xp) + (mixing @ f['level'])[:, None, None]
  z = activations.get(config.act).apply(f.get('act', {}), z, xp)
  z = twins.depth_to_space(twins.conv3(f['conv_1'], z, xp), FILTER)
  return x + z * xp.float32(1 / _PATCH_SCALE) + xp.float32(OFFSET)
