"""Rate: bits per pixel of a file, BD-rate, and other people's conventions.

A rate is ``8 * len(file) / (H * W)``, header and all. BD-rate is Bjontegaard,
*Calculation of average PSNR differences between RD-curves* (VCEG-M33, 2001), computed
by the `bjontegaard` package with piecewise-cubic interpolation of log rate over PSNR.
"""

import math
from collections.abc import Sequence

import numpy as np

from codax.errors import CodaxError, unknown

METHODS = ('akima', 'pchip', 'cubic')
MIN_POINTS = 4


def bpp(nbytes: int, height: int, width: int) -> float:
  """Returns the bits per pixel of a file of `nbytes` of an image of height x width."""
  if height < 1 or width < 1:
    raise CodaxError(f'no bits per pixel for an image of {height} x {width}')
  return 8 * nbytes / (height * width)


def pareto(
  rates: Sequence[float], psnrs: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the points that no other one beats, as two strictly rising arrays.

  Args:
    rates: positive finite rates, in any order.
    psnrs: finite PSNR in dB of each rate.
  """
  r, p = np.asarray(rates, np.float64), np.asarray(psnrs, np.float64)
  if r.shape != p.shape or r.ndim != 1:
    raise CodaxError(f'{r.size} rates and {p.size} PSNR values do not make a curve')
  if not (np.isfinite(r).all() and np.isfinite(p).all() and (r > 0).all()):
    raise CodaxError('a rate-distortion curve needs finite PSNR and positive rates')
  order = np.lexsort((-p, r))
  r, p = r[order], p[order]
  best = np.maximum.accumulate(np.concatenate([[-np.inf], p[:-1]])) if p.size else p
  return r[p > best], p[p > best]


def overlap(anchor_psnr: Sequence[float], test_psnr: Sequence[float]) -> float:
  """Returns the share of the PSNR range of two curves that both cover, 0..1.

  BD-rate says something about this part only; under 0.75 it is to be read with care.
  """
  low = max(min(anchor_psnr), min(test_psnr))
  high = min(max(anchor_psnr), max(test_psnr))
  whole = max(*anchor_psnr, *test_psnr) - min(*anchor_psnr, *test_psnr)
  return max(0.0, high - low) / whole if whole > 0 else 0.0


def bd_rate(
  anchor_rate: Sequence[float],
  anchor_psnr: Sequence[float],
  rate: Sequence[float],
  psnr: Sequence[float],
  *,
  method: str = 'pchip',
) -> float:
  """Computes the Bjontegaard delta rate of a codec against an anchor.

  Args:
    anchor_rate: bpp of the anchor's points, any order.
    anchor_psnr: their PSNR in dB.
    rate: bpp of the codec's points; the number may differ from the anchor's.
    psnr: their PSNR in dB.
    method: name of the interpolation, from `METHODS`.

  Returns:
    Percent of rate that the codec takes more (positive) or less (negative) than the
    anchor at equal PSNR, averaged over the PSNR that both cover; NaN if there is none.

  Raises:
    CodaxError: a value that is not finite, an unknown method, or a curve that has
      fewer than 4 points without those that another one beats.
  """
  if method not in METHODS:
    raise unknown('BD-rate method', method, METHODS)
  anchor_rate, anchor_psnr = pareto(anchor_rate, anchor_psnr)
  rate, psnr = pareto(rate, psnr)
  if min(len(rate), len(anchor_rate)) < MIN_POINTS:
    raise CodaxError(
      f'BD-rate needs {MIN_POINTS} rising points for each curve, not'
      f' {len(anchor_rate)} and {len(rate)}'
    )
  if overlap(anchor_psnr, psnr) == 0:
    return math.nan
  try:
    import bjontegaard
  except ImportError as e:
    raise CodaxError('BD-rate needs: pip install bjontegaard') from e
  value = bjontegaard.bd_rate(
    anchor_rate,
    anchor_psnr,
    rate,
    psnr,
    method=method,
    require_matching_points=False,
    min_overlap=0,  # Its warning is our `overlap`, which the caller can print.
  )
  return float(value)


def rate_at(rates: Sequence[float], psnrs: Sequence[float], psnr: float) -> float:
  """Returns the rate at which a curve reaches `psnr`; log rate is linear in between.

  Args:
    rates: positive rates, in any order; points that another one beats are left out.
    psnrs: PSNR in dB of each rate.
    psnr: PSNR in dB at which the rate is wanted.

  Returns:
    The rate, in the unit of `rates`; NaN outside of the curve.
  """
  rates, psnrs = pareto(rates, psnrs)
  if not len(rates) or not psnrs[0] <= psnr <= psnrs[-1]:
    return math.nan
  return float(np.exp(np.interp(psnr, psnrs, np.log(rates))))


def psnr_at(rates: Sequence[float], psnrs: Sequence[float], rate: float) -> float:
  """Returns the PSNR of a curve at a rate, linear in log rate; see `rate_at`.

  Returns:
    dB; NaN outside of the curve.
  """
  rates, psnrs = pareto(rates, psnrs)
  if not len(rates) or not rates[0] <= rate <= rates[-1]:
    return math.nan
  return float(np.interp(math.log(rate), np.log(rates), psnrs))


def psnr_from_range(psnr: float, claimed: float, actual: float) -> float:
  """Corrects a PSNR computed with the wrong peak.

  Data in [-1, 1] has range 2; a PSNR that took 1 for it is 6.02 dB too low.

  Args:
    psnr: published PSNR in dB.
    claimed: peak in its formula.
    actual: true range of the data.

  Returns:
    dB, by the convention here.
  """
  return psnr + 20 * math.log10(actual / claimed)


def psnr_from_mse(mse: float, data_range: float) -> float:
  """Converts a mean squared error of data with that range to PSNR in dB; inf for 0."""
  return math.inf if mse == 0 else 10 * math.log10(data_range**2 / mse)


def bpp_from_bits_per_dim(bits: float, channels: int = 3) -> float:
  """Converts bits per dimension (per sample) of generative models to bits per pixel."""
  return bits * channels


def bpp_from_nats(nats: float, pixels: int) -> float:
  """Converts an image's total negative log likelihood in nats to bits per pixel."""
  return nats / math.log(2) / pixels


def nominal_bpp(codes: int, codebook_size: int, pixels: int) -> float:
  """Returns the bits per pixel of `codes` indices of log2(K) bits each, uncoded."""
  return codes * math.log2(codebook_size) / pixels
