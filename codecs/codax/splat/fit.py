"""Fitting Gaussians to a picture: Adam on the squared error of the rendered picture.

Gaussians are added while fitting, where the error is; those that are not there yet have
centres far outside the picture, so that shapes stay the same. From some step on what is
rendered is quantised as in the file (quantisation-aware training).
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from codax.splat import geometry, integer, quantise, render, tiles
from codax.splat.render import Gaussians

AWAY = -1e6  # where Gaussians are that are not there yet
_RESUMED = 0.6  # of a fit: where one that goes on begins
_REACH = 0.05  # how far luma may go beyond black and white


class Recipe(NamedTuple):
  """How to fit.

  Attributes:
    kind, how: of `geometry` and `render`.
    steps: of quantisation.
    position_rate: learning rate in pixels.
    shape_rate, colour_rate: learning rates.
    last_rate: of all rates, what is left at the end.
    quantised_from: the share of the steps after which what is rendered is quantised.
    first: the share of the Gaussians that are there from the start.
    grown: the share of the steps after which all are there.
    growths: how often some are added.
    spread: standard deviations of new Gaussians, of the distance to their neighbours.
    evenly: the share of the first Gaussians that are placed anywhere.
    least: standard deviations do not fall below, in pixels.
    every: steps between two listings of what touches which tile.
    margin: pixels by which Gaussians may move in between.
  """

  kind: str = 'cholesky'
  how: str = 'normalised'
  steps: integer.Steps = integer.Steps(6, 5, 16, 20, 9)
  position_rate: float = 0.5
  shape_rate: float = 0.05
  colour_rate: float = 0.015
  last_rate: float = 0.03
  quantised_from: float = 0.5
  first: float = 0.5
  grown: float = 0.4
  growths: int = 4
  spread: float = 0.65
  evenly: float = 0.25
  least: float = 0.5
  every: int = 25
  margin: float = 1.5


class State(NamedTuple):
  """Gaussians, the optimiser's moments, and steps made (int32)."""

  gaussians: Gaussians
  moments: optax.ScaleByAdamState
  step: jax.Array


def seeds(image: np.ndarray, count: int, evenly: float, rng) -> np.ndarray:
  """Centres [count, 2], likelier where the picture's gradient is large.

  Args:
    image: float [H, W, C], 0 to 1.
    evenly: the share that is placed anywhere.
    rng: a NumPy generator.
  """
  grey = image.mean(-1)
  slopes = [
    np.gradient(grey, axis=a) if grey.shape[a] > 1 else 0 * grey for a in (0, 1)
  ]
  return sampled(np.hypot(*slopes), count, evenly, rng)


