"""What Gaussians cost in the file, as something that gradients can lower.

A shape or colour is coded as its difference from what neighbours predict, under a
Laplace distribution whose scale depends on how much the neighbours disagree
(`contexts`). Here who is whose neighbour, the models and the scales are taken as they
are at one moment; the bits of the codes are then a function of the codes.
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


class Prices(NamedTuple):
  """What the bits of codes depend on, beside the codes; S slots for Gaussians.

  Attributes:
    index: int32 [S, 4], the neighbours' slots.
    weight: float32 [S, 4], theirs in the prediction; adds up to 1, or 0 without any.
    middle, trust: float32 [3 + C], of `contexts.Model`, the trust from 0 to 1.
    slope: float32 [S, 3 + C], bits by which a step further from the prediction costs
      more; 0 for Gaussians that are not there.
    total: float32 (), bits of the whole file.
  """

  index: jax.Array
  weight: jax.Array
  middle: jax.Array
  trust: jax.Array
  slope: jax.Array
  total: jax.Array


def prices(gaussians: Gaussians, recipe, size: tuple[int, int, int]) -> Prices:
  """The prices at this moment.

  Args:
    gaussians: of NumPy arrays.
    size: (H, W, C).
  """
  slots = quantization.in_order(gaussians, size)
  picture = quantization.to_integers(recipe, gaussians, size)
  codes = np.concatenate([picture.shape, picture.colour], 1).T
  around = contexts.joined(contexts.neighbours(picture.cells))
  order = slots[np.concatenate(contexts.passes(len(slots)))]
  later, room = order[len(order) - len(around.index) :], len(gaussians.xy)
  index = np.zeros((room, contexts.NEAR), np.int32)
  weight = np.zeros((room, contexts.NEAR), np.float32)
  index[later] = slots[around.index]
  weight[later] = around.weight / around.weight.sum(1, keepdims=True)
  slope = np.zeros((room, len(codes)), np.float32)
  fits = [contexts.fit(channel, around) for channel in codes]
  for c, found in enumerate(fits):
    level = found.model.levels[found.kind]
    scale = 2.0 ** (laplace.MIN_LOG2_SCALE + level / laplace.SCALE_STEPS)
    slope[order, c] = 1 / (scale * math.log(2))
  # a point of n in `cells` pixels takes about log2(cells e / n) bits
  place = math.log2(size[0] * size[1] * math.e / len(slots))
  white = integer.whiten(picture.kind, picture.steps, picture.shape)
  fine = int(integer.fine_bits(white, picture.steps.fine).sum())
  return Prices(
    jnp.asarray(index),
    jnp.asarray(weight),
    jnp.asarray([f.model.middle for f in fits], jnp.float32),
    jnp.asarray([f.model.trust / 8 for f in fits], jnp.float32),
    jnp.asarray(slope),
    jnp.asarray(sum(f.bits for f in fits) + fine + place * len(slots), jnp.float32),
  )


def bits(
  gaussians: Gaussians, kind: str, units: quantization.Units, priced: Prices
) -> jax.Array:
  """What of the bits changes with the codes, and as it does: float32 ().

  Args:
    gaussians: quantised, straight through.
    kind: of the shapes.
    units: that they are quantised with.
    priced: from `prices`.
  """
  codes = jnp.concatenate(quantization.in_steps(units, gaussians), 1)
  near = jnp.einsum('sn,snc->sc', priced.weight, codes[priced.index])
  has = priced.weight.sum(1, keepdims=True)
  middle, trust = priced.middle[None], priced.trust[None]
  mean = middle + trust * (near - has * middle)
  # round where all of a symbol's mass is on both sides of the prediction
  distance = jnp.sqrt((codes - mean) ** 2 + 0.25)
  out = jnp.sum(priced.slope * distance)
  # half a digit more is what rounding up adds in the mean
  fine = quantization.fine_digits(kind, units.fine, gaussians.shape) + 0.5
  there = priced.slope[:, :1] > 0
  return out + jnp.sum(jnp.where(there, jnp.clip(fine, 0, integer.MAX_FINE), 0))
