"""Steps of fitting: Adam on the squared error of the rendered image.

Images of one size are fitted by one program, each as if by itself.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from codax.programs import KEPT_PADDED, jit_by_shape
from codax.splat import (
  codebooks,
  image_batch,
  quantization,
  rate_model,
  render,
  seeding,
  tiles,
)
from codax.splat.binning import bin_images
from codax.splat.fit_config import FitConfig, to_program_config
from codax.splat.rate_model import RateModel
from codax.splat.render import Gaussians
from codax.splat.target import TiledTarget

_REACH = 0.05  # distance of luma beyond black and white


class State(NamedTuple):
  """State of one image's fit on the device.

  Attributes:
    gaussians: all slots.
    moments: moments of the optimizer.
    step: int32 (), number of steps made.
  """

  gaussians: Gaussians
  moments: optax.ScaleByAdamState
  step: jax.Array


class QatInputs(NamedTuple):
  """Inputs of quantization-aware steps of one image, beside its state.

  Attributes:
    is_on: bool (), whether Gaussians are quantized at all. So one program makes the
      steps before quantization, too.
    units: steps of quantization.
    rate_model: differentiable bits of the file, or None if bits do not count.
    layers: int32 [S], the Gaussians' quality layers, or None if prefixes do not count.
  """

  is_on: np.ndarray
  units: quantization.Units
  rate_model: RateModel | None = None
  layers: jax.Array | None = None


_ADAM = optax.scale_by_adam()


def init_state(gaussians: Gaussians, step: int = 0) -> State:
  """Returns the state before the first step of an optimizer, at step number `step`."""
  zeros = jax.tree.map(np.zeros_like, gaussians._replace(books=None))
  moments = optax.ScaleByAdamState(np.zeros((), np.int32), zeros, zeros)
  # without a program for every shape
  return jax.tree.map(jnp.array, State(gaussians, moments, np.array(step, np.int32)))


def compute_lrs(recipe: FitConfig, share: jax.Array) -> Gaussians:
  """Returns learning rates after a share of the steps: they fall with a cosine."""
  cosine = 0.5 * (1 + jnp.cos(math.pi * jnp.clip(share, 0, 1)))
  left = recipe.final_lr_factor + (1 - recipe.final_lr_factor) * cosine
  first = recipe.position_lr, recipe.covariance_lr, recipe.color_lr, 0.0
  return Gaussians(*(rate * left for rate in first))


def _quantize(gaussians: Gaussians, covariance: str, qat: QatInputs) -> Gaussians:
  """Quantizes Gaussians if quantization is on."""
  return jax.lax.cond(
    qat.is_on,
    lambda units, g: quantization.quantize(covariance, units, g),
    lambda units, g: g,
    qat.units,
    gaussians,
  )


def _measure_bits(gaussians: Gaussians, covariance: str, qat: QatInputs) -> jax.Array:
  """Returns `rate_model.estimate_bits` as a share of the file's, 0 if that is off."""
  return jax.lax.cond(
    qat.is_on,
    lambda model, g: (
      rate_model.estimate_bits(g, covariance, qat.units, model) / model.total
    ),
    lambda model, g: jnp.float32(0),
    qat.rate_model,
    gaussians,
  )


def _commit(gaussians: Gaussians, recipe: FitConfig, qat: QatInputs) -> Gaussians:
  """Moves Gaussians to their quantized values if quantization is on."""
  return jax.lax.cond(
    qat.is_on,
    lambda units, g: quantization.commit(
      recipe.covariance, units, g, recipe.commitment
    ),
    lambda units, g: g,
    qat.units,
    gaussians,
  )


def compute_loss(
  gaussians,
  lists,
  target: TiledTarget,
  recipe: FitConfig,
  qat: QatInputs | None = None,
):
  """Returns the loss, and the mean squared error in levels of 0 to 1.

  The loss has the slope of log MSE + w log bits, times MSE; for every prefix of quality
  layers a share of the slope of its own log MSE comes with it.
  """
  if qat is not None:
    gaussians = _quantize(gaussians, recipe.covariance, qat)
  size, (num_tiles, channels, _) = target.size, target.ycbcr.shape
  # Tiles are compared as they are: assembling images takes as long as the rest.
  if qat is None or qat.layers is None:
    images = [
      render.render_tiles(gaussians, lists, size, recipe.covariance, recipe.blend)
    ]
  else:
    shares = [None] + [
      (qat.layers < n).astype(jnp.float32) for n in range(1, recipe.quality_layers)
    ]
    images = render.render_subsets(
      gaussians, lists, size, recipe.covariance, recipe.blend, shares
    )
  inside = tiles.mark_inside(size, num_tiles)
  number = jnp.prod(size.astype(jnp.float32)) * channels
  errors = [
    jnp.sum(inside * quantization.pixel_squares(made - target.ycbcr)) / number
    for made in images
  ]
  mse = loss = errors[0]
  still = jax.lax.stop_gradient
  if qat is not None and qat.rate_model is not None:
    share = _measure_bits(gaussians, recipe.covariance, qat)
    loss = mse + recipe.rate_weight * still(mse) * share
  for other in errors[1:]:
    share = recipe.quality_layer_weight / len(errors[1:])
    loss = loss + share * still(mse / jnp.maximum(other, 1e-9)) * other
  return loss, mse


