"""Encoding: fit Gaussians to the picture, quantise, write, and look at the outcome.

How many Gaussians there are decides the size of the file. A target of rate or quality
is met by a fit, a look at its file, and shorter fits that go on from it with more or
fewer.
"""

import contextlib
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from codax import rate_control
from codax.codec import Encoded, Options
from codax.errors import CodaxError
from codax.metrics import distortion
from codax.splat import codebooks, counts, fit, quantization, seeding
from codax.splat.format import container, integer, quality_layers
from codax.splat.importance import ranked
from codax.splat.recipe import Recipe
from codax.splat.render import Gaussians
from codax.training import stopping

TOTAL_STEPS = {'fast': 1500, 'medium': 5000, 'full': 20_000}
_CORRECTIONS = 8
# A file so little above its target gets there by leaving out what matters least.
_TRIMMED_BPP, _TRIMMED_PSNR = 0.08, 0.3
_AGAIN, _AGAIN_LEAST = 0.3, 100  # steps of a correction: a share of all, at least
# Of given seconds: what trying and timing may take; then of the rest what the first fit
# gets, if a target may ask for others, and if not: a file has to be written too.
_TIMING, _FIRST, _ALL = 0.3, 0.5, 0.95
_LATE = 1.2  # of the time that is left, what may pass before a fit is cut


class Plan(NamedTuple):
  """How to encode.

  Attributes:
    recipe: how to fit.
    total: steps.
    count: of Gaussians to start from, or None: by a target, or by the picture.
    bpp, psnr, lmbda: target, or None; with `lmbda`, the least MSE + lmbda bpp that a
      power law through two short fits promises (MSE with levels 0 to 1).
    seconds: take about so long in place of `total` steps, corrections for a target with
      it, or None. What compiling takes beyond it comes on top.
    seed: of everything random.
  """

  recipe: Recipe = Recipe()
  total: int = TOTAL_STEPS['medium']
  count: int | None = None
  bpp: float | None = None
  psnr: float | None = None
  lmbda: float | None = None
  seconds: float | None = None
  seed: int = 0


def plan(options: Options) -> Plan:
  """The plan of the command line's options."""
  return Plan(
    Recipe(layers=options.extra.get('layers', 1)),
    total=TOTAL_STEPS[options.preset],
    count=options.extra.get('count'),
    bpp=options.bpp,
    psnr=options.psnr,
    lmbda=options.lmbda,
    seconds=options.seconds,
    seed=options.seed,
  )


def encode_image(
  image: np.ndarray,
  chosen: Plan,
  progress=None,
  look: Callable = fit.unseen,
  begun: tuple[Gaussians, dict] | None = None,
  reason: Callable[[], str | None] | None = None,
) -> Encoded:
  """Encodes a picture.

  Args:
    image: uint8 [H, W, C], C in {1, 3}.
    chosen: how.
    progress: called as ``progress(done, total)``.
    look: at the stages of the first fit, see `fit.run`.
    begun: that fit, if it was made already: of `counts.first` Gaussians, by `fit.run`.
    reason: of a caller that watches for what asks to stop; by default this does.

  Returns:
    The file. Its details have 'stopped', None or why its fit was cut, or the target is
    missed.

  Raises:
    CodaxError: a target out of reach, or a count out of range.
  """
  if chosen.recipe.how not in integer.RENDERS:
    raise CodaxError(
      f'files hold pictures that are rendered by {" or ".join(integer.RENDERS)}, not '
      f'{chosen.recipe.how!r}'
    )
  begin = time.monotonic()
  with contextlib.ExitStack() as stack:
    reason = reason or stack.enter_context(stopping.watch(0.0))
    best = _search(image, chosen, progress, reason, look, begun)
  best.details['seconds'] = time.monotonic() - begin
  return best


class _Try(NamedTuple):
  """A fit, and what came of it.

  Attributes:
    count: of Gaussians that were asked for.
    gap: of the file from the target.
    gaussians: as `fit.run` returns them.
    file: made of them.
  """

  count: int
  gap: float
  gaussians: Gaussians
  file: Encoded


