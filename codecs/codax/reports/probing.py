"""Recognition as a judge of codecs: how many decoded images a classifier still knows.

Held-out images of the data set that a classifier was trained on are tiled into larger
mosaics, as codecs waste bytes on small ones; a codec encodes the mosaics, and the
tiles of what it decodes are classified. Bits per pixel are those of the mosaics.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from codax import bundle as bundles
from codax import families
from codax.errors import CodaxError
from codax.reports.inputs import Input

SIDE = 16  # tiles a side of a mosaic
BATCH = 256


class Probe(NamedTuple):
  """A classifier with the images that it judges codecs by.

  Attributes:
    inputs: mosaics of tiles.
    judge: ``(name of the mosaic, decoded uint8 [H, W, 3]) -> {'accuracy'}``.
    accuracy: share of the images that are recognized without a codec.
    count: number of images.
    tile: side of an image in pixels.
    id: identity of the classifier's bundle.
  """

  inputs: list[Input]
  judge: Callable[[str, np.ndarray], dict[str, float]]
  accuracy: float
  count: int
  tile: int
  id: str

  def describe(self) -> dict[str, float | str]:
    """Returns what a results file says about the probe."""
    return {
      'id': self.id,
      'accuracy': self.accuracy,
      'images': self.count,
      'side': self.tile,
      'tiles_a_mosaic': SIDE * SIDE,
    }


def make(path: str, count: int) -> Probe:
  """Makes a probe of a classifier's run.

  Args:
    path: run directory or bundle file of a classifier.
    count: number of held-out images; those of a last mosaic that is not full are left
      out.

  Raises:
    CodaxError: no classifier, no images, or fewer than fill a mosaic.
  """
  from codax.data import pipeline

  if count < SIDE**2:
    raise CodaxError(
      f'--count={count}; a probe needs {SIDE**2} images, a mosaic, or more'
    )
  bundle = bundles.load(path)
  recognize = families.entry(families.family(bundle.family), 'probe').make(bundle)
  batches = pipeline.eval_batches(bundle.config['data'], BATCH)
  images = np.concatenate([batch['image'] for batch in batches])[:count]
  labels = np.concatenate([batch['label'] for batch in batches])[:count]
  mosaics = tile(images)
  per_mosaic = SIDE * SIDE
  labels = labels[: len(mosaics) * per_mosaic]
  side = images.shape[1]
  names = [f'tiles_{i:03d}' for i in range(len(mosaics))]
  right = {
    name: labels[i * per_mosaic : (i + 1) * per_mosaic] for i, name in enumerate(names)
  }

  def judge(name: str, decoded: np.ndarray) -> dict[str, float]:
    found = recognize(untile(decoded, side))
    return {'accuracy': float((found == right[name]).mean())}

  shares = [judge(name, mosaic)['accuracy'] for name, mosaic in zip(names, mosaics)]
  load = lambda i: mosaics[i]
  inputs = [Input(name, functools.partial(load, i)) for i, name in enumerate(names)]
  accuracy = float(np.mean(shares))
  return Probe(inputs, judge, accuracy, len(labels), side, bundle.id.hex())


def tile(images: np.ndarray) -> np.ndarray:
  """Tiles images into mosaics of `SIDE` x `SIDE`, in raster order.

  Args:
    images: uint8 [N, h, w, 3].

  Returns:
    uint8 [N // SIDE**2, SIDE h, SIDE w, 3].

  Raises:
    CodaxError: fewer images than fill a mosaic.
  """
  count = len(images) // SIDE**2
  if not count:
    raise CodaxError(
      f'{len(images)} images do not fill a mosaic of {SIDE} x {SIDE}; a probe needs '
      f'{SIDE**2} or more'
    )
  _, h, w, c = images.shape
  x = images[: count * SIDE**2].reshape(count, SIDE, SIDE, h, w, c)
  return x.swapaxes(2, 3).reshape(count, SIDE * h, SIDE * w, c)


def untile(mosaic: np.ndarray, side: int) -> np.ndarray:
  """Cuts a mosaic into its square tiles of this side; the inverse of `tile`."""
  h, w, c = mosaic.shape
  x = mosaic.reshape(h // side, side, w // side, side, c)
  return x.swapaxes(1, 2).reshape(-1, side, side, c)
