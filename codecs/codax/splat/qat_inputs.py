"""Inputs of quantization-aware steps, made between calls of `step.advance`."""

from collections.abc import Sequence

import jax
import numpy as np

from codax.splat import rate_model
from codax.splat.fit_config import FitConfig
from codax.splat.fit_state import ImageFit
from codax.splat.format import integer
from codax.splat.importance import rank_layers
from codax.splat.step import QatInputs


def make(fits: Sequence[ImageFit]) -> tuple[QatInputs, ...]:
  """Returns the inputs of quantization-aware steps at this moment."""
  recipe, out = fits[0].recipe, []
  has_rate = _has_rate(recipe)
  for fit in fits:
    model = layers = None
    if has_rate:
      gaussians = jax.device_get(fit.state.gaussians)
      shape = fit.target.pixels.shape
      model = rate_model.fit_rate_model(gaussians, fit.recipe, shape)
    if recipe.quality_layers > 1:
      layers = rank_layers(fit.state.gaussians, fit.target, fit.recipe).astype(np.int32)
    out.append(QatInputs(np.array(True), fit.units, model, layers))
  return tuple(out)


def _has_rate(recipe: FitConfig) -> bool:
  """Returns whether there is a rate model."""
  known = recipe.blend in integer.BLENDS and recipe.coding == 'scalar'
  return bool(recipe.rate_weight) and known


def make_idle(fits: Sequence[ImageFit]) -> tuple[QatInputs, ...] | None:
  """Returns inputs of steps without quantization, for the program of those with it.

  None, and so another program, where that would be slower or has codebooks.
  """
  recipe, out = fits[0].recipe, []
  if recipe.quality_layers > 1 or recipe.coding != 'scalar' or recipe.qat_start >= 1:
    return None
  for fit in fits:
    num_slots, channels = fit.state.gaussians.color.shape
    empty = rate_model.make_empty(num_slots, channels) if _has_rate(recipe) else None
    out.append(QatInputs(np.array(False), fit.units, empty))
  return tuple(out)