def _search(
  image: np.ndarray, chosen: Plan, progress, reason, look, begun=None
) -> Encoded:
  """The best file there is when the target is met, or `reason` says to stop."""
  total, begin, early = chosen.total, time.monotonic(), reason
  if chosen.seconds is not None:
    early = _until(reason, _TIMING * chosen.seconds)
  count = counts.first(image, chosen, early)
  if chosen.seconds is not None:
    total, reason = _timed(image, count, chosen, reason, begin)
  gaussians, facts = begun or fit.run(
    image, count, total, chosen.recipe, chosen.seed, progress, reason, look
  )
  # a target is met with the same steps
  chosen = chosen._replace(recipe=fit.as_coded(chosen.recipe, facts))
  best = write(image, gaussians, chosen.recipe, facts)
  best_gap = rate_control.gap(chosen, best)
  tried = [_Try(count, best_gap, gaussians, best)]
  steps = max(int(_AGAIN * total), _AGAIN_LEAST)
  near = _TRIMMED_BPP if chosen.bpp is not None else _TRIMMED_PSNR
  for _ in range(_CORRECTIONS):
    # Nearer than promised: what is measured of a file must not be on the edge.
    if reason() or rate_control.within(chosen, best_gap, 0.7):
      break
    if 0 < tried[-1].gap < near:
      found, gap = _trimmed(image, tried[-1], facts, chosen, reason)
      best, best_gap = min((found, gap), (best, best_gap), key=lambda f: abs(f[1]))
      if rate_control.within(chosen, best_gap, 0.7):
        break
    new = _corrected(tried, chosen, image)
    if new is None or reason():
      break
    nearest = min(tried, key=lambda t: abs(math.log(t.count / new))).gaussians
    # New ones take longer to find their place than others to fill a gap.
    longer = 2 if new > len(seeding.present(nearest)) else 1
    gaussians, again = fit.resume(
      image, nearest, new, longer * steps, chosen.recipe, chosen.seed, reason=reason
    )
    facts = _after(facts, again)
    found = write(image, gaussians, chosen.recipe, facts)
    gap = rate_control.gap(chosen, found)
    tried.append(_Try(new, gap, gaussians, found))
    if abs(gap) < abs(best_gap):
      best, best_gap = found, gap
  return _judged(chosen, best, best_gap, tried, image, reason())


def _judged(
  chosen: Plan, best: Encoded, gap: float, tried: list, image, stopped: str | None
) -> Encoded:
  """The best file, if it may be returned.

  That is if it meets the target, or has the reason that there was no time to; or if it
  is better than asked for, and no fewer Gaussians can be tried.

  Raises:
    OutOfReach: it may not.
  """
  if rate_control.within(chosen, gap):
    return best
  if stopped:
    return best._replace(details=best.details | {'stopped': stopped})
  if chosen.psnr is None or not _fewest(tried, image):
    rate_control.refuse(chosen, best)
  return best


def _fewest(tried: list, image: np.ndarray) -> bool:
  """Whether the least count is above the target."""
  return any(t.gap > 0 and t.count <= counts.bounded(0, image) for t in tried)


# What is known of a fit before its Gaussians became more or fewer.
_BEFORE = ('psnr_float', 'psnr_rounded', 'distortion_begun')


def _of_others(facts: dict) -> dict:
  """Facts of a fit that hold for some of its Gaussians too."""
  return {key: value for key, value in facts.items() if key not in _BEFORE}


def _after(facts: dict, again: dict) -> dict:
  """Facts of a fit that was gone on with: of both together."""
  steps, lost = facts['steps'] + again['steps'], max(facts['lost'], again['lost'])
  return _of_others(facts) | again | {'steps': steps, 'lost': lost}


def _trimmed(
  image, start: _Try, facts: dict, chosen: Plan, reason: Callable
) -> tuple[Encoded, float]:
  """Leaves out what matters least until the target is met: no fit does it so exactly.

  Returns:
    The file and its gap.
  """
  gaussians, best, best_gap = start.gaussians, start.file, start.gap
  target = np.asarray(image, np.float32) / 255
  order = ranked(gaussians, target, chosen.recipe)[::-1]
  low, high = 0, len(order) - 1  # how many are left out
  while low < high and not (reason() or rate_control.within(chosen, best_gap, 0.5)):
    middle = (low + high + 1) // 2
    xy = np.array(gaussians.xy)
    xy[order[:middle]] = seeding.AWAY
    some = gaussians._replace(xy=xy)
    made = write(image, some, chosen.recipe, _of_others(facts))
    gap = rate_control.gap(chosen, made)
    if abs(gap) < abs(best_gap):
      best, best_gap = made, gap
    low, high = (middle, high) if gap > 0 else (low, middle - 1)
  return best, best_gap


def _until(reason: Callable, seconds: float) -> Callable[[], str | None]:
  """A reason to stop now: that one, or that so many seconds from now are over."""
  end = time.monotonic() + seconds
  return lambda: reason() or (stopping.TIME if time.monotonic() >= end else None)


