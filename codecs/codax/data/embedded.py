"""Photographs inside the wheels of other packages, and their fixed split."""

import functools
import importlib.util
import pathlib

import numpy as np

from codax.errors import CodaxError

# The fixed split of the embedded photographs. An image is in one list only, and
# which one never changes: published numbers depend on it.
PHOTOS_TRAIN = (
  'coffee',
  'chelsea',
  'rocket',
  'motorcycle_left',
  'motorcycle_right',
)
# For training only where asked for: a retina and a stained tissue section look like no
# photograph a person takes, and by area they would be most of the crops.
PHOTOS_OPTIONAL = ('retina', 'ihc')
PHOTOS_TEST = ('astronaut', 'hubble_deep_field')
PHOTOS_TEST_SKLEARN = ('china', 'flower')


def _package_folder(package: str, *parts: str) -> pathlib.Path | None:
  """Returns the folder of a package's data, without importing the package."""
  spec = importlib.util.find_spec(package)
  if spec is None or spec.origin is None:
    return None
  return pathlib.Path(spec.origin).parent.joinpath(*parts)


def photo_files() -> dict[str, dict[str, pathlib.Path]]:
  """Returns split -> {name: file} of every embedded photograph that is installed."""
  folder = _package_folder('skimage', 'data')
  if folder is None:
    raise CodaxError("data set 'photos' needs scikit-image: pip install scikit-image")

  def find(name):
    paths = [folder / f'{name}{suffix}' for suffix in ('.png', '.jpg')]
    return next((path for path in paths if path.is_file()), None)

  files = {
    'train': {name: find(name) for name in PHOTOS_TRAIN + PHOTOS_OPTIONAL},
    'test': {name: find(name) for name in PHOTOS_TEST},
  }
  folder = _package_folder('sklearn', 'datasets', 'images')
  if folder is not None:
    for name in PHOTOS_TEST_SKLEARN:
      files['test'][name] = folder / f'{name}.jpg'
  return {
    split: {n: p for n, p in named.items() if p is not None and p.is_file()}
    for split, named in files.items()
  }


@functools.lru_cache(maxsize=32)
def read_photo(path: pathlib.Path) -> np.ndarray:
  """Reads a photograph as uint8 [H, W, 3]; the array is shared and read-only."""
  from PIL import Image

  with Image.open(path) as image:
    pixels = np.asarray(image.convert('RGB'))
  pixels.setflags(write=False)  # It is shared by everyone who asks for it.
  return pixels
