"""Images inside the wheels of other packages, and their fixed splits."""

import functools
import gzip
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


# Of scikit-learn's digits every so many-th is held out.
DIGITS_TEST_EVERY = 5


@functools.cache
def read_digits() -> tuple[np.ndarray, np.ndarray]:
  """Reads scikit-learn's handwritten digits (UCI, Alpaydin and Kaynak 1998).

  Returns:
    uint8 [1797, 8, 8], levels 0 to 16 stretched to 0 to 255, and labels int [1797].

  Raises:
    CodaxError: scikit-learn is not installed.
  """
  folder = _package_folder('sklearn', 'datasets', 'data')
  path = None if folder is None else folder / 'digits.csv.gz'
  if path is None or not path.is_file():
    raise CodaxError("data set 'digits' needs scikit-learn: pip install scikit-learn")
  with gzip.open(path, 'rt') as f:
    table = np.loadtxt(f, delimiter=',')
  images = np.rint(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
  return images, table[:, -1].astype(int)
