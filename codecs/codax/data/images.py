"""Images to encode for codecs that train on each image: whole, or their middles."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from codax.data import sources
from codax.data.defaults import SOURCE_DEFAULTS, check_keys
from codax.errors import CodaxError

# Every key of `config.data`; those of the sources come last.
DATA = {
  'name': 'photos',  # one of sources.SOURCES
  'split': 'test',  # 'train', 'test' or 'all'
  'crop': 0,  # the middle of so many pixels squared; 0 is the whole image
  'limit': 0,  # at most so many images; 0 is all
} | SOURCE_DEFAULTS


def load_images(data: Mapping[str, Any]) -> list[tuple[str, np.ndarray]]:
  """Loads (name, uint8 [H, W, 3]) of every image that ``config.data`` names.

  Raises:
    CodaxError: an unknown key, or no image.
  """
  check_keys(data.keys(), DATA)
  data = {**DATA, **dict(data.items())}
  if data['crop'] < 0 or data['limit'] < 0:
    raise CodaxError('config.data.crop and data.limit must be 0 or more')
  takes = sources.options(data['name'])
  options = {k: data[k] for k in takes if k in data}
  images = []
  # A folder of images to encode has no split: all are taken.
  splits = sources.SPLITS if data['split'] == 'all' else (data['split'],)
  for split in splits:
    source = sources.get(data['name'], split, **options)
    left = data['limit'] - len(images) if data['limit'] else len(source)
    for i in range(min(len(source), left)):
      images.append((source.names[i], _centre(source[i]['image'], data['crop'])))
  if not images:
    raise CodaxError(f'data set {data["name"]!r} has no image to encode')
  return sorted(images)


def _centre(image: np.ndarray, crop: int) -> np.ndarray:
  """Cuts out the middle `crop` x `crop` pixels at most; 0 is the whole image."""
  if not crop:
    return image
  cuts = [
    slice(max(0, (n - crop) // 2), max(0, (n - crop) // 2) + crop)
    for n in image.shape[:2]
  ]
  return image[tuple(cuts)]
