"""Every key of `config.data`; configurations start from these."""

from collections.abc import Iterable, Mapping
from typing import Any

from codax import config, errors

# Every key of `config.data`. The second group is passed on to the source.
DEFAULTS = {
  'name': 'photos',  # One of sources.SOURCES.
  'batch_size': 16,  # Of all hosts together.
  'crop': 64,  # Side in pixels; smaller images are padded by their edge.
  'flip': True,  # Mirror left-right, with probability 1/2.
  'permute_channels': 0.0,  # Chance that a crop's colour channels change places.
  'jitter': 0.0,  # Contrast times e^u and mean plus 64 v, |u| and |v| up to this.
  'scales': (1.0,),  # Also train on box-averaged copies: (1.0, 0.5) adds half size.
  'epochs': False,  # Each resident image once an epoch; area_power does not apply.
  'area_power': 0.5,  # P(image) ~ area^this where resident; 0: all alike.
  'max_resident_mb': 512.0,  # Larger sets are read on the host; 0: always.
  'eval_crops': 16384,  # At most so many crops of the test split; 0: all.
  'val_fraction': 0.0,  # Share of the training images that only evaluations see.
  'skip_bad': False,  # Pass over images that cannot be read, and name them at the end.
}
SOURCE_DEFAULTS = {
  'images': (),  # photos
  'path': '',  # folder
  'test_fraction': 0.1,  # folder
  'dataset': '',  # tfds
  'data_dir': '',  # tfds
  'size': 128,  # dead_leaves
  'leaves_seed': 0,  # dead_leaves
}
# Minutes of training on the embedded photographs. As they are few, they hold few
# colors: without the last two, unseen ones cost decibels.
PHOTOS = {
  **DEFAULTS,
  **SOURCE_DEFAULTS,
  'scales': (1.0, 0.5),
  'permute_channels': 0.5,
  'jitter': 0.3,
}
# Keys of earlier versions and their names today.
RENAMED = {
  'mix_channels': 'permute_channels',
  'gain': 'jitter',
  'pictures': 'images',
}


# Bounds of numbers, both included.
RANGES = {
  'batch_size': (1, None),
  'crop': (0, 65_535),  # 0 is the whole image, for codecs that train on each
  'limit': (0, None),
  'permute_channels': (0, 1),
  'jitter': (0, 4),
  'area_power': (0, 8),
  'max_resident_mb': (0, None),
  'eval_crops': (0, None),
  'test_fraction': (0, 1),
  'val_fraction': (0, 0.9),
  'size': (1, 4096),
  'leaves_seed': (0, 2**32 - 1),
  'scales': (0, 1),
}


def check_values(
  values: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
  """Checks the values of `config.data` by type and range.

  Args:
    values: some of its keys.
    defaults: all of them, at their defaults.

  Returns:
    The values, single names and numbers turned into tuples where one is wanted.

  Raises:
    CodaxError: a value is not valid.
  """
  checked = config.check_values(values, defaults, 'config.data', ranges=RANGES)
  for name in checked.get('images', ()):
    if not isinstance(name, str):
      raise errors.CodaxError(f'data.images has {name!r}; valid: names in quotes')
  if checked.get('test_fraction', 0) == 1:
    raise errors.CodaxError('data.test_fraction is 1; valid: 0 to below 1')
  return checked


def check_keys(keys: Iterable[str], valid: Iterable[str]) -> None:
  """Refuses the first key of `config.data` that is not valid.

  Args:
    keys: names without 'data.'.
    valid: every valid name.

  Raises:
    CodaxError: an unknown key, answered with the nearest name, or a renamed one,
      answered with its new name.
  """
  valid = tuple(valid)
  for key in keys:
    if key in RENAMED and key not in valid:
      raise errors.renamed(f'data.{key}', f'data.{RENAMED[key]}')
    if key not in valid:
      raise errors.unknown('config key', f'data.{key}', [f'data.{k}' for k in valid])
