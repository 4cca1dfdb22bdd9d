"""Encodes an image: fits Gaussians, quantizes, writes, and decodes the file again.

The number of Gaussians decides the size of the file. A target of rate or quality
(`rate_control`) is met by a fit, its file, and shorter fits that continue from it with
more or fewer Gaussians.
"""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from codax import rate_control
from codax.codec import Encoded, Options, ShouldStop
from codax.errors import CodaxError
from codax.metrics import distortion
from codax.splat import codebooks, counts, fit, quantization, rdo, seeding
from codax.splat.fit_config import RDO_SWEEPS, TOTAL_STEPS, FitConfig
from codax.splat.fit_state import FitFacts, FitResult
from codax.splat.format import container, integer, quality_layers
from codax.splat.importance import rank_gaussians, rank_layers
from codax.splat.render import Gaussians
from codax.splat.target import make_target

_CORRECTIONS = 8
# Rough change of log(bpp), and of PSNR in dB, for a change of log(count) by one.
_BPP_SLOPE, _PSNR_SLOPE = 1.0, 8.0
_MAX_MOVE = 1.0  # of log(count), at once
# Files at most so far above a target are trimmed to it; in log(bpp), and in dB.
_TRIMMED_BPP, _TRIMMED_PSNR = 0.08, 0.3
_REFIT_SHARE, _MIN_REFIT = 0.3, 100  # steps of a correction: share of all, minimum
# Shares of a time budget: for trials and timing; then of the rest for the first fit, if
# a target may ask for others, and if not (a file has to be written too).
_TIMING, _FIRST, _ALL = 0.3, 0.5, 0.95
_BEFORE_RDO = 0.8  # share of these, where the file is optimized after the fit
_LATE = 1.2  # share of the remaining time after which a fit is cut


class EncodeConfig(NamedTuple):
  """Settings of an encoding.

  Attributes:
    recipe: settings of the fit.
    total: number of steps.
    count: initial number of Gaussians, or None: by a target, or by the image.
    bpp, psnr: target, see `rate_control`, or None.
    lmbda: weight of the rate, or None; the number of Gaussians minimizes
      MSE + lmbda bpp according to a power law through two short fits (MSE with levels
      0 to 1).
    seconds: time budget in seconds that sets the number of steps in place of `total`,
      corrections for a target included, or None. Compilation beyond it comes on top.
    seed: seed of everything random.
  """

  recipe: FitConfig = FitConfig()
  total: int = TOTAL_STEPS['medium']
  count: int | None = None
  bpp: float | None = None
  psnr: float | None = None
  lmbda: float | None = None
  seconds: float | None = None
  seed: int = 0


def make_config(options: Options) -> EncodeConfig:
  """Returns the configuration for the command line's options."""
  preset, layers = options.preset or 'fast', options.extra.get('layers', 1)
  sweeps = options.extra.get('rdo')
  if sweeps and layers > 1:
    raise CodaxError('a file in layers has no rdo; valid with layers: rdo=0')
  if sweeps is None:
    sweeps = RDO_SWEEPS[preset] if layers == 1 else 0
  return EncodeConfig(
    FitConfig(quality_layers=layers, rdo_sweeps=sweeps),
    total=TOTAL_STEPS[preset],
    count=options.extra.get('count'),
    bpp=options.bpp,
    psnr=options.psnr,
    lmbda=options.lmbda,
    seconds=options.seconds,
    seed=options.seed,
  )