def _clip_to_valid(gaussians: Gaussians, size, recipe: FitConfig) -> Gaussians:
  """Clips active Gaussians to the image, scales and colors to their ranges."""
  xy, shape = gaussians.xy, gaussians.shape
  is_active = seeding.is_active(xy)[:, None]
  high = size[::-1].astype(xy.dtype)[None] - 0.01
  xy = jnp.where(is_active, jnp.clip(xy, 0.01, high), xy)
  low = math.log(recipe.min_scale)
  if recipe.covariance == 'cholesky':
    shape = jnp.concatenate([jnp.clip(shape[:, :2], low, 6), shape[:, 2:]], 1)
    shape = shape.at[:, 2].set(jnp.clip(shape[:, 2], -30, 30))
  else:
    ratio = jnp.clip(shape[:, 1], -2, 2)
    scale = jnp.clip(shape[:, 0], low + jnp.abs(ratio), 6)
    shape = jnp.stack([scale, ratio, shape[:, 2]], 1)
  color = gaussians.color
  if recipe.blend == 'normalized':
    luma = jnp.clip(color[:, :1], -_REACH, 1 + _REACH)
    color = jnp.concatenate([luma, color[:, 1:]], 1)
  return gaussians._replace(xy=xy, shape=shape, color=color)


def _advance_one(state, target, lists, qat, total, steps, recipe: FitConfig):
  """Makes the steps of `advance` for one image."""
  units = qat and qat.units

  def make_step(i, carry):
    gaussians, moments, books, _ = carry
    books = codebooks.update_codebooks(gaussians, books, units)
    (_, loss), slopes = jax.value_and_grad(
      lambda g: compute_loss(g._replace(books=books), lists, target, recipe, qat),
      has_aux=True,
    )(gaussians)
    changes, moments = _ADAM.update(slopes, moments)
    is_active = seeding.is_active(gaussians.xy)[:, None]
    gaussians = jax.tree.map(
      lambda x, change, rate: (
        x - rate * jnp.where(is_active, change, 0) if x.ndim == 2 else x
      ),
      gaussians,
      changes,
      compute_lrs(recipe, (state.step + i) / total),
    )
    if qat is not None:
      whole = gaussians._replace(books=books)
      gaussians = _commit(whole, recipe, qat)._replace(books=None)
    return _clip_to_valid(gaussians, target.size, recipe), moments, books, loss

  books = state.gaussians.books
  carry = state.gaussians._replace(books=None), state.moments, books, jnp.float32(0)
  gaussians, moments, books, loss = jax.lax.fori_loop(0, steps, make_step, carry)
  gaussians = gaussians._replace(books=books)
  return State(gaussians, moments, state.step + steps), loss


@jit_by_shape(static=('recipe', 'devices'), donate=('states',), kept=KEPT_PADDED)
def advance(
  states: tuple[State, ...],
  targets: tuple[TiledTarget, ...],
  lists: tuple[tiles.Lists, ...],
  total: jax.Array,
  steps: jax.Array,
  recipe: FitConfig,
  qat: tuple[QatInputs, ...] | None = None,
  devices: int = 1,
) -> tuple[tuple[State, ...], jax.Array]:
  """Makes steps of P images.

  Args:
    states: each image's, with equally many slots.
    targets: each image, of one number of tiles.
    lists: each image's tile lists.
    total: int32 (), steps of the whole fit.
    steps: int32 (), steps to make, 1 or more.
    recipe: settings of all; their quantization steps are not read.
    qat: each image's, or None without quantization.
    devices: number of devices that share the images; P is a multiple of it.

  Returns:
    The states; the mean squared errors before the last step, float32 [P].
  """
  one = functools.partial(_advance_one, recipe=recipe)
  made = image_batch.map_images(
    one, (states, targets, lists, qat), (total, steps), devices
  )
  return tuple(state for state, _ in made), jnp.stack([loss for _, loss in made])


def render_pixels(
  gaussians, size, recipe: FitConfig, capacity=None, units=None
) -> np.ndarray:
  """Renders pixels [H, W, C], 0 to 1 and a little beyond; quantized, if by units."""
  if units is not None:
    gaussians = quantization.run_quantize(recipe.covariance, units, gaussians)
  (lists,), _ = bin_images([gaussians], [size], recipe, 0.0, capacity)
  gaussians = gaussians._replace(books=None)
  made = _render(gaussians, lists, np.array(size, np.int32), to_program_config(recipe))
  return quantization.to_pixels(render.untile(np.asarray(made), size))


@jit_by_shape(static=('recipe',), kept=KEPT_PADDED)
def _render(gaussians, lists, size, recipe: FitConfig) -> jax.Array:
  return render.render_tiles(gaussians, lists, size, recipe.covariance, recipe.blend)
