"""Fitting Gaussians to pictures, from seeds to what can be written.

Gaussians are added while fitting, where the error is; those that are not there yet have
centres far outside the picture, so that shapes stay the same. From some step on what is
rendered is quantised as in the file (quantisation-aware training). What happens between
calls of `step.advance` is done for each picture by itself.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codax.errors import CodaxError
from codax.metrics import distortion
from codax.splat import codebooks, quantization, rate_model, seeding, solve, step, tiles
from codax.splat.binning import room_for, touched, unlisted
from codax.splat.format import integer, quality_layers
from codax.splat.importance import ranked
from codax.splat.recipe import Recipe, of_program
from codax.splat.render import Gaussians
from codax.splat.seeding import AWAY
from codax.splat.step import State

_RESUMED = 0.6  # of a fit: where one that goes on begins


class _Fit(NamedTuple):
  """One picture's part.

  Attributes:
    state: of its fit.
    target: float32 [H, W, C], 0 to 1, NumPy's.
    own: the same as luma and chromas.
    count: of Gaussians that there shall be in the end.
    recipe: with the steps of quantisation that it chose, as soon as it did.
    rng: NumPy's.
    facts: see `run`.
    look: see `run`.
  """

  state: State
  target: np.ndarray
  own: np.ndarray
  count: int
  recipe: Recipe
  rng: np.random.Generator
  facts: dict[str, Any]
  look: Callable

  @property
  def size(self) -> tuple[int, int]:
    return self.target.shape[:2]

  @property
  def units(self) -> quantization.Units:
    recipe = self.recipe
    return quantization.units(recipe.kind, recipe.steps, self.target.shape[2])


def seeded(
  image: np.ndarray, count: int, recipe: Recipe, seed: int, look: Callable
) -> _Fit:
  """A picture's fit before its first step; see `run`."""
  rng = np.random.default_rng(seed)
  target = np.asarray(image, np.float32) / 255
  state = step.begin(seeding.start(target, count, recipe, rng))
  look('seeded', 0, state.gaussians)
  return _of(state, target, count, recipe, rng, look)


def _of(state, target, count: int, recipe: Recipe, rng, look) -> _Fit:
  own, facts = quantization.to_luma(target), {'lost': 0, 'steps': 0}
  return _Fit(state, target, own, count, recipe, rng, facts, look)


def never() -> None:
  """Returns no reason to stop."""


def unseen(*_) -> None:
  """Nobody looks."""


