"""Fits Gaussians to images, from seeds to what can be written.

Gaussians are added while fitting, where the error is; inactive ones have centres far
outside the image, so that shapes stay the same. From some step on what is rendered is
quantized as in the file (quantization-aware training). What happens between calls of
`step.advance` is done for each image by itself.

`run` makes a whole fit. `begin`, `advance` (one call) and `finish` are its parts: all
that is to come depends on the `FitState` between them, which can be stored.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from codax.errors import CodaxError
from codax.metrics import distortion
from codax.splat import (
  codebooks,
  quantization,
  rate_model,
  schedule,
  seeding,
  solve,
  step,
  tiles,
)
from codax.splat.binning import room_for, touched, unlisted
from codax.splat.fit_state import (
  CallMetrics,
  FitFacts,
  FitResult,
  FitState,
  ImageFit,
  make_image_fit,
)
from codax.splat.format import integer, quality_layers
from codax.splat.importance import ranked
from codax.splat.recipe import Recipe, of_program
from codax.splat.render import Gaussians
from codax.splat.schedule import Schedule
from codax.splat.seeding import AWAY
from codax.splat.step import QatInputs
from codax.splat.target import Target, make_target

_RESUMED = 0.6  # of a fit: where one that goes on begins


def unseen(*_) -> None:
  """Looks at nothing."""


def never() -> None:
  """Returns no reason to stop."""


def seeded(target: Target, count: int, recipe: Recipe, seed: int) -> ImageFit:
  """Returns an image's fit before its first step."""
  rng = np.random.default_rng(seed)
  state = step.begin(seeding.start(target, count, recipe, rng))
  active = seeding.count_first(count, recipe)
  return make_image_fit(state, target, count, active, recipe, rng)


