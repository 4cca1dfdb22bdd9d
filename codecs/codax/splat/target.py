"""The image that a fit aims at, in every form that a fit needs."""

from typing import NamedTuple

import numpy as np

from codax.splat import quantization, tiles


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


class TiledTarget(NamedTuple):
  """An image as programs take it.

  Attributes:
    size: int32 [2], height and width.
    ycbcr: float32 [T, C, TILE**2], luma and chromas of `tiles.pad_tiles` tiles, row by
      row; 0 beyond the image.
  """

  size: np.ndarray
  ycbcr: np.ndarray


def tile_target(target: Target) -> TiledTarget:
  """Cuts an image to tiles."""
  rows, columns = tiles.count_tiles(*target.size)
  side, channels = tiles.TILE, target.ycbcr.shape[2]
  whole = np.zeros((rows * side, columns * side, channels), np.float32)
  whole[: target.size[0], : target.size[1]] = target.ycbcr
  whole = whole.reshape(rows, side, columns, side, channels).transpose(0, 2, 4, 1, 3)
  out = np.zeros((tiles.pad_tiles(*target.size), channels, side**2), np.float32)
  out[: rows * columns] = whole.reshape(-1, channels, side**2)
  return TiledTarget(np.array(target.size, np.int32), out)
