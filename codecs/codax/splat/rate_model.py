"""Differentiable estimate of the bits of Gaussians in a file.

A shape or color is coded as its difference from the neighbors' prediction, under a
Laplace distribution whose scale depends on the neighbors' disagreement (`contexts`).
Here neighbors, models and scales are frozen at one moment; the bits of the codes are
then a function of the codes.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codax.entropy import laplace
from codax.splat import quantization
from codax.splat.format import contexts, integer
from codax.splat.render import Gaussians


class RateModel(NamedTuple):
  """Frozen parameters of the bits of codes; S slots for Gaussians.

  Attributes:
    index: int32 [S, 4], the neighbors' slots.
    weight: float32 [S, 4], theirs in the prediction; adds up to 1, or 0 without any.
    middle, trust: float32 [3 + C], see `contexts.Model`, the trust from 0 to 1.
    slope: float32 [S, 3 + C], additional bits for each step of distance from the
      prediction; 0 for inactive Gaussians.
    total: float32 (), bits of the whole file.
  """

  index: jax.Array
  weight: jax.Array
  middle: jax.Array
  trust: jax.Array
  slope: jax.Array
  total: jax.Array


def fit_rate_model(
  gaussians: Gaussians, recipe, size: tuple[int, int, int]
) -> RateModel:
  """Fits the rate model to the Gaussians of this moment.

  Args:
    gaussians: NumPy arrays.
    recipe: settings, with the image's quantization steps.
    size: (H, W, C).
  """
  slots = quantization.sort_for_coding(gaussians, size)
  payload = quantization.to_payload(recipe, gaussians, size)
  codes = np.concatenate([payload.shape, payload.color], 1).T
  around = contexts.join_passes(contexts.find_neighbors(payload.cells))
  order = slots[np.concatenate(contexts.split_passes(len(slots)))]
  later, num_slots = order[len(order) - len(around.index) :], len(gaussians.xy)
  index = np.zeros((num_slots, contexts.NEAR), np.int32)
  weight = np.zeros((num_slots, contexts.NEAR), np.float32)
  index[later] = slots[around.index]
  weight[later] = around.weight / around.weight.sum(1, keepdims=True)
  slope = np.zeros((num_slots, len(codes)), np.float32)
  fits = [contexts.fit_model(channel, around) for channel in codes]
  for c, found in enumerate(fits):
    level = found.model.levels[found.classes]
    scale = 2.0 ** (laplace.MIN_LOG2_SCALE + level / laplace.SCALE_STEPS)
    slope[order, c] = 1 / (scale * math.log(2))
  # a point of n in `cells` pixels takes about log2(cells e / n) bits
  place = math.log2(size[0] * size[1] * math.e / len(slots))
  white = integer.whiten(payload.covariance, payload.q_steps, payload.shape)
  fine = int(integer.count_fine_bits(white, payload.q_steps.fine).sum())
  return RateModel(
    index,
    weight,
    np.array([f.model.middle for f in fits], np.float32),
    np.array([f.model.trust / 8 for f in fits], np.float32),
    slope,
    np.array(sum(f.bits for f in fits) + fine + place * len(slots), np.float32),
  )


def make_empty(num_slots: int, channels: int) -> RateModel:
  """Returns a rate model of no bits: before quantization one program has a model."""
  return RateModel(
    np.zeros((num_slots, contexts.NEAR), np.int32),
    np.zeros((num_slots, contexts.NEAR), np.float32),
    np.zeros(3 + channels, np.float32),
    np.zeros(3 + channels, np.float32),
    np.zeros((num_slots, 3 + channels), np.float32),
    np.ones((), np.float32),
  )


def estimate_bits(
  gaussians: Gaussians, covariance: str, units: quantization.Units, model: RateModel
) -> jax.Array:
  """Returns the part of the bits that depends on the codes: float32 ().

  Args:
    gaussians: quantized, straight through.
    covariance: parametrization, one of `geometry.COVARIANCES`.
    units: their quantization steps.
    model: result of `fit_rate_model`.
  """
  codes = jnp.concatenate(quantization.to_steps(units, gaussians), 1)
  near = jnp.einsum('sn,snc->sc', model.weight, codes[model.index])
  has = model.weight.sum(1, keepdims=True)
  middle, trust = model.middle[None], model.trust[None]
  mean = middle + trust * (near - has * middle)
  # round where all of a symbol's mass is on both sides of the prediction
  distance = jnp.sqrt((codes - mean) ** 2 + 0.25)
  out = jnp.sum(model.slope * distance)
  # half a digit more is what rounding up adds in the mean
  fine = quantization.count_fine_digits(covariance, units.fine, gaussians.shape) + 0.5
  is_active = model.slope[:, :1] > 0
  return out + jnp.sum(jnp.where(is_active, jnp.clip(fine, 0, integer.MAX_FINE), 0))