def run(
  image: np.ndarray,
  count: int,
  total: int,
  recipe: Recipe,
  seed: int,
  progress=None,
  reason=never,
  look=unseen,
) -> FitResult:
  """Fits `count` Gaussians in `total` steps.

  Args:
    image: uint8 [H, W, C].
    count: number of Gaussians.
    total: steps.
    recipe: settings.
    seed: of everything random.
    progress: called as ``progress(done, total)``.
    reason: asked after every call; the fit ends when it returns something.
    look: called as ``look(stage, step, gaussians)`` where a stage ends: 'seeded',
      'grown' (several times) and 'before rounding'. The Gaussians are on the device,
      and their buffers are used again when it has returned.

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
) -> list[FitResult]:
  """Does as `run` for images of one size in one program, each as if by itself.

  Args:
    counts: numbers of Gaussians, such that `seeding.slots` are the same.
  """
  recipe = limit_growth(recipe, total)
  targets = [make_target(image) for image in images]
  state = begin(targets, counts, recipe, seed, look)
  return _drive(state, schedule.plan_calls(total, recipe), progress, reason, look)


def limit_growth(recipe: Recipe, total: int) -> Recipe:
  """Returns a recipe without growth if `total` steps leave no time for it."""
  few = total // recipe.every <= recipe.growths
  return recipe._replace(first=1.0) if few else recipe


def begin(
  targets: Sequence[Target],
  counts: Sequence[int],
  recipe: Recipe,
  seed: int,
  look: Callable = unseen,
) -> FitState:
  """Returns the state before the first step; for arguments see `run_many`."""
  fits = []
  for target, count in zip(targets, counts, strict=True):
    fits.append(seeded(target, count, recipe, seed))
    look('seeded', 0, fits[-1].state.gaussians)
  return FitState(0, tuple(fits))


def resume(
  image: np.ndarray,
  gaussians: Gaussians,
  count: int,
  steps: int,
  recipe: Recipe,
  seed: int,
  reason=never,
) -> FitResult:
  """Goes on with more or fewer Gaussians, quantizing, with falling rates.

  New ones go where the error is; of old ones those go that matter least.

  Args:
    image: uint8 [H, W, C].
    gaussians: what `run` returned.
    count: number of Gaussians from now on.
    steps: number of further steps.
  """
  rng = np.random.default_rng([seed, count])
  target = make_target(image)
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
  fit = make_image_fit(state, target, count, len(kept), recipe, rng)
  if count > len(kept):
    lists = room_for((state.gaussians,), target.size, recipe, None)
    fit = grow(fit, count - len(kept), lists)
  done = (total - steps) // recipe.every
  calls = max(total // recipe.every, done + 1)
  plan = schedule.plan_calls(calls * recipe.every, recipe, total, is_whole=False)
  (found,) = _drive(FitState(done, (fit,)), plan, None, reason)
  return found


def _drive(
  state: FitState, plan: Schedule, progress, reason, look=unseen
) -> list[FitResult]:
  """Makes the calls that are left, unless `reason` stops them."""
  first, stopped = state.call, None
  while state.call < plan.num_calls and not stopped:
    state, metrics = advance(state, plan, look=look)
    if progress is not None:
      progress(state.call - first, plan.num_calls - first)
    stopped = reason()
  return finish(state, plan, metrics, stopped, look)


def advance(
  state: FitState, plan: Schedule, devices: int = 1, look: Callable = unseen
) -> tuple[FitState, CallMetrics]:
  """Makes the next call of `step.advance` and what is due before it.

  Args:
    state: is used up.
    plan: of the fit.
    devices: see `step.advance`.
    look: see `run`.

  Raises:
    CodaxError: the error is no longer finite.
  """
  call, fits, room = state
  recipe, size = fits[0].recipe, fits[0].target.size
  grows = call in plan.growth_calls
  if grows and recipe.first < 1:
    share = schedule.find_growth_share(plan, call)
    fits = [_grown(fit, share, room, look) for fit in fits]
  room = room_for(_all(fits), size, recipe, room)
  if grows or call in (0, plan.qat_call):
    fits = [solved(fit, room) for fit in fits]
  qat = None
  if call >= plan.qat_call:
    fits = [_settled(fit, room, plan.is_whole, look) for fit in fits]
    qat = make_qat_inputs(fits)
  steps = schedule.count_steps(plan, call)
  units = qat and [each.units for each in qat]
  before = touched(_all(fits), size, recipe, recipe.margin, units)
  states, metrics = step.advance(
    tuple(fit.state for fit in fits),
    tuple(fit.device_pixels for fit in fits),
    plan.lr_steps,
    of_program(recipe)._replace(every=steps),
    room,
    qat,
    devices,
  )
  metrics = jax.device_get(metrics)
  if not np.isfinite(metrics['mse']).all():
    raise CodaxError(
      f'the fit diverged by step {int(states[0].step)}; another --seed may do better'
    )
  fits = [
    fit._replace(state=each, facts=_counted(fit.facts, int(lost), steps))
    for fit, each, lost in zip(fits, states, metrics['lost'], strict=True)
  ]
  found = CallMetrics(metrics['mse'], before, qat)
  return FitState(call + 1, tuple(fits), room), found


def finish(
  state: FitState,
  plan: Schedule,
  metrics: CallMetrics,
  stopped: str | None = None,
  look: Callable = unseen,
) -> list[FitResult]:
  """Returns the fits after the last call.

  Args:
    state: after the call.
    plan: of the fit.
    metrics: of the call.
    stopped: the reason for which this is not the end of the schedule, or None.
    look: see `run`.
  """
  fits, room = state.fits, state.capacity
  units = metrics.qat and [each.units for each in metrics.qat]
  recipe, size = fits[0].recipe, fits[0].target.size
  shares = unlisted(metrics.boxes, touched(_all(fits), size, recipe, 0.0, units))
  # if there was no time for it
  whole = plan.is_whole and not stopped
  fits = [_settled(fit, room, whole, look) for fit in fits]
  return [
    FitResult(
      jax.device_get(fit.state.gaussians),
      fit.facts._replace(unlisted=share, stopped=stopped),
    )
    for fit, share in zip(fits, shares, strict=True)
  ]


def _all(fits: Sequence[ImageFit]) -> list[Gaussians]:
  return [fit.state.gaussians for fit in fits]


def _counted(facts: FitFacts, lost: int, steps: int) -> FitFacts:
  return facts._replace(lost=max(facts.lost, lost), steps=facts.steps + steps)


def _settled(
  fit: ImageFit, room: tiles.Capacity, whole: bool, look: Callable
) -> ImageFit:
  """Adds all that quantization needs, if it is not there yet.

  These are the steps of quantization of this image, which are the fact 'coded', and
  codebooks if there are to be some. For a `whole` fit PSNR is measured, and where there
  are files again quantized.
  """
  if fit.facts.coded is not None:
    return fit
  size, found, recipe = fit.target.size, {}, fit.recipe
  pixels = fit.target.pixels
  if whole or recipe.adapted:
    made = np.asarray(step.pixels(fit.state.gaussians, size, recipe, room))
  if whole:
    found['psnr_float'] = psnr(made, pixels)
  if recipe.adapted:
    mse = float(np.mean((np.clip(made, 0, 1) - pixels) ** 2))
    steps = quantization.steps_for(recipe.kind, recipe.steps, mse)
    recipe = recipe._replace(steps=steps, adapted=False)
  found['coded'] = list(recipe.steps)
  state = codebooks.begun(fit.state, recipe, fit.rng)
  fit = fit._replace(state=state, recipe=recipe)
  if whole and recipe.how in integer.RENDERS:
    made = step.pixels(state.gaussians, size, recipe, room, fit.units)
    found['psnr_rounded'] = psnr(np.asarray(made), pixels)
  if whole:
    found |= codebooks.begun_facts(state.gaussians, recipe)
    look('before rounding', int(state.step), state.gaussians)
  return fit._replace(facts=fit.facts._replace(**found))


def as_coded(recipe: Recipe, facts: FitFacts) -> Recipe:
  """Returns the recipe with the steps of quantization that a fit chose."""
  return recipe._replace(steps=integer.Steps(*facts.coded), adapted=False)


def solved(fit: ImageFit, room: tiles.Capacity) -> ImageFit:
  """Solves for colours of least squares, where the recipe asks for them."""
  recipe, state = fit.recipe, fit.state
  if recipe.how == 'alpha' or not recipe.solved:
    return fit
  own, shared = jnp.asarray(fit.target.ycbcr), of_program(recipe)
  gaussians = solve.colours(state.gaussians, own, shared, room, recipe.solved)
  return fit._replace(state=state._replace(gaussians=gaussians))


def make_qat_inputs(fits: Sequence[ImageFit]) -> tuple[QatInputs, ...]:
  """Returns the inputs of quantization-aware steps at this moment."""
  recipe, out = fits[0].recipe, []
  known = recipe.how in integer.RENDERS and recipe.coding == 'scalar'
  counts_bits = bool(recipe.rate) and known
  host = jax.device_get(_all(fits)) if counts_bits else [None] * len(fits)
  for fit, gaussians in zip(fits, host, strict=True):
    model = layers = None
    if counts_bits:
      shape = fit.target.pixels.shape
      model = rate_model.prices(gaussians, fit.recipe, shape)
    if recipe.layers > 1:
      layers = layers_of(fit.state.gaussians, fit.target, fit.recipe).astype(np.int32)
    out.append(QatInputs(fit.units, model, layers))
  return tuple(out)


def layers_of(gaussians: Gaussians, target: Target, recipe: Recipe) -> np.ndarray:
  """Returns each slot's quality layer, int64 [S]: what matters most comes first."""
  order = ranked(gaussians, target, recipe)
  return quality_layers.numbered(order, len(gaussians.xy), recipe.layers)


