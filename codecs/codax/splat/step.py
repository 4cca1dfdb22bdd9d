"""A step of fitting: Adam on the squared error of the rendered picture.

Pictures of one size are fitted by one program, each as if by itself.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec

from codax.splat import codebooks, quantization, rate_model, render, seeding, tiles
from codax.splat.binning import listed
from codax.splat.rate_model import Prices
from codax.splat.recipe import Recipe, of_program
from codax.splat.render import Gaussians
from codax.training import mesh as mesh_lib

_REACH = 0.05  # how far luma may go beyond black and white


class State(NamedTuple):
  """Gaussians, the optimiser's moments, and steps made (int32)."""

  gaussians: Gaussians
  moments: optax.ScaleByAdamState
  step: jax.Array


class QatInputs(NamedTuple):
  """What quantization-aware steps of one image depend on beside its state.

  Attributes:
    units: steps of quantization.
    rate_model: differentiable bits of the file, or None if bits do not count.
    layers: int32 [S], the Gaussians' quality layers, or None if prefixes do not count.
  """

  units: quantization.Units
  rate_model: Prices | None = None
  layers: jax.Array | None = None


_ADAM = optax.scale_by_adam()


def begin(gaussians: Gaussians, step: int = 0) -> State:
  """The state before a step."""
  gaussians = jax.tree.map(jnp.asarray, gaussians)
  moments = _ADAM.init(gaussians._replace(books=None))
  return State(gaussians, moments, jnp.asarray(step, jnp.int32))


def rates(recipe: Recipe, share: jax.Array) -> Gaussians:
  """Learning rates after a share of the steps: they fall with a cosine."""
  cosine = 0.5 * (1 + jnp.cos(math.pi * jnp.clip(share, 0, 1)))
  left = recipe.last_rate + (1 - recipe.last_rate) * cosine
  first = recipe.position_rate, recipe.shape_rate, recipe.colour_rate, 0.0
  return Gaussians(*(rate * left for rate in first))


def error(gaussians, lists, target, recipe: Recipe, qat: QatInputs | None = None):
  """Returns the loss, and the mean squared error in levels of 0 to 1.

  The loss has the slope of log MSE + rate log bits, times MSE; for every prefix of
  layers a share of the slope of its own log MSE comes with it.
  """
  units, priced, layer = qat or (None, None, None)
  if units is not None:
    gaussians = quantization.quantised(recipe.kind, units, gaussians)
  size = target.shape[:2]
  # Tiles are compared as they are: to make a picture of them takes as long as the rest.
  if layer is None:
    pictures = [render.tiled(gaussians, lists, size, recipe.kind, recipe.how)]
  else:
    shares = [None] + [(layer < n).astype(jnp.float32) for n in range(1, recipe.layers)]
    pictures = render.nested(gaussians, lists, size, recipe.kind, recipe.how, shares)
  inside = render.retile(jnp.ones((*size, 1), target.dtype))[:, 0]
  own = render.retile(quantization.to_luma(target))
  errors = [
    jnp.sum(inside * quantization.squares(made - own)) / target.size
    for made in pictures
  ]
  mse = loss = errors[0]
  still = jax.lax.stop_gradient
  if priced is not None:
    weight = recipe.rate * still(mse) / priced.total
    loss = mse + weight * rate_model.bits(gaussians, recipe.kind, units, priced)
  for other in errors[1:]:
    share = recipe.layer_weight / len(errors[1:])
    loss = loss + share * still(mse / jnp.maximum(other, 1e-9)) * other
  return loss, mse


