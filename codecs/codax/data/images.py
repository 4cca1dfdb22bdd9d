"""Images to encode for codecs that train on each image: whole, or their middles."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from codax.data import checks, sources
from codax.data.defaults import SOURCE_DEFAULTS, check_keys, check_values
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
    CodaxError: an unknown key, no image, or some that cannot be used, all named.
  """
  check_keys(data.keys(), DATA)
  data = DATA | check_values(dict(data.items()), DATA)
  takes = sources.options(data['name'])
  options = {k: data[k] for k in takes if k in data}
  splits = (data['split'],)
  if data['split'] == 'all':
    splits = sources.SPLITS
    if 'test_fraction' in options:  # nothing is held out from what is encoded
      splits, options['test_fraction'] = ('train',), 0.0
  images, errors = [], []
  for split in splits:
    source = sources.get(data['name'], split, **options)
    left = data['limit'] - len(images) if data['limit'] else len(source)
    for i in range(min(len(source), left)):
      try:
        images.append((source.names[i], _centre(source[i]['image'], data['crop'])))
      except CodaxError as e:
        errors.append(str(e))
  checks.refuse(errors)
  if not images:
    hint = '' if data['split'] == 'all' else '; --config.data.split=all takes all'
    raise CodaxError(f'data set {data["name"]!r} has no image to encode{hint}')
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