def run(
  image: np.ndarray,
  count: int,
  total: int,
  recipe: Recipe,
  seed: int,
  progress=None,
  reason=never,
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
    a list had no room for; 'unlisted', of the pairs of a tile and a Gaussian that there
    are in the end the share that the last lists had not; 'psnr_float' before
    quantisation began (or at the end, if it never did; not of a fit that stopped
    earlier), 'psnr_rounded' of the same, quantised ('alpha' has none); 'coded', the
    steps of quantisation; 'distortion_begun', of codebooks then, if there are any;
    'steps'; 'stopped', None or the reason.

  Raises:
    CodaxError: the error is no longer finite.
  """
  (found,) = run_many([image], [count], total, recipe, seed, progress, reason, look)
  return found


def run_many(
  images: Sequence[np.ndarray],
  counts: Sequence[int],
  total: int,
  recipe: Recipe,
  seed: int,
  progress=None,
  reason=never,
  look=unseen,
) -> list[tuple[Gaussians, dict]]:
  """`run` for pictures of one size in one program, each as if by itself.

  Args:
    counts: of each picture's Gaussians, such that `seeding.slots` are the same.
  """
  if total // recipe.every <= recipe.growths:  # no time to grow
    recipe = recipe._replace(first=1.0)
  fits = [
    seeded(image, count, recipe, seed, look)
    for image, count in zip(images, counts, strict=True)
  ]
  return _drive(fits, total, _schedule(total, recipe), progress, reason)


def resume(
  image: np.ndarray,
  gaussians: Gaussians,
  count: int,
  steps: int,
  recipe: Recipe,
  seed: int,
  reason=never,
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
  state = step.begin(gaussians, total - steps)
  fit = _of(state, target, count, recipe, rng, unseen)
  if count > len(kept):
    lists = room_for((state.gaussians,), target.shape[:2], recipe, None)
    fit = grow(fit, count - len(kept), lists)
  calls = max(total // recipe.every, (total - steps) // recipe.every + 1)
  schedule = _schedule(calls * recipe.every, recipe)
  (found,) = _drive([fit], total, schedule, None, reason, whole=False)
  return found


class _Schedule(NamedTuple):
  """What happens before which call of `step.advance`.

  Attributes:
    calls: how many there are.
    last: steps of the last one; of all others `Recipe.every`.
    births: before these Gaussians are added.
    begins: from here on they are quantised.
  """

  calls: int
  last: int
  births: list[int]
  begins: int


def _schedule(total: int, recipe: Recipe) -> _Schedule:
  """Of so many steps, 1 or more, from the first on."""
  calls = -(-total // recipe.every)
  last = total - (calls - 1) * recipe.every
  births = [
    max(1, int(calls * recipe.grown * (k + 1) / recipe.growths))
    for k in range(recipe.growths)
  ]
  return _Schedule(calls, last, births, math.ceil(recipe.quantised_from * calls))


def _drive(
  fits: list[_Fit], total: int, schedule: _Schedule, progress, reason, whole=True
) -> list[tuple[Gaussians, dict]]:
  """From the states' step to the end of the schedule; a `whole` fit or one resumed.

  Args:
    total: steps by which the rates fall.
  """
  recipe, size, room = fits[0].recipe, fits[0].size, None
  targets, shared = tuple(jnp.asarray(fit.target) for fit in fits), of_program(recipe)
  calls, last, births, begins = schedule
  first, stopped = int(fits[0].state.step) // recipe.every, None
  for call in range(first, calls):
    if call in births and recipe.first < 1:
      share = births.count(call) / sum(b >= call for b in births)
      fits = [_grown(fit, share, room) for fit in fits]
    room = room_for(_all(fits), size, recipe, room)
    if call in (0, *births, begins):
      fits = [solved(fit, room) for fit in fits]
    units = prices = layer = None
    if call >= begins:
      fits = [_settled(fit, room, whole) for fit in fits]
      units, prices = tuple(fit.units for fit in fits), priced(fits)
      layer = layered(fits)
    steps = last if call == calls - 1 else recipe.every
    shared = shared._replace(every=steps)
    before = touched(_all(fits), size, recipe, recipe.margin, units)
    states, metrics = step.advance(
      tuple(fit.state for fit in fits), targets, total, shared, room, units, prices,
      layer,
    )  # fmt: skip
    metrics = jax.device_get(metrics)
    if not np.isfinite(metrics['mse']).all():
      raise CodaxError(
        f'the fit diverged by step {int(states[0].step)}; another --seed may do better'
      )
    if progress is not None:
      progress(call + 1 - first, calls - first)
    stopped = reason()
    fits = [
      _after(*each, steps, stopped)
      for each in zip(fits, states, metrics['lost'], strict=True)
    ]
    if stopped:
      break
  shares = unlisted(before, touched(_all(fits), size, recipe, 0.0, units))
  # if there was no time for it
  fits = [_settled(fit, room, whole and not stopped) for fit in fits]
  return [
    (jax.device_get(fit.state.gaussians), fit.facts | {'unlisted': share})
    for fit, share in zip(fits, shares, strict=True)
  ]


def _all(fits: Sequence[_Fit]) -> list[Gaussians]:
  return [fit.state.gaussians for fit in fits]


def _after(fit: _Fit, state: State, lost, steps: int, stopped: str | None) -> _Fit:
  facts = fit.facts | {
    'lost': max(fit.facts['lost'], int(lost)),
    'steps': fit.facts['steps'] + steps,
    'stopped': stopped,
  }
  return fit._replace(state=state, facts=facts)


def _settled(fit: _Fit, room: tiles.Capacity, whole: bool) -> _Fit:
  """With all that quantisation needs, if it has not got that yet.

  That are the steps that this picture gets, which are the fact 'coded', and codebooks
  if there are to be some. Of a `whole` fit PSNR is measured, and where there are files
  again quantised.
  """
  if 'coded' in fit.facts:
    return fit
  size, found, recipe = fit.size, {}, fit.recipe
  if whole or recipe.adapted:
    made = np.asarray(step.pixels(fit.state.gaussians, size, recipe, room))
  if whole:
    found['psnr_float'] = psnr(made, fit.target)
  if recipe.adapted:
    mse = float(np.mean((np.clip(made, 0, 1) - fit.target) ** 2))
    steps = quantization.steps_for(recipe.kind, recipe.steps, mse)
    recipe = recipe._replace(steps=steps, adapted=False)
  found['coded'] = list(recipe.steps)
  state = codebooks.begun(fit.state, recipe, fit.rng)
  fit = fit._replace(state=state, recipe=recipe)
  if whole and recipe.how in integer.RENDERS:
    made = step.pixels(state.gaussians, size, recipe, room, fit.units)
    found['psnr_rounded'] = psnr(np.asarray(made), fit.target)
  if whole:
    found |= codebooks.begun_facts(state.gaussians, recipe)
    fit.look('before rounding', int(state.step), state.gaussians)
  return fit._replace(facts=fit.facts | found)


def as_coded(recipe: Recipe, facts: dict) -> Recipe:
  """The recipe with the steps that a fit chose."""
  return recipe._replace(steps=integer.Steps(*facts['coded']), adapted=False)


def solved(fit: _Fit, room: tiles.Capacity) -> _Fit:
  """With colours of least squares, where the recipe asks for them."""
  recipe, state = fit.recipe, fit.state
  if recipe.how == 'alpha' or not recipe.solved:
    return fit
  own, shared = jnp.asarray(fit.own), of_program(recipe)
  gaussians = solve.colours(state.gaussians, own, shared, room, recipe.solved)
  return fit._replace(state=state._replace(gaussians=gaussians))


def priced(fits: Sequence[_Fit]) -> tuple[rate_model.Prices, ...] | None:
  """The prices of bits at this moment, if they count."""
  recipe = fits[0].recipe
  known = recipe.how in integer.RENDERS and recipe.coding == 'scalar'
  if not (recipe.rate and known):
    return None
  gaussians = jax.device_get(_all(fits))
  return tuple(
    rate_model.prices(each, fit.recipe, fit.target.shape)
    for fit, each in zip(fits, gaussians, strict=True)
  )


def layered(fits: Sequence[_Fit]) -> tuple[np.ndarray, ...] | None:
  """The layers of the Gaussians at this moment, if there are several."""
  if fits[0].recipe.layers == 1:
    return None
  return tuple(
    layers_of(fit.state.gaussians, fit.target, fit.recipe).astype(np.int32)
    for fit in fits
  )


def layers_of(gaussians: Gaussians, target: np.ndarray, recipe: Recipe) -> np.ndarray:
  """`layers.numbered` by what matters most, int64 [S]; see `importance.ranked`."""
  order = ranked(gaussians, target, recipe)
  return quality_layers.numbered(order, len(gaussians.xy), recipe.layers)


def psnr(made: np.ndarray, target: np.ndarray) -> float:
  """In dB, of 8-bit levels; inf where equal."""
  made = np.round(np.clip(made, 0, 1) * 255)
  return distortion.psnr_of_mse(float(np.mean((made - target * 255) ** 2)))


def _grown(fit: _Fit, share: float, room: tiles.Capacity) -> _Fit:
  """With a share of the Gaussians that there shall be and are not."""
  there = len(seeding.present(fit.state.gaussians))
  fit = grow(fit, math.ceil((fit.count - there) * share), room)
  fit.look('grown', int(fit.state.step), fit.state.gaussians)
  return fit


def grow(fit: _Fit, count: int, room: tiles.Capacity) -> _Fit:
  """Adds so many Gaussians, where the error is."""
  state, recipe = fit.state, fit.recipe
  gaussians = jax.tree.map(np.array, jax.device_get(state.gaussians))
  free = np.flatnonzero(~seeding.there(gaussians.xy))
  chosen = free[:count]
  if not len(chosen):
    return fit
  made = np.asarray(step.pixels(state.gaussians, fit.size, recipe, room))
  wrong = np.square(made - fit.target).sum(-1)
  centres = seeding.sampled(seeding.blurred(wrong), len(chosen), 0.05, fit.rng)
  grown = seeding.place(gaussians, chosen, centres, fit.own, recipe)
  grown = jax.tree.map(jnp.asarray, grown)
  return fit._replace(state=state._replace(gaussians=grown))