def _timed(
  image: np.ndarray, count: int, chosen: Plan, reason: Callable, begin: float
) -> tuple[int, Callable]:
  """Times a few steps, with quantisation and without, each compiled before.

  Args:
    reason: to stop.
    begin: when the clock of the plan's seconds began.

  Returns:
    As many steps as the time allows, and `reason` with the end of the time.
  """
  recipe = chosen.recipe
  share = min(recipe.quantised_from, 1.0)  # of the steps without quantisation
  times = [time.monotonic()]

  def slow() -> str | None:
    spent = 4 * (times[2] - times[1]) if len(times) > 2 else 0
    return reason() or (stopping.TIME if spent > _TIMING * chosen.seconds else None)

  fit.run(
    image, count, 4 * recipe.every,
    recipe._replace(quantised_from=0.5 if 0 < share < 1 else share), chosen.seed,
    progress=lambda *_: times.append(time.monotonic()), reason=slow,
  )  # fmt: skip
  calls = np.diff(times).tolist()
  plain = calls[min(1, len(calls) - 1)]
  rounding = calls[3] if len(calls) > 3 else plain
  each = (share * plain + (1 - share) * rounding) / recipe.every
  # Programs are compiled again for other sizes of the lists: as long as here.
  compiled = max(0.0, sum(calls) - 2 * (plain + rounding))
  left = chosen.seconds - (time.monotonic() - begin) - compiled
  left = max(left, _TIMING * chosen.seconds)
  aimed = chosen.bpp is not None or chosen.psnr is not None
  steps = int((_FIRST if aimed else _ALL) * left / each)
  total = max(1, steps // recipe.every) * recipe.every
  return total, _until(reason, _LATE * left + compiled)


def write(image, gaussians, recipe: Recipe, facts: dict) -> Encoded:
  """The file of Gaussians, and what the decoder makes of it.

  Args:
    recipe: of the fit, with the steps that it chose (`fit.as_coded`).
    facts: of the fit.
  """
  layer = None
  if recipe.layers > 1:
    layer = fit.layers_of(gaussians, np.asarray(image, np.float32) / 255, recipe)
  picture = quantization.to_integers(recipe, gaussians, image.shape, layer)
  data, bits = container.pack(picture)
  payloads, _ = container.parse(data)
  made = integer.render(picture)
  count, size = len(picture.cells), image.shape[0] * image.shape[1]
  details = {
    'gaussians': count,
    'psnr': distortion.psnr(image, made),
    'file_bpp': 8 * len(data) / size,
    'bits_per_gaussian': bits.total / count,
    'bits': bits._asdict() | {'total': bits.total},
    # of positions; and what they would take one by one, in any order
    'positions_bits': bits.positions + bits.fine,
    'positions_raw': count * math.log2(size) + bits.fine,
    **codebooks.facts(gaussians, picture, bits, recipe),
    **_layers_facts(image, picture, payloads),
    **facts,
  }
  overhead = 8 * (len(data) - sum(map(len, payloads)))
  return Encoded(data, made, bits.total + overhead, details)


def _layers_facts(image: np.ndarray, picture: integer.Picture, payloads) -> dict:
  """'prefixes' of a file in layers: 'gaussians', 'bytes' and 'psnr' of each."""
  if len(payloads) == 1:
    return {}
  found = []
  for n, (count, end) in enumerate(quality_layers.marks(picture, payloads)):
    made = integer.render(quality_layers.first(picture, n + 1))
    psnr = distortion.psnr(image, made)
    found.append({'gaussians': count, 'bytes': end, 'psnr': psnr})
  return {'prefixes': found}


def _corrected(tried: list, chosen: Plan, image: np.ndarray) -> int | None:
  """The count that should close the gap: between two tried ones, if there are such.

  Returns:
    None if there is none that was not tried, or the target is beyond all of them.
  """
  if _fewest(tried, image):
    return None
  if any(t.gap < 0 and t.count >= counts.most(image) for t in tried):
    return None
  usual = 1.0 if chosen.bpp is not None else 8.0  # of log(count)
  above = min((t for t in tried if t.gap >= 0), default=None, key=lambda t: t.gap)
  below = max((t for t in tried if t.gap < 0), default=None, key=lambda t: t.gap)
  if above is not None and below is not None and above.count > below.count:
    share = min(max(-below.gap / (above.gap - below.gap), 0.1), 0.9)
    wanted = below.count * (above.count / below.count) ** share
  else:
    nearest = min(tried, key=lambda t: abs(t.gap))
    wanted = nearest.count * math.exp(-min(max(nearest.gap / usual, -1.0), 1.0))
  done = {t.count for t in tried}
  near = {counts.bounded(wanted + k, image) for k in range(-9, 10)} - done
  return min(near, default=None, key=lambda n: abs(n - wanted))