def _within(gaussians: Gaussians, size, recipe: Recipe) -> Gaussians:
  """Keeps Gaussians that are there in the picture, scales and colours in range."""
  xy, shape = gaussians.xy, gaussians.shape
  there = seeding.there(xy)[:, None]
  high = jnp.array([[size[1], size[0]]], xy.dtype) - 0.01
  xy = jnp.where(there, jnp.clip(xy, 0.01, high), xy)
  low = math.log(recipe.least)
  if recipe.kind == 'cholesky':
    shape = jnp.concatenate([jnp.clip(shape[:, :2], low, 6), shape[:, 2:]], 1)
    shape = shape.at[:, 2].set(jnp.clip(shape[:, 2], -30, 30))
  else:
    ratio = jnp.clip(shape[:, 1], -2, 2)
    scale = jnp.clip(shape[:, 0], low + jnp.abs(ratio), 6)
    shape = jnp.stack([scale, ratio, shape[:, 2]], 1)
  colour = gaussians.colour
  if recipe.how == 'normalised':
    luma = jnp.clip(colour[:, :1], -_REACH, 1 + _REACH)
    colour = jnp.concatenate([luma, colour[:, 1:]], 1)
  return gaussians._replace(xy=xy, shape=shape, colour=colour)


def _advance(state, target, qat, total, recipe: Recipe, room):
  """`advance` of one picture."""
  size, units = target.shape[:2], qat and qat.units
  lists = listed(state.gaussians, size, room, recipe, recipe.margin)

  def one(carry, step):
    gaussians, moments, books = carry
    books = codebooks.refreshed(gaussians, books, units)
    (_, loss), slopes = jax.value_and_grad(
      lambda g: error(g._replace(books=books), lists, target, recipe, qat),
      has_aux=True,
    )(gaussians)
    changes, moments = _ADAM.update(slopes, moments)
    there = seeding.there(gaussians.xy)[:, None]
    gaussians = jax.tree.map(
      lambda x, change, rate: (
        x - rate * jnp.where(there, change, 0) if x.ndim == 2 else x
      ),
      gaussians,
      changes,
      rates(recipe, step / total),
    )
    if units is not None:
      gaussians = quantization.committed(
        recipe.kind, units, gaussians._replace(books=books), recipe.commitment
      )._replace(books=None)
    return (_within(gaussians, size, recipe), moments, books), loss

  books = state.gaussians.books
  carry = state.gaussians._replace(books=None), state.moments, books
  (gaussians, moments, books), losses = jax.lax.scan(
    one, carry, state.step + jnp.arange(recipe.every)
  )
  metrics = {'mse': losses[-1], 'lost': lists.lost}
  gaussians = gaussians._replace(books=books)
  return State(gaussians, moments, state.step + recipe.every), metrics


@functools.partial(
  jax.jit, static_argnames=('recipe', 'room', 'devices'), donate_argnames='states'
)
def advance(
  states: tuple[State, ...],
  targets: tuple[jax.Array, ...],
  total: jax.Array,
  recipe: Recipe,
  room: tiles.Capacity,
  qat: tuple[QatInputs, ...] | None = None,
  devices: int = 1,
) -> tuple[tuple[State, ...], dict]:
  """Lists what touches what, and makes `recipe.every` steps, of P images.

  Args:
    states: each image's, with equally many slots.
    targets: float32 [H, W, C] each, 0 to 1, of one size.
    total: int32 (), steps of the whole fit.
    recipe: settings of all; their steps of quantization do not count.
    room: capacity of the lists.
    qat: each image's, or None if nothing is quantized.
    devices: number of devices that share the images; P is a multiple of it.

  Returns:
    The states; 'mse' before the last step and 'lost' of the lists, [P] each.
  """
  each = states, targets, qat
  whole = functools.partial(_advance, recipe=recipe, room=room)
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


def pixels(gaussians, size, recipe: Recipe, room, units=None) -> jax.Array:
  """The picture [H, W, C], 0 to 1 and a little beyond; quantised, if by something."""
  return _pixels(gaussians, size, of_program(recipe), room, units)


@functools.partial(jax.jit, static_argnames=('size', 'recipe', 'room'))
def _pixels(gaussians, size, recipe: Recipe, room, units) -> jax.Array:
  if units is not None:
    gaussians = quantization.quantised(recipe.kind, units, gaussians)
  lists = listed(gaussians, size, room, recipe, 0.0)
  out = render.picture(gaussians, lists, size, recipe.kind, recipe.how)
  return quantization.to_pixels(out)
