"""Steps of fitting: Adam on the squared error of the rendered image.

Images of one size are fitted by one program, each as if by itself.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from codax.splat import codebooks, quantization, rate_model, render, seeding, tiles
from codax.splat.binning import bin_to_tiles
from codax.splat.fit_config import FitConfig, to_program_config
from codax.splat.rate_model import RateModel
from codax.splat.render import Gaussians
from codax.training import mesh as mesh_lib

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
    units: steps of quantization.
    rate_model: differentiable bits of the file, or None if bits do not count.
    layers: int32 [S], the Gaussians' quality layers, or None if prefixes do not count.
  """

  units: quantization.Units
  rate_model: RateModel | None = None
  layers: jax.Array | None = None


_ADAM = optax.scale_by_adam()


def init_state(gaussians: Gaussians, step: int = 0) -> State:
  """Returns the state before the first step of an optimizer, at step number `step`."""
  gaussians = jax.tree.map(jnp.asarray, gaussians)
  moments = _ADAM.init(gaussians._replace(books=None))
  return State(gaussians, moments, jnp.asarray(step, jnp.int32))


def compute_lrs(recipe: FitConfig, share: jax.Array) -> Gaussians:
  """Returns learning rates after a share of the steps: they fall with a cosine."""
  cosine = 0.5 * (1 + jnp.cos(math.pi * jnp.clip(share, 0, 1)))
  left = recipe.final_lr_factor + (1 - recipe.final_lr_factor) * cosine
  first = recipe.position_lr, recipe.covariance_lr, recipe.color_lr, 0.0
  return Gaussians(*(rate * left for rate in first))


def compute_loss(
  gaussians, lists, target, recipe: FitConfig, qat: QatInputs | None = None
):
  """Returns the loss, and the mean squared error in levels of 0 to 1.

  The loss has the slope of log MSE + w log bits, times MSE; for every prefix of quality
  layers a share of the slope of its own log MSE comes with it.
  """
  units, model, layer = qat or (None, None, None)
  if units is not None:
    gaussians = quantization.quantize(recipe.covariance, units, gaussians)
  size = target.shape[:2]
  # Tiles are compared as they are: assembling images takes as long as the rest.
  if layer is None:
    images = [
      render.render_tiles(gaussians, lists, size, recipe.covariance, recipe.blend)
    ]
  else:
    shares = [None] + [
      (layer < n).astype(jnp.float32) for n in range(1, recipe.quality_layers)
    ]
    images = render.render_subsets(
      gaussians, lists, size, recipe.covariance, recipe.blend, shares
    )
  inside = render.retile(jnp.ones((*size, 1), target.dtype))[:, 0]
  target_ycbcr = render.retile(quantization.to_ycbcr(target))
  errors = [
    jnp.sum(inside * quantization.pixel_squares(made - target_ycbcr)) / target.size
    for made in images
  ]
  mse = loss = errors[0]
  still = jax.lax.stop_gradient
  if model is not None:
    weight = recipe.rate_weight * still(mse) / model.total
    loss = mse + weight * rate_model.estimate_bits(
      gaussians, recipe.covariance, units, model
    )
  for other in errors[1:]:
    share = recipe.quality_layer_weight / len(errors[1:])
    loss = loss + share * still(mse / jnp.maximum(other, 1e-9)) * other
  return loss, mse


def _clip_to_valid(gaussians: Gaussians, size, recipe: FitConfig) -> Gaussians:
  """Clips active Gaussians to the image, scales and colors to their ranges."""
  xy, shape = gaussians.xy, gaussians.shape
  is_active = seeding.is_active(xy)[:, None]
  high = jnp.array([[size[1], size[0]]], xy.dtype) - 0.01
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


def _advance_one(state, target, qat, total, recipe: FitConfig, capacity):
  """Makes the steps of `advance` for one image."""
  size, units = target.shape[:2], qat and qat.units
  lists = bin_to_tiles(state.gaussians, size, capacity, recipe, recipe.bin_margin)

  def make_step(carry, step):
    gaussians, moments, books = carry
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
      compute_lrs(recipe, step / total),
    )
    if units is not None:
      gaussians = quantization.commit(
        recipe.covariance, units, gaussians._replace(books=books), recipe.commitment
      )._replace(books=None)
    return (_clip_to_valid(gaussians, size, recipe), moments, books), loss

  books = state.gaussians.books
  carry = state.gaussians._replace(books=None), state.moments, books
  (gaussians, moments, books), losses = jax.lax.scan(
    make_step, carry, state.step + jnp.arange(recipe.rebin_every)
  )
  metrics = {'mse': losses[-1], 'lost': lists.lost}
  gaussians = gaussians._replace(books=books)
  return State(gaussians, moments, state.step + recipe.rebin_every), metrics


@functools.partial(
  jax.jit, static_argnames=('recipe', 'capacity', 'devices'), donate_argnames='states'
)
def advance(
  states: tuple[State, ...],
  targets: tuple[jax.Array, ...],
  total: jax.Array,
  recipe: FitConfig,
  capacity: tiles.Capacity,
  qat: tuple[QatInputs, ...] | None = None,
  devices: int = 1,
) -> tuple[tuple[State, ...], dict]:
  """Bins Gaussians to tiles, and makes `recipe.rebin_every` steps, of P images.

  Args:
    states: each image's, with equally many slots.
    targets: float32 [H, W, C] each, 0 to 1, of one size.
    total: int32 (), steps of the whole fit.
    recipe: settings of all; their quantization steps are not read.
    capacity: capacity of the tile lists.
    qat: each image's, or None without quantization.
    devices: number of devices that share the images; P is a multiple of it.

  Returns:
    The states; 'mse' before the last step and 'lost' of the lists, [P] each.
  """
  each = states, targets, qat
  whole = functools.partial(_advance_one, recipe=recipe, capacity=capacity)
  if len(states) == 1:  # loops end where the lists do, which they do not under vmap
    state, metrics = whole(*(x and x[0] for x in each), total)
    return (state,), jax.tree.map(lambda x: x[None], metrics)
  stacked = [x and jax.tree.map(lambda *y: jnp.stack(y), *x) for x in each]
  many = jax.vmap(whole, (0, 0, 0, None))
  if devices > 1:  # each device fits its images by itself
    mesh = mesh_lib.make(devices)
    split = PartitionSpec(mesh_lib.AXIS)
    many = jax.shard_map(
      many, mesh=mesh, in_specs=(split, split, split, PartitionSpec()),
      out_specs=split, check_vma=False,
    )  # fmt: skip
  together, metrics = many(*stacked, total)
  parts = [jax.tree.map(lambda x, i=i: x[i], together) for i in range(len(states))]
  return tuple(parts), metrics


def render_pixels(
  gaussians, size, recipe: FitConfig, capacity, units=None
) -> jax.Array:
  """Renders pixels [H, W, C], 0 to 1 and a little beyond; quantized, if by units."""
  return _render_pixels(gaussians, size, to_program_config(recipe), capacity, units)


@functools.partial(jax.jit, static_argnames=('size', 'recipe', 'capacity'))
def _render_pixels(gaussians, size, recipe: FitConfig, capacity, units) -> jax.Array:
  if units is not None:
    gaussians = quantization.quantize(recipe.covariance, units, gaussians)
  lists = bin_to_tiles(gaussians, size, capacity, recipe, 0.0)
  out = render.render_image(gaussians, lists, size, recipe.covariance, recipe.blend)
  return quantization.to_pixels(out)
