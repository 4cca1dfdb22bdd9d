"""Fits Gaussians to images, from seeds to what can be written.

Gaussians are added while fitting, where the error is; inactive ones have centers far
outside the image, so that arrays keep their lengths. From some step on Gaussians are
quantized as in the file before they are rendered (quantization-aware training). Work
between calls of `step.advance` is done for each image by itself.

`run` makes a whole fit. `init_state`, `advance` (one call) and `finish` are its parts:
everything to come depends on the `FitState` between them, which can be stored.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from codax.errors import Diverged
from codax.metrics import distortion
from codax.splat import (
  codebooks,
  qat_inputs,
  quantization,
  schedule,
  seeding,
  solve,
  step,
  tiles,
)
from codax.splat.binning import bin_images, missing_pair_share, tile_boxes
from codax.splat.fit_config import FitConfig, to_program_config
from codax.splat.fit_state import (
  CallMetrics,
  FitFacts,
  FitResult,
  FitState,
  ImageFit,
  make_image_fit,
)
from codax.splat.format import integer
from codax.splat.importance import rank_gaussians
from codax.splat.render import Gaussians
from codax.splat.schedule import Schedule
from codax.splat.seeding import INACTIVE_XY
from codax.splat.target import Target, make_target

_RESUMED = 0.6  # share of a fit at which a continued one begins


def ignore_stage(*_) -> None:
  """Ignores a stage of a fit."""


def never_stop() -> None:
  """Returns no reason to stop."""


def init_fit(target: Target, count: int, recipe: FitConfig, seed: int) -> ImageFit:
  """Returns an image's fit before its first step."""
  rng = np.random.default_rng(seed)
  state = step.init_state(seeding.init_gaussians(target, count, recipe, rng))
  active = seeding.count_initial(count, recipe)
  return make_image_fit(state, target, count, active, recipe, rng)


def run(
  image: np.ndarray,
  count: int,
  total: int,
  recipe: FitConfig,
  seed: int,
  progress=None,
  reason=never_stop,
  look=ignore_stage,
) -> FitResult:
  """Fits `count` Gaussians in `total` steps.

  Args:
    image: uint8 [H, W, C].
    count: number of Gaussians.
    total: steps.
    recipe: settings.
    seed: seed of everything random.
    progress: called as ``progress(done, total)``.
    reason: asked after every call; the fit ends when it returns something.
    look: called as ``look(stage, step, gaussians)`` where a stage ends: 'seeded',
      'grown' (several times) and 'before rounding'. The Gaussians are on the device,
      and their buffers are used again when it has returned.

  Raises:
    Diverged: the error is no longer finite.
  """
  (found,) = run_many([image], [count], total, recipe, seed, progress, reason, look)
  return found


def run_many(
  images: Sequence[np.ndarray],
  counts: Sequence[int],
  total: int,
  recipe: FitConfig,
  seed: int,
  progress=None,
  reason=never_stop,
  look=ignore_stage,
) -> list[FitResult]:
  """Fits images of one size in one program, each as if by itself.

  Args:
    images: uint8 [H, W, C] each.
    counts: numbers of Gaussians, such that `seeding.count_slots` are the same.
    total, recipe, seed, progress, reason, look: see `run`.
  """
  recipe = limit_growth(recipe, total)
  targets = [make_target(image) for image in images]
  state = init_state(targets, counts, recipe, seed, look)
  return _run_schedule(
    state, schedule.plan_calls(total, recipe), progress, reason, look
  )


def limit_growth(recipe: FitConfig, total: int) -> FitConfig:
  """Returns a recipe without growth if `total` steps leave no time for it."""
  few = total // recipe.rebin_every <= recipe.num_growths
  return recipe._replace(initial_fraction=1.0) if few else recipe


def init_state(
  targets: Sequence[Target],
  counts: Sequence[int],
  recipe: FitConfig,
  seed: int,
  look: Callable = ignore_stage,
) -> FitState:
  """Returns the state before the first step; for arguments see `run_many`."""
  fits = []
  for target, count in zip(targets, counts, strict=True):
    fits.append(init_fit(target, count, recipe, seed))
    look('seeded', 0, fits[-1].state.gaussians)
  return FitState(0, tuple(fits))


