"""Encoding: fit Gaussians to the picture, quantise, write, and look at the outcome.

How many Gaussians there are decides the size of the file. A target of rate or quality
is met by a fit, a look at its file, and shorter fits that go on from it with more or
fewer.
"""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from codax.codec import Encoded, Options
from codax.errors import CodaxError
from codax.metrics import distortion
from codax.splat import (
  codebooks,
  container,
  fit,
  integer,
  layers,
  positions,
  quantise,
  seeding,
)
from codax.splat.importance import ranked
from codax.splat.recipe import Recipe
from codax.splat.render import Gaussians
from codax.training import stopping, targets

TOTAL_STEPS = {'fast': 1500, 'medium': 5000, 'full': 20_000}
_BITS = 35.0  # of a Gaussian, before there is a file
_CORRECTIONS = 8
# A file so little above its target gets there by leaving out what matters least.
_TRIMMED_BPP, _TRIMMED_PSNR = 0.08, 0.3
_AGAIN, _AGAIN_LEAST = 0.3, 100  # steps of a correction: a share of all, at least
_DENSITY, _DETAIL = 0.0025, 3.0  # see `by_entropy`
_LEAST = 8  # Gaussians


class Plan(NamedTuple):
  """How to encode.

  Attributes:
    recipe: how to fit.
    total: steps.
    count: of Gaussians to start from, or None: by a target, or by the picture.
    bpp, psnr, lmbda: target, or None; with `lmbda`, the least MSE + lmbda bpp that a
      power law through two short fits promises (MSE with levels 0 to 1).
    seconds: fit about so long in place of `total` steps, or None.
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
    Recipe(layers=options.layers),
    total=TOTAL_STEPS[options.preset],
    count=options.count,
    bpp=options.bpp,
    psnr=options.psnr,
    lmbda=options.lmbda,
    seconds=options.seconds,
    seed=options.seed,
  )


def by_entropy(image: np.ndarray) -> int:
  """How many Gaussians a picture gets if nothing else is asked for.

  Pixels x density x (1 + factor x detail), where detail is twice the mean standard
  deviation in 16 x 16 tiles, at most 1 (as in LGI; its density suits files of 1 bpp).

  Args:
    image: uint8 [H, W, C].
  """
  grey = np.asarray(image, np.float64).mean(-1) / 255
  h, w = grey.shape
  # the rest at the right and the bottom is left out where there is a whole tile
  high, wide = min(16, h), min(16, w)
  cut = grey[: h - h % high, : w - w % wide]
  tiles = cut.reshape(len(cut) // high, high, -1, wide)
  detail = min(1.0, 2 * float(tiles.std((1, 3)).mean()))
  return _bounded(h * w * _DENSITY * (1 + _DETAIL * detail), image)


def _bounded(count: float, image: np.ndarray) -> int:
  most = min(positions.MAX_POINTS, max(_LEAST, image.shape[0] * image.shape[1]))
  return int(min(max(round(count), min(_LEAST, most)), most))


def analyse(
  image: np.ndarray,
  chosen: Plan,
  progress=None,
  look: Callable = fit.unseen,
  begun: tuple[Gaussians, dict] | None = None,
) -> Encoded:
  """Encodes a picture.

  Args:
    image: uint8 [H, W, C], C in {1, 3}.
    chosen: how.
    progress: called as ``progress(done, total)``.
    look: at the stages of the first fit, see `fit.run`.
    begun: that fit, if it was made already: of `first_count` Gaussians, by `fit.run`.

  Raises:
    CodaxError: a target out of reach.
  """
  if chosen.recipe.how not in integer.RENDERS:
    raise CodaxError(
      f'files hold pictures that are rendered by {" or ".join(integer.RENDERS)}, not '
      f'{chosen.recipe.how!r}'
    )
  begin = time.monotonic()
  with stopping.watch(0.0) as reason:
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
  total = chosen.total
  if chosen.seconds is not None:
    total = _timed(image, chosen)
  count = first_count(image, chosen)
  gaussians, facts = begun or fit.run(
    image, count, total, chosen.recipe, chosen.seed, progress, reason, look
  )
  # a target is met with the same steps
  chosen = chosen._replace(recipe=fit.as_coded(chosen.recipe, facts))
  best = write(image, gaussians, chosen.recipe, facts)
  best_gap = targets.gap(chosen, best)
  tried = [_Try(count, best_gap, gaussians, best)]
  steps = max(int(_AGAIN * total), _AGAIN_LEAST)
  near = _TRIMMED_BPP if chosen.bpp is not None else _TRIMMED_PSNR
  for _ in range(_CORRECTIONS):
    # Nearer than promised: what is measured of a file must not be on the edge.
    if reason() or targets.within(chosen, best_gap, 0.7):
      break
    if 0 < tried[-1].gap < near:
      found, gap = _trimmed(image, tried[-1], facts, chosen)
      best, best_gap = min((found, gap), (best, best_gap), key=lambda f: abs(f[1]))
      if targets.within(chosen, best_gap, 0.7):
        break
    new = _corrected(tried, chosen, image)
    if new is None:
      break
    nearest = min(tried, key=lambda t: abs(math.log(t.count / new))).gaussians
    # New ones take longer to find their place than others to fill a gap.
    longer = 2 if new > len(seeding.present(nearest)) else 1
    gaussians, again = fit.resume(
      image, nearest, new, longer * steps, chosen.recipe, chosen.seed, reason=reason
    )
    facts = facts | again
    found = write(image, gaussians, chosen.recipe, facts)
    gap = targets.gap(chosen, found)
    tried.append(_Try(new, gap, gaussians, found))
    if abs(gap) < abs(best_gap):
      best, best_gap = found, gap
  if not (reason() or targets.within(chosen, best_gap)):
    targets.refuse(chosen, best)
  return best


def _trimmed(image, start: _Try, facts, chosen: Plan) -> tuple[Encoded, float]:
  """Leaves out what matters least until the target is met: no fit does it so exactly.

  Returns:
    The file and its gap.
  """
  gaussians, best, best_gap = start.gaussians, start.file, start.gap
  target = np.asarray(image, np.float32) / 255
  order = ranked(gaussians, target, chosen.recipe)[::-1]
  low, high = 0, len(order) - 1  # how many are left out
  while low < high and not targets.within(chosen, best_gap, 0.5):
    middle = (low + high + 1) // 2
    xy = np.array(gaussians.xy)
    xy[order[:middle]] = seeding.AWAY
    made = write(image, gaussians._replace(xy=xy), chosen.recipe, facts)
    gap = targets.gap(chosen, made)
    if abs(gap) < abs(best_gap):
      best, best_gap = made, gap
    low, high = (middle, high) if gap > 0 else (low, middle - 1)
  return best, best_gap


def first_count(image: np.ndarray, chosen: Plan) -> int:
  """The Gaussians to start with."""
  pixels = image.shape[0] * image.shape[1]
  if chosen.count is not None:
    return _bounded(chosen.count, image)
  if chosen.bpp is not None:
    return _bounded(chosen.bpp * pixels / _BITS, image)
  usual = by_entropy(image)
  if chosen.lmbda is None and chosen.psnr is None:
    return usual
  # MSE = a N**-p by two short fits
  counts = (_bounded(usual / 2, image), usual)
  steps = 8 * chosen.recipe.every
  errors = []
  for count in counts:
    gaussians, facts = fit.run(image, count, steps, chosen.recipe, chosen.seed)
    made = _picture(image, gaussians, fit.as_coded(chosen.recipe, facts))
    errors.append(max(_mse(image, integer.render(made)), 1e-7))
  if counts[0] == counts[1]:
    return usual
  power = math.log(errors[0] / errors[1]) / math.log(counts[1] / counts[0])
  power = min(max(power, 0.2), 2.0)
  if chosen.psnr is not None:
    # a whole fit is better by about 1 dB
    wanted = 10 ** (-(chosen.psnr - 1.0) / 10)
    return _bounded(usual * (errors[1] / wanted) ** (1 / power), image)
  # the derivative of a N**-p + lmbda * bits * N / pixels is zero
  slope = chosen.lmbda * _BITS / pixels * usual / (power * errors[1])
  return _bounded(usual * slope ** (-1 / (1 + power)), image)


def _timed(image: np.ndarray, chosen: Plan) -> int:
  """As many steps as the time allows, by timing a few."""
  recipe, count = chosen.recipe, first_count(image, chosen)
  begin = time.monotonic()
  times = []
  fit.run(
    image, count, 4 * recipe.every, recipe, chosen.seed,
    progress=lambda *_: times.append(time.monotonic()),
  )  # fmt: skip
  spent = time.monotonic() - begin
  each = (times[1] - times[0]) / recipe.every
  # Programs are compiled again for other sizes of the lists: as long as here.
  left = chosen.seconds - 2 * spent
  return max(4 * recipe.every, int(left / each) // recipe.every * recipe.every)


def _picture(image, gaussians, recipe: Recipe, layer=None) -> integer.Picture:
  return quantise.to_integers(
    recipe.kind, recipe.how, recipe.steps, gaussians, image.shape, layer
  )


def _mse(image: np.ndarray, made: np.ndarray) -> float:
  return float(np.mean((image.astype(np.float64) - made) ** 2)) / 255**2


def write(image, gaussians, recipe: Recipe, facts: dict) -> Encoded:
  """The file of Gaussians, and what the decoder makes of it.

  Args:
    recipe: of the fit, with the steps that it chose (`fit.as_coded`).
    facts: of the fit.
  """
  layer = None
  if recipe.layers > 1:
    layer = fit.layers_of(gaussians, np.asarray(image, np.float32) / 255, recipe)
  picture = _picture(image, gaussians, recipe, layer)
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
  for n, (count, end) in enumerate(layers.marks(picture, payloads)):
    made = integer.render(layers.first(picture, n + 1))
    psnr = distortion.psnr(image, made)
    found.append({'gaussians': count, 'bytes': end, 'psnr': psnr})
  return {'prefixes': found}


def _corrected(tried: list, chosen: Plan, image: np.ndarray) -> int | None:
  """The count that should close the gap: between two tried ones, if there are such.

  Returns:
    None if there is none that was not tried.
  """
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
  near = {_bounded(wanted + k, image) for k in range(-9, 10)} - done
  return min(near, default=None, key=lambda n: abs(n - wanted))
