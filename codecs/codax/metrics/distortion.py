"""Distortion between 8-bit images: MSE, PSNR, SSIM, MS-SSIM.

One convention everywhere: a reconstruction is clamped and rounded to uint8 first, then
compared with the uint8 original over all of its channels (RGB, not luma). SSIM is
scikit-image's with the settings of Wang et al., *Image quality assessment: from error
visibility to structural similarity* (IEEE TIP 2004); MS-SSIM is Wang, Simoncelli and
Bovik, *Multi-scale structural similarity for image quality assessment* (Asilomar 2003).
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from codax.errors import CodaxError

PEAK = 255.0
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_WINDOW = 11  # Side of the Gaussian window, sigma 1.5, of SSIM.
_SIGMA = 1.5
_LEAST_GAIN = 3.0  # dB above one color, below which structure is lost
_C1, _C2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2


def to_uint8(x: np.ndarray) -> np.ndarray:
  """Clamps and rounds values on the scale 0..255 to uint8, halves to even.

  Args:
    x: real array of any shape. NaN is an error.
  """
  x = np.asarray(x)
  if x.dtype == np.uint8:
    return x
  if np.isnan(x).any():
    raise CodaxError('a reconstruction has NaN in it')
  return np.rint(np.clip(x, 0, PEAK)).astype(np.uint8)


def _pair(a, b) -> tuple[np.ndarray, np.ndarray]:
  """Checks two images and returns them as uint8 [H, W, C]."""
  a, b = np.asarray(a), np.asarray(b)
  if a.dtype != np.uint8 or b.dtype != np.uint8:
    raise CodaxError(
      f'metrics compare uint8 images, not {a.dtype} and {b.dtype}; see to_uint8'
    )
  if a.shape != b.shape or a.ndim not in (2, 3) or a.size == 0:
    raise CodaxError(f'cannot compare images of shapes {a.shape} and {b.shape}')
  return (a[..., None], b[..., None]) if a.ndim == 2 else (a, b)


def mse(a: np.ndarray, b: np.ndarray) -> float:
  """Returns the mean squared error in levels^2 of two uint8 images [H, W, (C)]."""
  a, b = _pair(a, b)
  difference = a.astype(np.int32) - b.astype(np.int32)
  return int((difference * difference).sum(dtype=np.int64)) / a.size


def psnr_of_mse(value: float) -> float:
  """Converts a mean squared error in levels^2 of 8 bits to PSNR in dB; inf for 0."""
  return float('inf') if value == 0 else float(10 * np.log10(PEAK**2 / value))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
  """Returns the PSNR in dB of two uint8 images [H, W, C] or [H, W]; inf if equal."""
  return psnr_of_mse(mse(a, b))


def psnr_of_one_color(image: np.ndarray) -> float:
  """Returns the PSNR in dB of the best image of one color; inf if `image` is one.

  Args:
    image: uint8 [H, W, C] or [H, W].
  """
  means = np.rint(image.mean(axis=(0, 1), keepdims=True)).astype(np.uint8)
  return psnr(image, np.broadcast_to(means, image.shape))


def psnr_above_one_color(image: np.ndarray, decoded: np.ndarray) -> float | None:
  """Returns the PSNR above that of the best image of one color, in dB.

  It is 0 for a file that has lost everything but a color. None if the image has one
  color only.

  Args:
    image: uint8 [H, W, C], the original.
    decoded: uint8 [H, W, C].
  """
  best = psnr_of_one_color(image)
  return None if best == np.inf else psnr(image, decoded) - best


def explain_gain(
  gain: float | None, advice: str = 'ask for more quality'
) -> str | None:
  """Returns one line about an image that has nearly become one color, or None.

  Args:
    gain: result of `psnr_above_one_color`; None or NaN for none.
    advice: end of the line, a remedy.
  """
  if gain is None or not gain < _LEAST_GAIN:
    return None
  return (
    f'the image has become nearly one color: its PSNR is only {gain:.1f} dB above '
    f'that of the best single color; {advice}'
  )


class PsnrSummary(NamedTuple):
  """PSNR of a set of images, in dB.

  Attributes:
    mean: mean of the images' PSNR (as in codec papers).
    pooled: PSNR of the mean squared error over all samples of all images (as in
      training curves); never above `mean` for images of one size.
  """

  mean: float
  pooled: float


def summarize(
  mses: Sequence[float], samples: Sequence[int] | None = None
) -> PsnrSummary:
  """Computes the PSNR of a set from the images' mean squared errors.

  Args:
    mses: mean squared error of each image, in levels^2.
    samples: number of samples (H*W*C) of each image; None if all are alike.

  Returns:
    A `PsnrSummary`; NaN for an empty set.
  """
  if len(mses) == 0:
    return PsnrSummary(float('nan'), float('nan'))
  pooled = float(np.average(np.asarray(mses, np.float64), weights=samples))
  mean = float(np.mean([psnr_of_mse(m) for m in mses]))
  return PsnrSummary(mean, psnr_of_mse(pooled))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
  """Returns the mean SSIM of two uint8 images [H, W, C] or [H, W], over all channels.

  Gaussian window of 11 x 11, sigma 1.5, population statistics, K1 = 0.01, K2 = 0.03.

  Returns:
    A float up to 1; NaN if a side is under 11 pixels, where no window fits.
  """
  from skimage.metrics import structural_similarity

  a, b = _pair(a, b)
  if min(a.shape[:2]) < _WINDOW:
    return float('nan')
  value = structural_similarity(
    a,
    b,
    channel_axis=-1,
    data_range=PEAK,
    gaussian_weights=True,
    sigma=_SIGMA,
    use_sample_covariance=False,
  )
  return float(value)


@functools.cache
def _window() -> np.ndarray:
  x = np.arange(_WINDOW) - _WINDOW // 2
  w = np.exp(-(x**2) / (2 * _SIGMA**2))
  return w / w.sum()


def _blur(x: np.ndarray) -> np.ndarray:
  """Applies the Gaussian window to [H, W, C] where it fits: [H - 10, W - 10, C]."""
  from scipy.ndimage import correlate1d

  r = _WINDOW // 2
  x = correlate1d(x, _window(), axis=0)[r:-r]
  return correlate1d(x, _window(), axis=1)[:, r:-r]


def _halve(x: np.ndarray) -> np.ndarray:
  """Averages 2 x 2 boxes of [H, W, C]; an odd last row or column is repeated first."""
  x = np.pad(x, ((0, x.shape[0] % 2), (0, x.shape[1] % 2), (0, 0)), mode='edge')
  return (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4


def _luminance_and_contrast(a, b) -> tuple[np.ndarray, np.ndarray]:
  """Returns the mean SSIM and its contrast-structure part of each channel: [C], [C]."""
  ma, mb = _blur(a), _blur(b)
  va = _blur(a * a) - ma * ma
  vb = _blur(b * b) - mb * mb
  cov = _blur(a * b) - ma * mb
  cs = (2 * cov + _C2) / (va + vb + _C2)
  full = cs * (2 * ma * mb + _C1) / (ma * ma + mb * mb + _C1)
  return full.mean(axis=(0, 1)), cs.mean(axis=(0, 1))


def ms_ssim(
  a: np.ndarray, b: np.ndarray, *, weights: Sequence[float] = MS_SSIM_WEIGHTS
) -> float:
  """Computes the multi-scale SSIM of two uint8 images [H, W, C] or [H, W].

  Each channel by itself, then the mean over channels. Negative terms count as 0,
  since a fractional power of them is not real.

  Args:
    a: uint8 [H, W, C] or [H, W].
    b: uint8, the same shape.
    weights: exponent of each scale, finest first.

  Returns:
    A float in [0, 1]; NaN if the image is too small for all scales: with the five
    of the paper a side must have 161 pixels.
  """
  a, b = _pair(a, b)
  least = (_WINDOW - 1) * 2 ** (len(weights) - 1) + 1
  if min(a.shape[:2]) < least:
    return float('nan')
  a, b = a.astype(np.float64), b.astype(np.float64)
  product = np.ones(a.shape[-1])
  for i, weight in enumerate(weights):
    if i:
      a, b = _halve(a), _halve(b)
    full, cs = _luminance_and_contrast(a, b)
    term = full if i == len(weights) - 1 else cs
    product *= np.maximum(term, 0) ** weight
  return float(product.mean())


def decibels(similarity: float) -> float:
  """Converts a similarity s, as MS-SSIM, to -10 log10(1 - s) dB; inf for 1."""
  return float('inf') if similarity >= 1 else float(-10 * np.log10(1 - similarity))
