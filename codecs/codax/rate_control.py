"""A rate or quality that a file is to have, of codecs that train while encoding.

What is asked for stands in the attributes `bpp` and `psnr` of an encoder's plan, at
most one of them not None; what a file has, in its details 'file_bpp' and 'psnr'.
"""

import math
from typing import Any

from codax.codec import Encoded
from codax.errors import OutOfReach

# A file is promised to be so near its target: log(bpp) and dB.
BPP_TOLERANCE, PSNR_TOLERANCE = 0.029, 0.095


def gap(asked: Any, found: Encoded) -> float:
  """How far a file is above its target: in log(bpp) or dB; 0 without a target."""
  if asked.bpp is not None:
    return math.log(found.details['file_bpp'] / asked.bpp)
  if asked.psnr is not None:
    return min(found.details['psnr'], 120.0) - asked.psnr
  return 0.0


def within(asked: Any, gap: float, share: float = 1.0) -> bool:
  """Whether a gap is within a share of what is promised."""
  promised = BPP_TOLERANCE if asked.bpp is not None else PSNR_TOLERANCE
  return abs(gap) <= share * promised


def refuse(asked: Any, best: Encoded) -> None:
  """Raises `OutOfReach` for a target that was not met."""
  name = 'bpp' if asked.bpp is not None else 'psnr'
  wanted = getattr(asked, name)
  got = best.details['file_bpp' if name == 'bpp' else 'psnr']
  bound = 'least' if wanted < got else 'most'
  raise OutOfReach(
    f'{name} {wanted:g} is out of reach for this picture and so many steps: the '
    f'{bound} is {got:.4g}'
  )
