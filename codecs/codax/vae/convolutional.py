"""The networks of the convolutional VAE for coding: compiled programs by tile shape."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codax import devices, programs
from codax.errors import CodaxError
from codax.vae import model, shapes
from codax.vae.arch import ModelConfig


@programs.jit_by_shape(static=('config',), kept=programs.KEPT_SMALL)
def _analyze(config: ModelConfig, params: Any, image: jax.Array) -> jax.Array:
  return model.analyze(config, params, image)


@programs.jit_by_shape(static=('config',), kept=programs.KEPT_SMALL)
def _synthesize(config: ModelConfig, params: Any, z: jax.Array) -> jax.Array:
  return model.synthesize(config, params, z)


def analyze(config: ModelConfig, params: Any, image: np.ndarray) -> np.ndarray:
  """Computes latents float32 [1, h, w, C] of uint8 [1, H, W, 3], see `model`."""
  with devices.use():
    return np.asarray(_analyze(config, params['analysis'], image))


def synthesize(config: ModelConfig, params: Any, z: np.ndarray) -> np.ndarray:
  """Decodes latents float32 [1, h, w, C] to uint8 [1, H, W, 3], see `model`."""
  with devices.use():
    return np.asarray(_synthesize(config, params['synthesis'], z))


@functools.lru_cache(maxsize=8)
def list_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
  """Lists the parameters, {'analysis/...', 'synthesis/...'} -> shape."""

  def draw(key):
    z = jnp.zeros((1, 4, 4, config.latent_dim), jnp.float32)
    image = jnp.zeros((1, 4 * config.factor, 4 * config.factor, 3), jnp.float32)
    return {
      'analysis': model.Compressor(config).init(key, image)['params'],
      'synthesis': model.Expander(config).init(key, z)['params'],
    }

  with devices.use():
    drawn = jax.eval_shape(draw, jax.random.key(0))
  leaves = jax.tree_util.tree_flatten_with_path(drawn)[0]
  return {'/'.join(key.key for key in path): leaf.shape for path, leaf in leaves}


def check_arrays(config: ModelConfig, arrays: Mapping[str, np.ndarray]) -> None:
  """Refuses the arrays of a bundle that are not those of an architecture.

  Raises:
    CodaxError: an array is missing, superfluous, of another shape or type, or not
      finite.
  """
  floats = {k: v for k, v in arrays.items() if not k.startswith('tables/')}
  levels, dim = arrays['tables/scale'].shape
  if dim != config.latent_dim or any(k.startswith('tables/hyper/') for k in arrays):
    raise CodaxError(f'the tables are not those of {config.latent_dim} latents')
  own = {'prior/gain': (levels, dim), 'prior/mean': (dim,), 'step': (dim,)}
  shapes.check_arrays(floats, list_shapes(config) | own)