def encode_image(
  image: np.ndarray,
  config: EncodeConfig,
  progress=None,
  look: Callable = fit.ignore_stage,
  initial_fit: FitResult | None = None,
  reason: ShouldStop | None = None,
) -> Encoded:
  """Encodes an image.

  Args:
    image: uint8 [H, W, C], C in {1, 3}.
    config: settings.
    progress: called as ``progress(done, total)``.
    look: called at the stages of the first fit, see `fit.run`.
    initial_fit: the first fit, if it exists already: by `fit.run`, of
      `counts.choose_count` Gaussians.
    reason: asked from time to time for a reason to stop, see `codec.ShouldStop`. None
      leaves the time budget alone; Ctrl-C then raises KeyboardInterrupt.

  Returns:
    The file. Its `stop_reason` says why its fit was cut, or its target missed.

  Raises:
    OutOfReach: the target is, see `rate_control`.
    CodaxError: the count is out of range.
  """
  if config.recipe.blend not in integer.BLENDS:
    raise CodaxError(
      f'files hold images that are rendered by {" or ".join(integer.BLENDS)}, not '
      f'{config.recipe.blend!r}'
    )
  budget = rate_control.start_budget(config.seconds)
  encoded = _search(
    image, config, progress, reason or fit.never_stop, look, budget, initial_fit
  )
  encoded.details['seconds'] = budget.spent
  return encoded


class _Timing(NamedTuple):
  """A fit of a few steps, and what a time budget allows after it.

  Attributes:
    total: number of steps that fit into the time.
    reason: function that says when to stop, the end of the time included.
    fit: the fit of the few steps, where there is no time for another.
    step_seconds: seconds of a step.
    start_seconds: seconds before the first step and beside the steps.
  """

  total: int
  reason: ShouldStop
  fit: FitResult | None
  step_seconds: float
  start_seconds: float


class _Fitted(NamedTuple):
  """A fit and its file.

  Attributes:
    gaussians: float arrays, see `fit.run`.
    trial: the file; its setting is the requested number of Gaussians.
  """

  gaussians: Gaussians
  trial: rate_control.Trial


def _search(
  image, config: EncodeConfig, progress, reason, look, budget, initial_fit=None
):
  """Returns the file nearest to the target, when it is met or `reason` says to stop."""
  total, early, timing = config.total, reason, None
  if config.seconds is not None:
    early = _stop_after(reason, _TIMING * config.seconds)
  count = counts.choose_count(image, config, early)
  if config.seconds is not None:
    timing = _fit_total(image, count, config, reason, budget, progress)
    total, reason, initial_fit = timing.total, timing.reason, initial_fit or timing.fit
  gaussians, facts = initial_fit or fit.run(
    image, count, total, config.recipe, config.seed, progress, reason, look
  )
  # a target is met with the same steps
  config = config._replace(recipe=fit.apply_chosen_steps(config.recipe, facts))
  stop = lambda: budget.stop(reason)
  first = write(image, gaussians, config.recipe, facts, stop)
  target = rate_control.find_target(config)
  if target is None:
    return _add_budget(first, config, budget, timing)
  fits = [_Fitted(gaussians, rate_control.judge(target, image, count, first))]
  tried = [fits[0].trial]
  steps = max(int(_REFIT_SHARE * total), _MIN_REFIT)
  for _ in range(_CORRECTIONS):
    if reason() or _is_near(target, tried):
      break
    if _is_trimmable(target, fits[-1].trial):
      tried += _trim(image, fits[-1], facts, config, target, stop)
      if _is_near(target, tried):
        break
    new = rate_control.propose(
      [(one.trial.setting, one.trial.gap) for one in fits],
      (counts.clip_count(0, image), counts.max_count(image)),
      _slope(target),
      is_integer=True,
      max_move=_MAX_MOVE,
    )
    if new is None or reason():
      break
    gaussians, again = _refit(image, fits, new, steps, config, reason)
    facts = _join_facts(facts, again)
    found = write(image, gaussians, config.recipe, facts, stop)
    fits.append(_Fitted(gaussians, rate_control.judge(target, image, new, found)))
    tried.append(fits[-1].trial)
  found = rate_control.conclude(target, tried, reason())
  return _add_budget(found, config, budget, timing)


def _add_budget(
  encoded: Encoded, config: EncodeConfig, budget, timing: _Timing | None
) -> Encoded:
  """Returns a file with what its time budget allowed, if it had one, in its details."""
  if timing is None:
    return encoded
  facts = rate_control.describe_budget(
    budget, encoded.details['steps'], config.total, timing.step_seconds,
    timing.start_seconds,
  )  # fmt: skip
  return encoded._replace(details=encoded.details | {'budget': facts})


