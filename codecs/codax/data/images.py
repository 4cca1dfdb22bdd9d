"""Images to encode for codecs that train on each image: whole, or their middles."""

import functools
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
  'skip_bad': False,  # pass over images that cannot be read, and name them at the end
} | SOURCE_DEFAULTS


def open_sources(data: Mapping[str, Any]) -> list[sources.Source]:
  """Opens the splits of ``config.data`` that are encoded.

  Raises:
    CodaxError: an unknown key, or a data set that cannot be used.
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
  return [sources.get(data['name'], split, **options) for split in splits]


def load_images(
  data: Mapping[str, Any], pass_over: checks.PassOver = checks.warn
) -> list[tuple[str, np.ndarray]]:
  """Loads (name, uint8 [H, W, 3]) of every image that ``config.data`` names.

  Args:
    data: the section of the configuration.
    pass_over: called with each bad image if ``data.skip_bad`` is set.

  Raises:
    CodaxError: an unknown key, no image, or some that cannot be used, all named.
  """
  opened = open_sources(data)
  data = {**DATA, **dict(data.items())}
  images, bad = [], []
  for source in opened:
    start = 0
    while start < len(source):
      wanted = data['limit'] - len(images) if data['limit'] else len(source)
      members = range(start, min(start + wanted, len(source)))
      load = functools.partial(_load_one, source, data['crop'])
      for loaded in checks.map_in_threads(load, members):
        (bad if isinstance(loaded, checks.BadImage) else images).append(loaded)
      start = members.stop
      if not members or not data['skip_bad']:  # bad ones are replaced up to the limit
        break
  checks.handle(bad, data['skip_bad'], pass_over)
  if not images:
    hint = '' if data['split'] == 'all' else '; --config.data.split=all takes all'
    hint = f': none of {len(bad)} can be used' if bad else hint
    raise CodaxError(f'data set {data["name"]!r} has no image to encode{hint}')
  return sorted(images, key=lambda one: one[0])


def _load_one(
  source: sources.Source, crop: int, i: int
) -> tuple[str, np.ndarray] | checks.BadImage:
  """Loads one image with its name, or says why it cannot be used."""
  name = source.names[i]
  try:
    image = checks.read_image(source, i, is_encoded=not crop)['image']
  except CodaxError as e:
    return checks.BadImage(name, str(e))
  return name, _centre(image, crop)


def _centre(image: np.ndarray, crop: int) -> np.ndarray:
  """Cuts out the middle `crop` x `crop` pixels at most; 0 is the whole image."""
  if not crop:
    return image
  cuts = [
    slice(max(0, (n - crop) // 2), max(0, (n - crop) // 2) + crop)
    for n in image.shape[:2]
  ]
  return image[tuple(cuts)]