def sampled(density: np.ndarray, count: int, evenly: float, rng) -> np.ndarray:
  """Centres [count, 2] from a density [H, W], not all 0, mixed with an even one."""
  p = np.asarray(density, np.float64).ravel() + 1e-12
  p = (1 - evenly) * p / p.sum() + evenly / p.size
  index = rng.choice(p.size, count, replace=count > p.size, p=p)
  corner = np.stack([index % density.shape[1], index // density.shape[1]], -1)
  return (corner + rng.uniform(0.05, 0.95, corner.shape)).astype(np.float32)


def spacings(centres: np.ndarray, among: np.ndarray) -> np.ndarray:
  """Mean distance of each of `centres` from its nearest three of `among`, [N]."""
  from scipy.spatial import cKDTree

  near = min(4, len(among))
  distance, _ = cKDTree(among).query(centres, near)
  distance = distance.reshape(len(centres), near)
  return np.maximum(distance[:, 1:].mean(1) if near > 1 else 30.0, 0.5)


def place(gaussians, chosen, centres, image, recipe: Recipe) -> Gaussians:
  """Puts new Gaussians into free slots: round ones of the picture's colours there.

  Args:
    gaussians: of NumPy arrays.
    chosen: which.
    centres: [n, 2].
    image: [H, W, C], luma and chromas.
  """
  xy = np.array(gaussians.xy)
  xy[chosen] = centres
  there = xy[xy[:, 0] > AWAY / 2]
  deviation = np.clip(recipe.spread * spacings(centres, there), 0.7, 60)
  shape, colour = np.array(gaussians.shape), np.array(gaussians.colour)
  shape[chosen] = geometry.round_ones(recipe.kind, deviation.astype(np.float32))
  column, row = centres.astype(int).T
  own = image[row, column]
  if recipe.how == 'sum':
    own = 0.5 * (own - gaussians.base)
  colour[chosen, : own.shape[1]] = own
  return gaussians._replace(xy=xy, shape=shape, colour=colour)


def start(image: np.ndarray, count: int, recipe: Recipe, rng) -> Gaussians:
  """The first Gaussians: `recipe.first` of `count`, the others away.

  Args:
    image: float32 [H, W, C], 0 to 1.
  """
  own = quantise.to_luma(image).astype(np.float32)
  extra = int(recipe.how == 'alpha')
  size = slots(count)
  nothing = Gaussians(
    np.full((size, 2), AWAY, np.float32),
    np.zeros((size, 3), np.float32),
    np.zeros((size, image.shape[2] + extra), np.float32),
    own.mean((0, 1)),
  )
  first = max(1, math.ceil(recipe.first * count))
  centres = seeds(image, first, recipe.evenly, rng)
  return place(nothing, np.arange(first), centres, own, recipe)


_ADAM = optax.scale_by_adam()


def rates(recipe: Recipe, share: jax.Array) -> Gaussians:
  """Learning rates after a share of the steps: they fall with a cosine."""
  cosine = 0.5 * (1 + jnp.cos(math.pi * jnp.clip(share, 0, 1)))
  left = recipe.last_rate + (1 - recipe.last_rate) * cosine
  first = recipe.position_rate, recipe.shape_rate, recipe.colour_rate, 0.0
  return Gaussians(*(rate * left for rate in first))


def begin(gaussians: Gaussians, step: int = 0) -> State:
  """The state before a step."""
  gaussians = jax.tree.map(jnp.asarray, gaussians)
  return State(gaussians, _ADAM.init(gaussians), jnp.asarray(step, jnp.int32))


def slots(count: int) -> int:
  """How long the arrays of so many Gaussians are: not every count is a new program."""
  unit = max(8, 1 << max(count.bit_length() - 4, 0))
  return -(-count // unit) * unit


def listed(gaussians: Gaussians, size, room, recipe: Recipe, margin: float):
  """`tiles.bins` of Gaussians."""
  deviations = geometry.deviations(recipe.kind, gaussians.shape)
  return tiles.bins(gaussians.xy, deviations, size, room, margin)


def error(gaussians, lists, target, recipe: Recipe, quantising: bool):
  """Mean squared error of the picture, in levels of 0 to 1."""
  if quantising:
    gaussians = quantise.quantised(recipe.kind, recipe.steps, gaussians)
  size = target.shape[:2]
  out = render.picture(gaussians, lists, size, recipe.kind, recipe.how)
  return jnp.mean((quantise.to_pixels(out) - target) ** 2)


def _within(gaussians: Gaussians, size, recipe: Recipe) -> Gaussians:
  """Keeps Gaussians that are there in the picture, scales and colours in range."""
  xy, shape = gaussians.xy, gaussians.shape
  there = xy[:, :1] > AWAY / 2
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


@functools.partial(
  jax.jit, static_argnames=('recipe', 'room', 'quantising'), donate_argnames='state'
)
def advance(
  state: State,
  target: jax.Array,
  total: jax.Array,
  recipe: Recipe,
  room: tiles.Capacity,
  quantising: bool,
) -> tuple[State, dict]:
  """Lists what touches what, and makes `recipe.every` steps.

  Args:
    target: float32 [H, W, C], 0 to 1.
    total: int32 (), steps of the whole fit.
    room: of the lists.

  Returns:
    The state; 'mse' before the last step, 'lost', 'pairs' and 'chunks' of the lists.
  """
  size = target.shape[:2]
  lists = listed(state.gaussians, size, room, recipe, recipe.margin)

  def one(carry, step):
    gaussians, moments = carry
    loss, slopes = jax.value_and_grad(error)(
      gaussians, lists, target, recipe, quantising
    )
    changes, moments = _ADAM.update(slopes, moments)
    there = gaussians.xy[:, :1] > AWAY / 2
    gaussians = jax.tree.map(
      lambda x, change, rate: (
        x - rate * jnp.where(there, change, 0) if x.ndim == 2 else x
      ),
      gaussians,
      changes,
      rates(recipe, step / total),
    )
    return (_within(gaussians, size, recipe), moments), loss

  carry = state.gaussians, state.moments
  (gaussians, moments), losses = jax.lax.scan(
    one, carry, state.step + jnp.arange(recipe.every)
  )
  metrics = {'mse': losses[-1], 'lost': lists.lost}
  metrics |= {'pairs': lists.pairs, 'chunks': lists.chunks}
  return State(gaussians, moments, state.step + recipe.every), metrics


@functools.partial(jax.jit, static_argnames=('size', 'recipe', 'room', 'quantising'))
def pixels(gaussians, size, recipe: Recipe, room, quantising: bool) -> jax.Array:
  """The picture [H, W, C], 0 to 1 and a little beyond."""
  if quantising:
    gaussians = quantise.quantised(recipe.kind, recipe.steps, gaussians)
  lists = listed(gaussians, size, room, recipe, 0.0)
  out = render.picture(gaussians, lists, size, recipe.kind, recipe.how)
  return quantise.to_pixels(out)


@functools.partial(jax.jit, static_argnames=('size', 'recipe'))
def needed(gaussians, size, recipe: Recipe) -> jax.Array:
  """How many pairs of a tile and a Gaussian there are now."""
  deviations = geometry.deviations(recipe.kind, gaussians.shape)
  rows, columns = tiles.grid(*size)
  left, right, top, bottom = tiles.boxes(
    gaussians.xy, deviations, recipe.margin, rows, columns
  )
  return jnp.sum(jnp.maximum(right - left, 0) * jnp.maximum(bottom - top, 0))


def run(
  image: np.ndarray, count: int, total: int, recipe: Recipe, seed: int, progress=None
) -> tuple[Gaussians, dict]:
  """Fits `count` Gaussians in `total` steps.

  Args:
    image: uint8 [H, W, C].
    progress: called as ``progress(done, total)``.

  Returns:
    The Gaussians as NumPy arrays, not quantised; and facts: 'lost' pairs, 'psnr_float'
    before quantisation began, 'psnr_rounded' of the same, quantised; 'steps'.
  """
  rng = np.random.default_rng(seed)
  target = np.asarray(image, np.float32) / 255
  state = begin(start(target, count, recipe, rng))
  return _drive(state, target, count, total, recipe, rng, progress)


def resume(
  image: np.ndarray,
  gaussians: Gaussians,
  count: int,
  steps: int,
  recipe: Recipe,
  seed: int,
  progress=None,
) -> tuple[Gaussians, dict]:
  """Goes on with more or fewer Gaussians, quantising, with falling rates.

  New ones go where the error is; of old ones those go that matter least.

  Args:
    image: uint8 [H, W, C].
    gaussians: as `run` returns them.
    count: of Gaussians from now on.
    steps: to make.
  """
  rng = np.random.default_rng([seed, count])
  target = np.asarray(image, np.float32) / 255
  matter = importance(gaussians, target, recipe)
  there = np.flatnonzero(gaussians.xy[:, 0] > AWAY / 2)
  kept = np.sort(there[np.argsort(-matter[there], kind='stable')[:count]])
  room = slots(count) - len(kept)
  padded = lambda x, fill: np.concatenate(
    [x[kept], np.full((room, x.shape[1]), fill, np.float32)]
  )
  gaussians = Gaussians(
    padded(gaussians.xy, AWAY),
    padded(gaussians.shape, 0),
    padded(gaussians.colour, 0),
    gaussians.base,
  )
  # the last part of a longer fit
  total = round(steps / (1 - _RESUMED))
  state = begin(gaussians, total - steps)
  if count > len(kept):
    own = quantise.to_luma(target)
    lists = _room(state.gaussians, target.shape[:2], recipe, None)
    state = grow(state, target, own, count - len(kept), recipe, lists, rng)
  return _drive(state, target, count, total, recipe, rng, progress)


def _room(gaussians, size, recipe: Recipe, room):
  """Room for the lists: as it was, if they fit and do not leave half of it empty."""
  pairs = int(needed(gaussians, size, recipe))
  if room is None or pairs > room.pairs or pairs < 0.4 * room.pairs:
    return tiles.capacity(slots(int(1.3 * pairs)), math.prod(tiles.grid(*size)), 1.0)
  return room


def _drive(state: State, target, count, total, recipe: Recipe, rng, progress):
  """From the state's step to the end."""
  own, size = quantise.to_luma(target), target.shape[:2]
  device, room, facts = jnp.asarray(target), None, {'lost': 0}
  calls = max(1, total // recipe.every)
  births = [
    max(1, int(calls * recipe.grown * (k + 1) / recipe.growths))
    for k in range(recipe.growths)
  ]
  first = int(state.step) // recipe.every
  for call in range(first, calls):
    if call in births and recipe.first < 1:
      there = int(np.sum(np.asarray(state.gaussians.xy[:, 0]) > AWAY / 2))
      share = births.count(call) / sum(b >= call for b in births)
      new = math.ceil((count - there) * share)
      state = grow(state, target, own, new, recipe, room, rng)
    room = _room(state.gaussians, size, recipe, room)
    quantising = call >= recipe.quantised_from * calls
    if quantising and 'psnr_float' not in facts and not first:
      for name, exact in (('psnr_float', False), ('psnr_rounded', True)):
        made = np.asarray(pixels(state.gaussians, size, recipe, room, exact))
        facts[name] = psnr(made, target)
    state, metrics = advance(state, device, total, recipe, room, quantising)
    if progress is not None:
      progress(call + 1 - first, calls - first)
  facts |= {'lost': int(metrics['lost']), 'steps': (calls - first) * recipe.every}
  return jax.device_get(state.gaussians), facts


def importance(gaussians: Gaussians, target: np.ndarray, recipe: Recipe) -> np.ndarray:
  """About how much the squared error grows if a Gaussian is left out, [N].

  Its share of a pixel, squared, times how far its colour is from the pixel's, squared;
  for 'sum' what it adds, squared.
  """
  size = target.shape[:2]
  room = _room(gaussians, size, recipe, None)
  own = jnp.asarray(quantise.to_luma(target))
  return np.asarray(_importance(gaussians, own, recipe, room))


@functools.partial(jax.jit, static_argnames=('recipe', 'room'))
def _importance(gaussians, own, recipe: Recipe, room) -> jax.Array:
  size = own.shape[:2]
  rows, columns = tiles.grid(*size)
  lists = listed(gaussians, size, room, recipe, 0.0)
  exact = geometry.precision(recipe.kind, gaussians.shape)
  coefs = render.coefficients(gaussians.xy, exact, lists, columns)
  count = rows * columns
  one = jnp.ones((*lists.members.shape, 1), own.dtype)
  pad = ((0, rows * tiles.TILE - size[0]), (0, columns * tiles.TILE - size[1]), (0, 0))
  tiled = lambda x: render.retile(jnp.pad(x, pad))
  colour = jnp.concatenate([gaussians.colour, 0 * gaussians.colour[:1]])[lists.members]
  ones = tiled(jnp.ones((*size, 1), own.dtype))
  if recipe.how == 'normalised':
    total = render.accumulate(coefs, one, lists.tiles, count) + render.FLOOR
    share = ones / total**2
  else:
    share, own = ones, 0 * own
  own = tiled(own)
  # the squares of weights are the weights of doubled exponents
  moments = jnp.concatenate(
    [share, share * own, share * (own**2).sum(1, keepdims=True)], 1
  )
  values = jnp.zeros((*lists.members.shape, moments.shape[1]), own.dtype)
  back = jax.vjp(lambda v: render.accumulate(2 * coefs, v, lists.tiles, count), values)
  sums = back[1](moments)[0]
  each = sums[..., :1] * colour**2 - 2 * sums[..., 1:-1] * colour
  each = each.sum(-1) + sums[..., -1]
  out = jnp.zeros(len(gaussians.xy) + 1, own.dtype)
  return out.at[lists.members].add(each)[:-1]


def psnr(made: np.ndarray, target: np.ndarray) -> float:
  """In dB, of 8-bit levels."""
  made = np.round(np.clip(made, 0, 1) * 255)
  return float(10 * np.log10(255**2 / np.mean((made - target * 255) ** 2)))


def grow(state: State, target, own, count: int, recipe: Recipe, room, rng) -> State:
  """Adds so many Gaussians, where the error is."""
  gaussians = jax.tree.map(np.array, jax.device_get(state.gaussians))
  free = np.flatnonzero(gaussians.xy[:, 0] < AWAY / 2)
  chosen = free[:count]
  if not len(chosen):
    return state
  made = np.asarray(pixels(state.gaussians, target.shape[:2], recipe, room, False))
  wrong = np.square(made - target).sum(-1)
  centres = sampled(_blurred(wrong), len(chosen), 0.05, rng)
  grown = place(gaussians, chosen, centres, own, recipe)
  return state._replace(gaussians=jax.tree.map(jnp.asarray, grown))


def _blurred(x: np.ndarray) -> np.ndarray:
  """Mean over 5 x 5 pixels."""
  from scipy.ndimage import uniform_filter

  return uniform_filter(x, 5, mode='nearest')