def _slope(target: rate_control.Target) -> float:
  return _BPP_SLOPE if target.bpp is not None else _PSNR_SLOPE


def _is_near(target: rate_control.Target, tried: list[rate_control.Trial]) -> bool:
  """Returns whether a file is near enough to end the search."""
  nearest = rate_control.find_nearest(tried)
  return rate_control.is_met(target, nearest.measured, rate_control.NEAR)


def _is_trimmable(target: rate_control.Target, trial: rate_control.Trial) -> bool:
  """Returns whether a file is so little above the target that trimming meets it."""
  return 0 < trial.gap < (_TRIMMED_BPP if target.bpp is not None else _TRIMMED_PSNR)


def _refit(image, fits: list[_Fitted], count: int, steps: int, config, reason):
  """Continues the fit whose number of Gaussians is nearest, see `fit.resume`."""
  distance = lambda one: abs(math.log(one.trial.setting / count))
  nearest = min(fits, key=distance).gaussians
  # New ones take longer to find their place than others to fill a gap.
  longer = 2 if count > len(seeding.active_indices(nearest)) else 1
  return fit.resume(
    image, nearest, count, longer * steps, config.recipe, config.seed, reason=reason
  )


def _drop_early_facts(facts: FitFacts) -> FitFacts:
  """Returns the facts of a fit that hold for a subset of its Gaussians too."""
  return facts._replace(psnr_float=None, psnr_rounded=None, initial_distortion=None)


def _join_facts(facts: FitFacts, again: FitFacts) -> FitFacts:
  """Returns the facts of a fit and of its continuation together."""
  steps, lost = facts.steps + again.steps, max(facts.lost, again.lost)
  return again._replace(steps=steps, lost=lost)


def _trim(
  image, start: _Fitted, facts: FitFacts, config: EncodeConfig, target, reason
) -> list[rate_control.Trial]:
  """Leaves out the least important Gaussians until the target is met.

  No fit meets it so exactly.

  Returns:
    The files that were written on the way; their settings are numbers of Gaussians.
  """
  order = rank_gaussians(start.gaussians, make_target(image), config.recipe)
  history, tried = [(len(order), start.trial.gap)], []
  while not reason():
    count = rate_control.propose(
      history, (1, len(order)), _slope(target), is_integer=True
    )
    if count is None:
      break
    xy = np.array(start.gaussians.xy)
    xy[order[count:]] = seeding.INACTIVE_XY
    trimmed = start.gaussians._replace(xy=xy)
    made = write(image, trimmed, config.recipe, _drop_early_facts(facts), reason)
    tried.append(rate_control.judge(target, image, count, made))
    history.append((count, tried[-1].gap))
    if rate_control.is_met(target, tried[-1].measured, 0.5):
      break
  return tried


def _stop_after(reason: ShouldStop, seconds: float) -> ShouldStop:
  """Returns a function that stops for that reason, or when the time from now is up."""
  budget = rate_control.start_budget(seconds)
  return lambda: budget.stop(reason)


