"""Images padded, shrunk and cut into tiles, on the host."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from codax.data import checks, sources
from codax.errors import CodaxError


def pad_to(image: np.ndarray, side: int) -> np.ndarray:
  """Pads [H, W, C] by its edge at the bottom and right to at least side x side."""
  h, w = image.shape[:2]
  if h >= side and w >= side:
    return image
  return np.pad(
    image, ((0, max(0, side - h)), (0, max(0, side - w)), (0, 0)), mode='edge'
  )


def shrink(image: np.ndarray, scale: float) -> np.ndarray:
  """Averages uint8 [H, W, C] over boxes of side 1/scale (an integer), and rounds.

  Rows and columns that fill no whole box are left out; an image smaller than one box
  is returned as it is.
  """
  f = round(1 / scale)
  h, w = image.shape[0] // f, image.shape[1] // f
  if f == 1 or h == 0 or w == 0:
    return image
  boxes = image[: h * f, : w * f].reshape(h, f, w, f, -1)
  return np.rint(boxes.mean(axis=(1, 3), dtype=np.float32)).astype(np.uint8)


def _spread(n: int, count: int) -> np.ndarray:
  """Picks `count` of the indices 0..n-1, evenly spread; all of them if count >= n."""
  return np.arange(n) if count >= n else np.arange(count) * n // count


def cut_tiles(
  src: sources.Source, s: Mapping[str, Any], bad: dict[int, checks.BadImage]
) -> tuple[list[np.ndarray], list[int]]:
  """Cuts images into tiles, ``eval_crops`` at most; returns them and their labels.

  Args:
    src: images of the test split.
    s: settings.
    bad: output: images that cannot be read, by index.
  """
  crop, limit = s['crop'], s['eval_crops'] or len(src) * 2**40
  members = _spread(len(src), limit)
  images, labels = [], []
  for k, i in enumerate(members):
    try:
      item = checks.read_image(src, int(i), is_encoded=True)
    except CodaxError as e:
      bad[int(i)] = checks.BadImage(src.names[int(i)], str(e))
      continue
    image = pad_to(item['image'], crop)
    ny, nx = image.shape[0] // crop, image.shape[1] // crop
    oy, ox = (image.shape[0] - ny * crop) // 2, (image.shape[1] - nx * crop) // 2
    # What earlier images did not use of the limit is shared by the rest.
    share = (limit - len(images)) // (len(members) - k)
    for tile in _spread(ny * nx, share):
      y, x = oy + tile // nx * crop, ox + tile % nx * crop
      images.append(image[y : y + crop, x : x + crop])
      if 'label' in item:
        labels.append(item['label'])
  return images, labels