def resume(
  image: np.ndarray,
  gaussians: Gaussians,
  count: int,
  steps: int,
  recipe: FitConfig,
  seed: int,
  reason=never_stop,
) -> FitResult:
  """Continues a fit with more or fewer Gaussians, quantizing, with falling rates.

  New ones go where the error is; of old ones the least important go.

  Args:
    image: uint8 [H, W, C].
    gaussians: result of `run`.
    count: number of Gaussians from now on.
    steps: number of further steps.
    recipe: settings, with the quantization steps of the fit.
    seed: seed of everything random.
    reason: see `run`.
  """
  rng = np.random.default_rng([seed, count])
  target = make_target(image)
  survivors = np.sort(rank_gaussians(gaussians, target, recipe)[:count])
  num_free = seeding.count_slots(count) - len(survivors)
  padded = lambda x, fill: np.concatenate(
    [x[survivors], np.full((num_free, x.shape[1]), fill, np.float32)]
  )
  gaussians = Gaussians(
    padded(gaussians.xy, INACTIVE_XY),
    padded(gaussians.shape, 0),
    padded(gaussians.color, 0),
    gaussians.base,
    gaussians.books,
  )
  # the last part of a longer fit
  total = round(steps / (1 - _RESUMED))
  state = step.init_state(gaussians, total - steps)
  fit = make_image_fit(state, target, count, len(survivors), recipe, rng)
  if count > len(survivors):
    fit = densify(fit, count - len(survivors))
  done = (total - steps) // recipe.rebin_every
  calls = max(total // recipe.rebin_every, done + 1)
  plan = schedule.plan_calls(calls * recipe.rebin_every, recipe, total, is_whole=False)
  (found,) = _run_schedule(FitState(done, (fit,)), plan, None, reason)
  return found


def _run_schedule(
  state: FitState, plan: Schedule, progress, reason, look=ignore_stage
) -> list[FitResult]:
  """Makes the remaining calls, unless `reason` stops them."""
  first, stopped = state.call, None
  while state.call < plan.num_calls and not stopped:
    state, metrics = advance(state, plan, look=look)
    if progress is not None:
      progress(state.call - first, plan.num_calls - first)
    stopped = reason()
  return finish(state, plan, metrics, stopped, look)


def advance(
  state: FitState, plan: Schedule, devices: int = 1, look: Callable = ignore_stage
) -> tuple[FitState, CallMetrics]:
  """Makes the next call of `step.advance`, and everything due before it.

  Args:
    state: state after the call before; used up.
    plan: schedule of the fit.
    devices: see `step.advance`.
    look: see `run`.

  Raises:
    Diverged: the error is no longer finite.
  """
  call, fits, capacity = state
  recipe, grows = fits[0].recipe, call in plan.growth_calls
  if grows and recipe.initial_fraction < 1:
    share = schedule.find_growth_share(plan, call)
    fits = [_densify_by_share(fit, share, capacity, look) for fit in fits]
  lists, capacity = _bin_fits(fits, capacity, devices)
  if grows or call in (0, plan.qat_call):
    fits = [solve_colors(fit, each) for fit, each in zip(fits, lists, strict=True)]
  is_on = call >= plan.qat_call
  if is_on:
    fits = [_begin_quantization(fit, capacity, plan.is_whole, look) for fit in fits]
  qat = qat_inputs.make(fits) if is_on else qat_inputs.make_idle(fits)
  steps = schedule.count_steps(plan, call)
  states, mse = step.advance(
    tuple(fit.state for fit in fits),
    tuple(fit.tiled for fit in fits),
    lists,
    np.int32(plan.lr_steps),
    np.int32(steps),
    to_program_config(recipe),
    qat,
    devices,
  )
  mse, lost = jax.device_get((mse, [each.lost for each in lists]))
  if not np.isfinite(mse).all():
    raise Diverged(
      f'the fit diverged by step {int(states[0].step)}; another --seed may do better'
    )
  fits = [
    fit._replace(state=each, facts=_add_call(fit.facts, int(n), steps))
    for fit, each, n in zip(fits, states, lost, strict=True)
  ]
  found = CallMetrics(mse, [each.boxes for each in lists], qat if is_on else None)
  return FitState(call + 1, tuple(fits), capacity), found


def _bin_fits(
  fits: Sequence[ImageFit], capacity: tiles.Capacity | None, devices: int
) -> tuple[tuple[tiles.Lists, ...], tiles.Capacity]:
  """Bins the Gaussians of every image for steps, see `binning.bin_images`."""
  recipe, sizes = fits[0].recipe, [fit.target.size for fit in fits]
  growth = max(fit.count / fit.num_active for fit in fits)
  margin, many = recipe.bin_margin, _get_gaussians(fits)
  return bin_images(many, sizes, recipe, margin, capacity, growth, devices)


def finish(
  state: FitState,
  plan: Schedule,
  metrics: CallMetrics,
  stopped: str | None = None,
  look: Callable = ignore_stage,
) -> list[FitResult]:
  """Returns the fits after the last call.

  Args:
    state: state after the call.
    plan: schedule of the fit.
    metrics: metrics of the call.
    stopped: reason for which this is not the end of the schedule, or None.
    look: see `run`.
  """
  fits, capacity = state.fits, state.capacity
  units = metrics.qat and [each.units for each in metrics.qat]
  recipe, sizes = fits[0].recipe, [fit.target.size for fit in fits]
  many = _get_gaussians(fits)
  after = tile_boxes(many, sizes, recipe, 0.0, units, capacity)
  shares = missing_pair_share(metrics.boxes, after)
  # without time for quantization it begins here
  is_whole = plan.is_whole and not stopped
  fits = [_begin_quantization(fit, capacity, is_whole, look) for fit in fits]
  return [
    FitResult(
      jax.device_get(fit.state.gaussians),
      fit.facts._replace(missing_pair_share=share, stopped=stopped),
    )
    for fit, share in zip(fits, shares, strict=True)
  ]


def _get_gaussians(fits: Sequence[ImageFit]) -> list[Gaussians]:
  return [fit.state.gaussians for fit in fits]


def _add_call(facts: FitFacts, lost: int, steps: int) -> FitFacts:
  return facts._replace(lost=max(facts.lost, lost), steps=facts.steps + steps)


def _begin_quantization(
  fit: ImageFit, capacity: tiles.Capacity, is_whole: bool, look: Callable
) -> ImageFit:
  """Adds everything that quantization needs, unless it exists already.

  These are the image's quantization steps, which are the fact 'coded', and codebooks
  where the recipe asks for them. For a whole fit PSNR is measured, and for blends that
  files have measured again after quantization.
  """
  if fit.facts.coded is not None:
    return fit
  size, found, recipe = fit.target.size, {}, fit.recipe
  pixels = fit.target.pixels
  if is_whole or recipe.adaptive_steps:
    made = step.render_pixels(fit.state.gaussians, size, recipe, capacity)
  if is_whole:
    found['psnr_float'] = psnr(made, pixels)
  if recipe.adaptive_steps:
    mse = float(np.mean((np.clip(made, 0, 1) - pixels) ** 2))
    steps = quantization.adapt_steps(recipe.covariance, recipe.q_steps, mse)
    recipe = recipe._replace(q_steps=steps, adaptive_steps=False)
  found['coded'] = list(recipe.q_steps)
  state = codebooks.init_codebooks(fit.state, recipe, fit.rng)
  fit = fit._replace(state=state, recipe=recipe)
  if is_whole and recipe.blend in integer.BLENDS:
    made = step.render_pixels(state.gaussians, size, recipe, capacity, fit.units)
    found['psnr_rounded'] = psnr(made, pixels)
  if is_whole:
    found |= codebooks.describe_initial(state.gaussians, recipe)
    look('before rounding', int(state.step), state.gaussians)
  return fit._replace(facts=fit.facts._replace(**found))


def apply_chosen_steps(recipe: FitConfig, facts: FitFacts) -> FitConfig:
  """Returns the recipe with the steps of quantization that a fit chose."""
  return recipe._replace(q_steps=integer.QSteps(*facts.coded), adaptive_steps=False)


def solve_colors(fit: ImageFit, lists: tiles.Lists) -> ImageFit:
  """Solves for least-squares colors, where the recipe asks for them."""
  recipe, state = fit.recipe, fit.state
  if recipe.blend == 'alpha' or not recipe.cg_iterations:
    return fit
  shared = to_program_config(recipe)
  gaussians = solve.solve_colors(
    state.gaussians, fit.tiled, lists, shared, recipe.cg_iterations
  )
  return fit._replace(state=state._replace(gaussians=gaussians))


def psnr(made: np.ndarray, target: np.ndarray) -> float:
  """Returns PSNR in dB of 8-bit levels; inf where equal."""
  made = np.round(np.clip(made, 0, 1) * 255)
  return distortion.psnr_of_mse(float(np.mean((made - target * 255) ** 2)))


def _densify_by_share(
  fit: ImageFit, share: float, capacity: tiles.Capacity, look: Callable
) -> ImageFit:
  """Adds a share of the Gaussians that are missing from the final count."""
  fit = densify(fit, math.ceil((fit.count - fit.num_active) * share), capacity)
  look('grown', int(fit.state.step), fit.state.gaussians)
  return fit


def densify(
  fit: ImageFit, count: int, capacity: tiles.Capacity | None = None
) -> ImageFit:
  """Adds `count` Gaussians, or as many as there are free slots, where the error is."""
  state, recipe = fit.state, fit.recipe
  gaussians = jax.tree.map(np.array, jax.device_get(state.gaussians))
  free = np.flatnonzero(~seeding.is_active(gaussians.xy))
  chosen = free[:count]
  if not len(chosen):
    return fit
  made = step.render_pixels(state.gaussians, fit.target.size, recipe, capacity)
  wrong = np.square(made - fit.target.pixels).sum(-1)
  centers = seeding.sample_centers(seeding.blur(wrong), len(chosen), 0.05, fit.rng)
  grown = seeding.place(gaussians, chosen, centers, fit.target.ycbcr, recipe)
  grown = jax.tree.map(jnp.array, grown)
  state = state._replace(gaussians=grown)
  return fit._replace(state=state, num_active=fit.num_active + len(chosen))