def psnr(made: np.ndarray, target: np.ndarray) -> float:
  """Returns PSNR in dB of 8-bit levels; inf where equal."""
  made = np.round(np.clip(made, 0, 1) * 255)
  return distortion.psnr_of_mse(float(np.mean((made - target * 255) ** 2)))


def _grown(
  fit: ImageFit, share: float, room: tiles.Capacity, look: Callable
) -> ImageFit:
  """Adds a share of the Gaussians that are missing from the final count."""
  fit = grow(fit, math.ceil((fit.count - fit.num_active) * share), room)
  look('grown', int(fit.state.step), fit.state.gaussians)
  return fit


def grow(fit: ImageFit, count: int, room: tiles.Capacity) -> ImageFit:
  """Adds `count` Gaussians, or as many as there are slots, where the error is."""
  state, recipe = fit.state, fit.recipe
  gaussians = jax.tree.map(np.array, jax.device_get(state.gaussians))
  free = np.flatnonzero(~seeding.there(gaussians.xy))
  chosen = free[:count]
  if not len(chosen):
    return fit
  made = np.asarray(step.pixels(state.gaussians, fit.target.size, recipe, room))
  wrong = np.square(made - fit.target.pixels).sum(-1)
  centres = seeding.sampled(seeding.blurred(wrong), len(chosen), 0.05, fit.rng)
  grown = seeding.place(gaussians, chosen, centres, fit.target.ycbcr, recipe)
  grown = jax.tree.map(jnp.asarray, grown)
  state = state._replace(gaussians=grown)
  return fit._replace(state=state, num_active=fit.num_active + len(chosen))
