"""One scale of quality for all codecs, 1 to 100, and what it means to each.

Baselines have a scale of their own under this name. Codecs that weigh rate against
distortion get the weight lambda of `to_lmbda`: equal steps of quality are equal factors
of lambda, so that size and PSNR rise with quality. Standard library only.
"""

from typing import Any

from codax.config import is_number
from codax.errors import CodaxError

LOWEST, HIGHEST = 1, 100
# Lambda at quality 1 and 100 of codecs that minimize MSE on [0, 1] + lambda * bits a
# pixel and have no range of their own: around the default of `overfit`.
MSE_ENDS = (2e-2, 5e-5)


def check(quality: Any) -> int:
  """Returns a quality as a Python int.

  Raises:
    CodaxError: it is no whole number from 1 to 100.
  """
  is_whole = is_number(quality) and quality == int(quality)
  if not is_whole or not LOWEST <= quality <= HIGHEST:
    raise CodaxError(f'quality must be a whole number from 1 to 100, not {quality!r}')
  return int(quality)


def to_lmbda(quality: int, ends: tuple[float, float] = MSE_ENDS) -> float:
  """Returns the weight of the rate that a quality stands for.

  ``high * (low / high) ** ((quality - 1) / 99)``, which falls with quality.

  Args:
    quality: 1..100.
    ends: lambda at quality 1 and at quality 100, high > low > 0.

  Raises:
    CodaxError: the quality is out of range.
  """
  share = (check(quality) - LOWEST) / (HIGHEST - LOWEST)
  high, low = map(float, ends)
  return high ** (1 - share) * low**share


def resolve(options: Any, ends: tuple[float, float] = MSE_ENDS) -> Any:
  """Replaces the quality of `codax.codec.Options`, if it is set, by its lambda.

  Args:
    options: requests to an encoder.
    ends: lambda at both ends of the scale, as of `to_lmbda`.
  """
  if options.quality is None:
    return options
  return options._replace(quality=None, lmbda=to_lmbda(options.quality, ends))
