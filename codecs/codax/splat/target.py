"""The image that a fit aims at, in every form that a fit needs."""

from typing import NamedTuple

import numpy as np

from codax.splat import quantization


class Target(NamedTuple):
  """One image, converted once.

  Attributes:
    image: uint8 [H, W, C], the original.
    pixels: float32 [H, W, C], `image` with levels from 0 to 1.
    ycbcr: float32 [H, W, C], luma and chromas of `pixels`; gray images are unchanged.
  """

  image: np.ndarray
  pixels: np.ndarray
  ycbcr: np.ndarray

  @property
  def size(self) -> tuple[int, int]:
    """Height and width in pixels."""
    return self.image.shape[:2]


def make_target(image: np.ndarray) -> Target:
  """Converts uint8 [H, W, C] to a `Target`."""
  pixels = np.asarray(image, np.float32) / 255
  return Target(np.asarray(image), pixels, quantization.to_ycbcr(pixels))