def _fit_total(
  image: np.ndarray,
  count: int,
  config: EncodeConfig,
  reason: ShouldStop,
  budget,
  progress=None,
) -> _Timing:
  """Fits the number of steps to the time budget.

  A few steps are timed, with quantization and without, compiled before.

  Args:
    image: uint8 [H, W, C].
    count: number of Gaussians.
    config: settings.
    reason: says when to stop.
    budget: `rate_control.TimeBudget` of the configuration's seconds.
    progress: called as ``progress(done, total)``.
  """
  recipe = config.recipe
  share = min(recipe.qat_start, 1.0)  # of the steps without quantization
  times = [time.monotonic()]

  def slow() -> str | None:
    spent = 4 * (times[2] - times[1]) if len(times) > 2 else 0
    is_late = spent > _TIMING * config.seconds
    return reason() or (rate_control.TIME if is_late else None)

  def note(done: int, calls: int) -> None:
    times.append(time.monotonic())
    if progress is not None:
      progress(done, calls)

  few = 4 * recipe.rebin_every
  timed = fit.run(
    image, count, few,
    recipe._replace(qat_start=0.5 if 0 < share < 1 else share), config.seed,
    progress=note, reason=slow,
  )  # fmt: skip
  calls = np.diff(times).tolist()
  plain = calls[min(1, len(calls) - 1)]
  rounding = calls[3] if len(calls) > 3 else plain
  each = (share * plain + (1 - share) * rounding) / recipe.rebin_every
  # The fit has the same programs, unless its lists outgrow them: time for that is left.
  compiled = max(0.0, sum(calls) - 2 * (plain + rounding))
  start = max(times[0] - budget.begin, 0.0) + compiled
  if reason() or budget.left < few * each:
    return _Timing(few, reason, timed, each, start)
  left = max(budget.left, _TIMING * config.seconds)
  part = _ALL if rate_control.find_target(config) is None else _FIRST
  part *= _BEFORE_RDO if recipe.rdo_sweeps else 1
  total = max(1, int(part * left / each) // recipe.rebin_every) * recipe.rebin_every
  late = _stop_after(reason, _LATE * left + compiled)
  return _Timing(total, late, None, each, start)


def write(
  image, gaussians, recipe: FitConfig, facts: FitFacts, reason=fit.never_stop
) -> Encoded:
  """Writes the file of Gaussians, and decodes it again.

  Args:
    image: uint8 [H, W, C], the original.
    gaussians: NumPy arrays.
    recipe: settings of the fit, with its own quantization steps
      (`fit.apply_chosen_steps`).
    facts: see `fit.run`; they become a part of the details.
    reason: asked for a reason to stop the optimization of the codes.
  """
  layer = None
  if recipe.quality_layers > 1:
    layer = rank_layers(gaussians, make_target(image), recipe)
  payload = quantization.to_payload(recipe, gaussians, image.shape, layer)
  optimized, stopped = {}, facts.stopped
  if recipe.rdo_sweeps:
    found = rdo.optimize(payload, image, recipe.rdo_sweeps, recipe.rate_weight, reason)
    payload, optimized = found.payload, {'rdo': found.facts}
    if found.stopped != rate_control.TIME:  # what time allows is a whole file
      stopped = stopped or found.stopped
  data, bits = container.pack(payload)
  streams, _ = container.parse(data)
  made = integer.render(payload)
  count, size = len(payload.cells), image.shape[0] * image.shape[1]
  details = {
    'gaussians': count,
    'psnr': distortion.psnr(image, made),
    'file_bpp': 8 * len(data) / size,
    'bits_per_gaussian': bits.total / count,
    'bits': bits._asdict() | {'total': bits.total},
    # bits of positions as coded, and of positions one by one, in any order
    'positions_bits': bits.positions + bits.fine,
    'positions_raw': count * math.log2(size) + bits.fine,
    **codebooks.describe_codebooks(gaussians, payload, bits, recipe),
    **_describe_layers(image, payload, streams),
    **facts.to_details(),
    **optimized,
  }
  overhead = 8 * (len(data) - sum(map(len, streams)))
  estimate = bits.total + overhead
  return Encoded(data, made, estimate, details, stopped)


def _describe_layers(image: np.ndarray, payload: integer.Payload, streams) -> dict:
  """Returns 'prefixes' of a file in layers: 'gaussians', 'bytes' and 'psnr' of each."""
  if len(streams) == 1:
    return {}
  found = []
  for n, (count, end) in enumerate(quality_layers.mark_ends(payload, streams)):
    made = integer.render(quality_layers.take_first(payload, n + 1))
    psnr = distortion.psnr(image, made)
    found.append({'gaussians': count, 'bytes': end, 'psnr': psnr})
  return {'prefixes': found}
