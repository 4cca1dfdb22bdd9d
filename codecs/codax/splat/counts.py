"""How many Gaussians a fit begins with: as asked for, by a target or by the picture."""

import math
from collections.abc import Callable

import numpy as np

from codax.errors import CodaxError
from codax.splat import fit, quantization
from codax.splat.format import integer, positions

BITS = 35.0  # of a Gaussian, before there is a file
_DENSITY, _DETAIL = 0.0025, 3.0  # see `by_entropy`
_LEAST = 8  # Gaussians that are chosen here, at least
_TINY = 1e-30  # of what is divided by: targets may be anything above 0


def most(image: np.ndarray) -> int:
  """The most Gaussians that a picture [H, W, C] may have."""
  return min(positions.MAX_POINTS, max(_LEAST, image.shape[0] * image.shape[1]))


def bounded(count: float, image: np.ndarray) -> int:
  """The nearest number of Gaussians that is chosen for a picture."""
  return round(min(max(count, _LEAST), most(image)))


def given(count: int, image: np.ndarray) -> int:
  """A number that was asked for.

  Raises:
    CodaxError: the picture cannot have so many.
  """
  if not 1 <= count <= most(image):
    raise CodaxError(
      f'{count} Gaussians for a picture of {image.shape[1]} x {image.shape[0]} pixels; '
      f'valid: 1 to {most(image)}'
    )
  return int(count)


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
  return bounded(h * w * _DENSITY * (1 + _DETAIL * detail), image)


def first(image: np.ndarray, chosen, reason: Callable = lambda: None) -> int:
  """The Gaussians to start with.

  Args:
    image: uint8 [H, W, C].
    chosen: an `encode.EncodeConfig`.
    reason: to cut short what is tried for it, see `fit.run`.

  Raises:
    CodaxError: the configuration's count is out of range.
  """
  pixels = image.shape[0] * image.shape[1]
  if chosen.count is not None:
    return given(chosen.count, image)
  if chosen.bpp is not None:
    return bounded(chosen.bpp * pixels / BITS, image)
  usual = by_entropy(image)
  if chosen.lmbda is None and chosen.psnr is None:
    return usual
  # MSE = a N**-p by two short fits
  counts = (bounded(usual / 2, image), usual)
  errors = [_error(image, count, chosen, reason) for count in counts]
  if counts[0] == counts[1] or None in errors:
    return usual
  power = math.log(errors[0] / errors[1]) / math.log(counts[1] / counts[0])
  power = min(max(power, 0.2), 2.0)
  if chosen.psnr is not None:
    # a whole fit is better by about 1 dB
    wanted = max(10 ** (-(chosen.psnr - 1.0) / 10), _TINY)
    return bounded(usual * (errors[1] / wanted) ** (1 / power), image)
  # the derivative of a N**-p + lmbda * bits * N / pixels is zero
  slope = chosen.lmbda * BITS / pixels * usual / (power * errors[1])
  return bounded(usual * max(slope, _TINY) ** (-1 / (1 + power)), image)


def _error(image: np.ndarray, count: int, chosen, reason: Callable) -> float | None:
  """The mean squared error of a short fit's file, with levels 0 to 1, not 0; None if
  the fit was cut."""
  recipe = chosen.recipe
  gaussians, facts = fit.run(
    image, count, 8 * recipe.every, recipe, chosen.seed, reason=reason
  )
  if facts.stopped:
    return None
  coded = fit.as_coded(recipe, facts)
  made = integer.render(quantization.to_integers(coded, gaussians, image.shape))
  mse = float(np.mean((image.astype(np.float64) - made) ** 2)) / 255**2
  return max(mse, 1e-7)
