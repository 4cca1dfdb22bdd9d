"""Choice of the initial number of Gaussians: by request, by target or by the image."""

import math
from collections.abc import Callable

import numpy as np

from codax.errors import CodaxError
from codax.splat import fit, quantization
from codax.splat.format import integer, positions

BITS = 35.0  # of a Gaussian, as long as there is no file
_DENSITY, _DETAIL = 0.0025, 3.0  # see `count_by_detail`
_MIN_COUNT = 8  # smallest automatic number of Gaussians
_TINY = 1e-30  # smallest divisor: targets may be anything above 0


def max_count(image: np.ndarray) -> int:
  """Returns the largest number of Gaussians of an image [H, W, C]."""
  return min(positions.MAX_POINTS, max(_MIN_COUNT, image.shape[0] * image.shape[1]))


def clip_count(count: float, image: np.ndarray) -> int:
  """Returns the nearest number of Gaussians that is valid for an image."""
  return round(min(max(count, _MIN_COUNT), max_count(image)))


def check_count(count: int, image: np.ndarray) -> int:
  """Returns a requested number of Gaussians.

  Raises:
    CodaxError: the image cannot have so many.
  """
  if not 1 <= count <= max_count(image):
    raise CodaxError(
      f'{count} Gaussians for an image of {image.shape[1]} x {image.shape[0]} pixels; '
      f'valid: 1 to {max_count(image)}'
    )
  return int(count)


def count_by_detail(image: np.ndarray) -> int:
  """Returns the number of Gaussians of an image without other requests.

  It is pixels x density x (1 + factor x detail), where detail is twice the mean
  standard deviation in 16 x 16 tiles, at most 1 (as in LGI; its density suits files of
  1 bpp).

  Args:
    image: uint8 [H, W, C].
  """
  gray = np.asarray(image, np.float64).mean(-1) / 255
  h, w = gray.shape
  # the rest at the right and the bottom is left out where there is a whole tile
  high, wide = min(16, h), min(16, w)
  cut = gray[: h - h % high, : w - w % wide]
  tiles = cut.reshape(len(cut) // high, high, -1, wide)
  detail = min(1.0, 2 * float(tiles.std((1, 3)).mean()))
  return clip_count(h * w * _DENSITY * (1 + _DETAIL * detail), image)


def choose_count(image: np.ndarray, config, reason: Callable = lambda: None) -> int:
  """Chooses the number of Gaussians of the first fit.

  Args:
    image: uint8 [H, W, C].
    config: an `encode.EncodeConfig`.
    reason: says when to cut short the trial fits, see `fit.run`.

  Raises:
    CodaxError: the configuration's count is out of range.
  """
  pixels = image.shape[0] * image.shape[1]
  if config.count is not None:
    return check_count(config.count, image)
  if config.bpp is not None:
    return clip_count(config.bpp * pixels / BITS, image)
  usual = count_by_detail(image)
  if config.lmbda is None and config.psnr is None:
    return usual
  # MSE = a N**-p by two short fits
  counts = (clip_count(usual / 2, image), usual)
  errors = [_error(image, count, config, reason) for count in counts]
  if counts[0] == counts[1] or None in errors:
    return usual
  power = math.log(errors[0] / errors[1]) / math.log(counts[1] / counts[0])
  power = min(max(power, 0.2), 2.0)
  if config.psnr is not None:
    # a whole fit is better by about 1 dB
    wanted = max(10 ** (-(config.psnr - 1.0) / 10), _TINY)
    return clip_count(usual * (errors[1] / wanted) ** (1 / power), image)
  # the derivative of a N**-p + lmbda * bits * N / pixels is zero
  slope = config.lmbda * BITS / pixels * usual / (power * errors[1])
  return clip_count(usual * max(slope, _TINY) ** (-1 / (1 + power)), image)


def _error(image: np.ndarray, count: int, config, reason: Callable) -> float | None:
  """Returns the mean squared error of a short fit's file, levels from 0 to 1.

  It is above 0; None if the fit was cut.
  """
  recipe = config.recipe
  gaussians, facts = fit.run(
    image, count, 8 * recipe.rebin_every, recipe, config.seed, reason=reason
  )
  if facts.stopped:
    return None
  coded = fit.apply_chosen_steps(recipe, facts)
  made = integer.render(quantization.to_payload(coded, gaussians, image.shape))
  mse = float(np.mean((image.astype(np.float64) - made) ** 2)) / 255**2
  return max(mse, 1e-7)
