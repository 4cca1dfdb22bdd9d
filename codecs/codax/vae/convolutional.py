"""The networks of the convolutional VAE for coding: compiled programs by tile shape."""

from typing import Any

import jax
import numpy as np

from codax import devices, programs
from codax.vae import model
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
