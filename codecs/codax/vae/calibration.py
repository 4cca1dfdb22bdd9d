"""Probability tables from what is really coded, after training.

A training assumes a logistic law at every scale, noise in place of rounding and no
choice of the encoder. Files are rounded with the bits in view, which leaves more zeros,
and the networks' scales are a little off. So at the end of a training its codec codes
training images, and each table becomes the shares of the integers that it coded,
together with the law as if that had been seen some times as well.
"""

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np

from codax import bundle as bundles
from codax.entropy import tables
from codax.vae import bundle_io, codec, coding
from codax.vae.format import laws, scales

_LAW_COUNT = 100.0  # integers that the law counts as
_ROUNDS = 2  # what the encoder chooses depends on the tables
_IMAGES, _SIDE = 24, 256  # number of training images, and pixels of each that are coded


def calibrate(bundle: bundles.Bundle, images: Iterable[np.ndarray]) -> bundles.Bundle:
  """Returns a bundle with the tables of what its codec codes.

  Args:
    bundle: bundle of the family.
    images: uint8 [H, W, 3], training images; the middle of the first ones is coded.
  """
  images = [_middle(image) for image in itertools.islice(images, _IMAGES)]
  for _ in range(_ROUNDS):
    model = bundle_io.unpack(bundle)
    counts = [np.zeros(2 * r + 1) for r in model.entropy.tables.laws.reach]
    for i, image in enumerate(images):
      y = codec.analyze(model, image)
      for position in _positions(model, i):
        _count(model.entropy, y, position, counts)
    bundle = _with_tables(bundle, counts)
  return bundle


def _middle(image: np.ndarray) -> np.ndarray:
  """Returns the middle of an image, up to `_SIDE` pixels a side."""
  top, left = (max(side - _SIDE, 0) // 2 for side in image.shape[:2])
  return image[top : top + _SIDE, left : left + _SIDE]


def _positions(model: bundle_io.Model, i: int) -> list[int]:
  """Returns rate positions for image i: three over the range, others each time."""
  last = model.entropy.tables.positions - 1
  third = last / 3
  return [int((j + i * 0.618 % 1) * third) for j in range(3)]


def _count(
  model: coding.EntropyModel, y: np.ndarray, position: int, counts: list[np.ndarray]
) -> None:
  """Adds the integers of an image to the counts of their tables."""
  symbols, _, sided = coding.quantize(model, y, position, coding.RD_WEIGHT)
  pairs = [(symbols.coefficients, sided.index)]
  if symbols.latents is not None:
    index = scales.latent_index(model.tables.hyper, position)
    pairs.append((symbols.latents, np.broadcast_to(index, symbols.latents.shape)))
  for values, index in pairs:
    r = model.tables.laws.reach[index]
    at = np.clip(values, -r, r) + r
    for scale in np.unique(index):
      mask = index == scale
      counts[scale] += np.bincount(at[mask], minlength=len(counts[scale]))


def _with_tables(bundle: bundles.Bundle, counts: list[np.ndarray]) -> bundles.Bundle:
  """Returns the bundle with tables of symmetric counts."""
  law = laws.from_arrays(laws.logistic())
  rows: list[Any] = []
  for count, freqs in zip(counts, law.freqs):
    p = freqs / 2.0**tables.PRECISION
    total = (count + count[::-1]) / 2 + _LAW_COUNT * p
    rows.append(tables.quantize_pmf(total))
  arrays = dict(bundle.arrays)
  arrays['tables/laws/freqs'] = np.concatenate(rows).astype(np.int32)
  return bundles.make(bundle.family, bundle.config, arrays, bundle.metrics)
