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

from codax.errors import CodaxError
from codax.metrics import distortion
from codax.splat import (
  codebooks,
  integer,
  price,
  quantise,
  render,
  seeding,
  solve,
  tiles,
)
from codax.splat.importance import ranked
from codax.splat.listing import listed, room_for
from codax.splat.recipe import Recipe
from codax.splat.render import Gaussians
from codax.splat.seeding import AWAY

_RESUMED = 0.6  # of a fit: where one that goes on begins
_REACH = 0.05  # how far luma may go beyond black and white


class State(NamedTuple):
  """Gaussians, the optimiser's moments, and steps made (int32)."""

  gaussians: Gaussians
  moments: optax.ScaleByAdamState
  step: jax.Array


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
  moments = _ADAM.init(gaussians._replace(books=None))
  return State(gaussians, moments, jnp.asarray(step, jnp.int32))


def error(gaussians, lists, target, recipe: Recipe, quantising: bool, priced=None):
  """What is made smaller, and the mean squared error in levels of 0 to 1.

  The first has the slope of log MSE + rate log bits, times MSE.
  """
  if quantising:
    gaussians = quantise.quantised(recipe.kind, recipe.steps, gaussians)
  size = target.shape[:2]
  # Tiles are compared as they are: to make a picture of them takes as long as the rest.
  made = render.tiled(gaussians, lists, size, recipe.kind, recipe.how)
  inside = render.retile(jnp.ones((*size, 1), made.dtype))[:, 0]
  wrong = quantise.squares(made - render.retile(quantise.to_luma(target)))
  mse = loss = jnp.sum(inside * wrong) / target.size
  if priced is not None:
    weight = recipe.rate * jax.lax.stop_gradient(mse) / priced.total
    loss = mse + weight * price.bits(gaussians, recipe, priced)
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
  priced=None,
) -> tuple[State, dict]:
  """Lists what touches what, and makes `recipe.every` steps.

  Args:
    target: float32 [H, W, C], 0 to 1.
    total: int32 (), steps of the whole fit.
    room: of the lists.
    priced: of `price`, or None if bits do not count.

  Returns:
    The state; 'mse' before the last step, 'lost' of the lists.
  """
  size = target.shape[:2]
  lists = listed(state.gaussians, size, room, recipe, recipe.margin)

  def one(carry, step):
    gaussians, moments, books = carry
    books = codebooks.refreshed(gaussians, books, recipe)
    (_, loss), slopes = jax.value_and_grad(
      lambda g: error(
        g._replace(books=books), lists, target, recipe, quantising, priced
      ),
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
    if quantising:
      gaussians = quantise.committed(
        recipe.kind, recipe.steps, gaussians._replace(books=books), recipe.commitment
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


@functools.partial(jax.jit, static_argnames=('size', 'recipe', 'room', 'quantising'))
def pixels(gaussians, size, recipe: Recipe, room, quantising: bool) -> jax.Array:
  """The picture [H, W, C], 0 to 1 and a little beyond."""
  if quantising:
    gaussians = quantise.quantised(recipe.kind, recipe.steps, gaussians)
  lists = listed(gaussians, size, room, recipe, 0.0)
  out = render.picture(gaussians, lists, size, recipe.kind, recipe.how)
  return quantise.to_pixels(out)


def _never() -> None:
  """No reason to stop."""


def unseen(*_) -> None:
  """Nobody looks."""


def run(
  image: np.ndarray,
  count: int,
  total: int,
  recipe: Recipe,
  seed: int,
  progress=None,
  reason=_never,
  look=unseen,
) -> tuple[Gaussians, dict]:
  """Fits `count` Gaussians in `total` steps.

  Args:
    image: uint8 [H, W, C].
    progress: called as ``progress(done, total)``.
    reason: asked from time to time; the fit ends when it returns something.
    look: called as ``look(stage, step, gaussians)`` where a stage ends: 'seeded',
      'grown' (several times) and 'before rounding'. The Gaussians are on the device,
      and their buffers are used again when it has returned.

  Returns:
    The Gaussians as NumPy arrays, not quantised; and facts: 'lost', the most pairs that
    a list had no room for, 'psnr_float' before quantisation began (or at the end, if it
    never did; not of a fit that stopped earlier), 'psnr_rounded' of the same, quantised
    ('alpha' has none); 'coded', the steps of quantisation; 'distortion_begun', of
    codebooks then, if there are any; 'steps'; 'stopped', None or the reason.

  Raises:
    CodaxError: the error is no longer finite.
  """
  rng = np.random.default_rng(seed)
  target = np.asarray(image, np.float32) / 255
  if total // recipe.every <= recipe.growths:  # no time to grow
    recipe = recipe._replace(first=1.0)
  state = begin(seeding.start(target, count, recipe, rng))
  look('seeded', 0, state.gaussians)
  return _drive(state, target, count, total, recipe, rng, progress, reason, look)


def resume(
  image: np.ndarray,
  gaussians: Gaussians,
  count: int,
  steps: int,
  recipe: Recipe,
  seed: int,
  reason=_never,
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
  kept = np.sort(ranked(gaussians, target, recipe)[:count])
  room = seeding.slots(count) - len(kept)
  padded = lambda x, fill: np.concatenate(
    [x[kept], np.full((room, x.shape[1]), fill, np.float32)]
  )
  gaussians = Gaussians(
    padded(gaussians.xy, AWAY),
    padded(gaussians.shape, 0),
    padded(gaussians.colour, 0),
    gaussians.base,
    gaussians.books,
  )
  # the last part of a longer fit
  total = round(steps / (1 - _RESUMED))
  state = begin(gaussians, total - steps)
  if count > len(kept):
    own = quantise.to_luma(target)
    lists = room_for(state.gaussians, target.shape[:2], recipe, None)
    state = grow(state, target, own, count - len(kept), recipe, lists, rng)
  return _drive(state, target, count, total, recipe, rng, None, reason)


class _Schedule(NamedTuple):
  """What happens before which call of `advance`.

  Attributes:
    calls: how many there are.
    births: before these Gaussians are added.
    begins: from here on they are quantised.
  """

  calls: int
  births: list[int]
  begins: int


def _schedule(total: int, recipe: Recipe) -> _Schedule:
  calls = max(1, total // recipe.every)
  births = [
    max(1, int(calls * recipe.grown * (k + 1) / recipe.growths))
    for k in range(recipe.growths)
  ]
  return _Schedule(calls, births, math.ceil(recipe.quantised_from * calls))


def _drive(
  state: State, target, count, total, recipe, rng, progress, reason, look=unseen
):
  """From the state's step to the end."""
  own, size = quantise.to_luma(target), target.shape[:2]
  device, room, facts = jnp.asarray(target), None, {'lost': 0, 'steps': 0}
  calls, births, begins = _schedule(total, recipe)
  first = int(state.step) // recipe.every
  for call in range(first, calls):
    quantising = call >= begins
    if call in births and recipe.first < 1:
      there = len(seeding.present(state.gaussians))
      share = births.count(call) / sum(b >= call for b in births)
      new = math.ceil((count - there) * share)
      state = grow(state, target, own, new, recipe, room, rng)
      look('grown', int(state.step), state.gaussians)
    room = room_for(state.gaussians, size, recipe, room)
    if call in (0, *births, begins):
      state = solved(state, own, recipe, room)
    if quantising and 'coded' not in facts:
      state, recipe, found = _settled(state, target, recipe, room, rng, not first)
      facts |= found
      if not first:
        facts |= codebooks.begun_facts(state.gaussians, recipe)
        look('before rounding', int(state.step), state.gaussians)
    prices = priced(state.gaussians, recipe, target.shape, quantising)
    state, metrics = advance(state, device, total, recipe, room, quantising, prices)
    if not math.isfinite(float(metrics['mse'])):
      raise CodaxError(
        f'the fit diverged by step {int(state.step)}; another --seed may do better'
      )
    facts['lost'] = max(facts['lost'], int(metrics['lost']))
    facts['steps'] += recipe.every
    if progress is not None:
      progress(call + 1 - first, calls - first)
    facts['stopped'] = reason()
    if facts['stopped']:
      break
  if 'coded' not in facts:  # there was no time for it
    measured = not (first or facts['stopped'])
    state, recipe, found = _settled(state, target, recipe, room, rng, measured)
    facts |= found
  return jax.device_get(state.gaussians), facts


def _settled(state: State, target, recipe: Recipe, room, rng, measured: bool):
  """All that quantisation needs: steps, and codebooks if there are to be some.

  Returns:
    The state, the recipe with the steps that this picture gets, and facts: these as
    'coded', and if `measured` PSNR as they are and, where there are files, quantised.
  """
  size, found = target.shape[:2], {}
  if measured or recipe.adapted:
    made = np.asarray(pixels(state.gaussians, size, recipe, room, False))
  if measured:
    found['psnr_float'] = psnr(made, target)
  if recipe.adapted:
    mse = float(np.mean((np.clip(made, 0, 1) - target) ** 2))
    steps = quantise.steps_for(recipe.kind, recipe.steps, mse)
    recipe = recipe._replace(steps=steps, adapted=False)
  found['coded'] = list(recipe.steps)
  state = codebooks.begun(state, recipe, rng)
  if measured and recipe.how in integer.RENDERS:
    made = np.asarray(pixels(state.gaussians, size, recipe, room, True))
    found['psnr_rounded'] = psnr(made, target)
  return state, recipe, found


def as_coded(recipe: Recipe, facts: dict) -> Recipe:
  """The recipe with the steps that a fit chose."""
  return recipe._replace(steps=integer.Steps(*facts['coded']), adapted=False)


def solved(state: State, own, recipe: Recipe, room) -> State:
  """With colours of least squares, where the recipe asks for them."""
  if recipe.how == 'alpha' or not recipe.solved:
    return state
  own = jnp.asarray(own)
  gaussians = solve.colours(state.gaussians, own, recipe, room, recipe.solved)
  return state._replace(gaussians=gaussians)


def priced(gaussians, recipe: Recipe, size, quantising: bool) -> price.Prices | None:
  """The prices of bits at this moment, if they count; of pictures [H, W, C]."""
  known = recipe.how in integer.RENDERS and recipe.coding == 'scalar'
  if not (quantising and recipe.rate and known):
    return None
  return price.prices(jax.device_get(gaussians), recipe, size)


def psnr(made: np.ndarray, target: np.ndarray) -> float:
  """In dB, of 8-bit levels; inf where equal."""
  made = np.round(np.clip(made, 0, 1) * 255)
  return distortion.psnr_of_mse(float(np.mean((made - target * 255) ** 2)))


def grow(state: State, target, own, count: int, recipe: Recipe, room, rng) -> State:
  """Adds so many Gaussians, where the error is."""
  gaussians = jax.tree.map(np.array, jax.device_get(state.gaussians))
  free = np.flatnonzero(~seeding.there(gaussians.xy))
  chosen = free[:count]
  if not len(chosen):
    return state
  made = np.asarray(pixels(state.gaussians, target.shape[:2], recipe, room, False))
  wrong = np.square(made - target).sum(-1)
  centres = seeding.sampled(seeding.blurred(wrong), len(chosen), 0.05, rng)
  grown = seeding.place(gaussians, chosen, centres, own, recipe)
  return state._replace(gaussians=jax.tree.map(jnp.asarray, grown))
