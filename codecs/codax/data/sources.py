"""Image sources: random access to the images of one split of one data set.

==============  ===============================================================
`photos`        natural photographs inside the scikit-image wheel (and the two of
                scikit-learn where it is installed), with a fixed split
`folder`        every image under a directory, split by a hash of its name
`tfds`          any TensorFlow Datasets image set, read by `tfds.data_source`
`digits`        scikit-learn's handwritten digits, labelled, with a fixed split
`dead_leaves`   synthetic occluding discs, endless (see `dead_leaves.py`)
==============  ===============================================================

``get(name, split, **options)`` returns a :class:`Source`. Nothing here downloads.
"""

import dataclasses
import hashlib
import inspect
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from codax.data import dead_leaves, embedded, folders
from codax.errors import CodaxError, unknown

SPLITS = ('train', 'test')

_MAX_READ, _MAX_SAMPLES = 2**30, 1000  # of `Source.fingerprint`: bytes and files


@dataclasses.dataclass(frozen=True)
class Source:
  """One split of one data set.

  ``source[i]`` is a dict with ``'image'``: uint8 [H, W, 3], and for labelled sets
  ``'label'``: int. ``len(source)`` is the number of images.

  Attributes:
    names: name of each image, unique in the source, fit to be a file name
      (a folder's are relative paths with ``/``).
    load: function from an index to the dict above.
    shape: size (H, W) of all images, if they have one and it is known beforehand.
    check: function (index), which raises `CodaxError` for an image whose header shows
      that it cannot be used; None where there is nothing to look at.
    sizes: function () -> bytes of each image's file; None if images are no files.
    read: function from an index to the bytes of the image's file; None likewise.
    origin: name and version of a data set that has one.
  """

  names: Sequence[str]
  load: Callable[[int], dict[str, Any]]
  shape: tuple[int, int] | None = None
  check: Callable[[int], None] | None = None
  sizes: Callable[[], Sequence[int]] | None = None
  read: Callable[[int], bytes] | None = None
  origin: str = ''

  def fingerprint(self, contents: bool = False) -> dict[str, Any]:
    """Returns facts that tell this split from another, without decoding an image.

    Args:
      contents: whether files are read. Of more than a gigabyte, `_MAX_SAMPLES` files
        at equal distances are.

    Returns:
      'images', their number; 'names', 'sizes' and 'files', hashes of names, file sizes
      and contents; 'shape' and 'origin'. Sets of over a million images are told by
      their first and last names.
    """
    count = len(self)
    names = self.names if count <= 10**6 else (self.names[0], self.names[count - 1])
    out = {'images': count, 'names': _hash_lines(names)}
    if self.sizes is not None:
      sizes = self.sizes()
      out['sizes'] = _hash_lines(map(str, sizes))
      if contents and self.read is not None:
        step = 1 if sum(sizes) <= _MAX_READ else -(-count // _MAX_SAMPLES)
        digest = lambda i: hashlib.sha256(self.read(i)).hexdigest()
        out['files'] = _hash_lines(map(digest, range(0, count, step)))
    if self.origin:
      out['origin'] = self.origin
    if self.shape is not None:
      out['shape'] = list(self.shape)
    return out

  def __len__(self) -> int:
    return len(self.names)

  def __getitem__(self, i: int) -> dict[str, Any]:
    n = len(self)
    if not -n <= i < n:
      raise IndexError(f'image {i} of {n}')
    return self.load(int(i) % n)

  def __iter__(self) -> Iterator[dict[str, Any]]:
    return (self[i] for i in range(len(self)))


@dataclasses.dataclass(frozen=True)
class _Numbered(Sequence):
  """The names prefix_0 ... prefix_(n-1), without holding them."""

  prefix: str
  size: int

  def __len__(self):
    return self.size

  def __getitem__(self, i):
    if isinstance(i, slice):
      return [self[j] for j in range(*i.indices(self.size))]
    if not -self.size <= i < self.size:
      raise IndexError(i)
    return f'{self.prefix}_{i % self.size}'


def as_rgb(pixels: np.ndarray) -> np.ndarray:
  """Turns grey [H, W], [H, W, 1] or RGB [H, W, 3] into RGB, all uint8."""
  pixels = np.asarray(pixels)
  if pixels.ndim == 2:
    pixels = pixels[..., None]
  if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[-1] not in (1, 3):
    raise CodaxError(
      f'an image of shape {pixels.shape} and type {pixels.dtype} is not grey or RGB'
      ' of 8 bits'
    )
  if pixels.shape[-1] == 1:
    pixels = np.repeat(pixels, 3, axis=-1)
  return pixels


def photos(split: str, *, images: Sequence[str] = ()) -> Source:
  """Returns the photographs embedded in scikit-image and scikit-learn.

  Args:
    split: 'train', or 'test' (the held-out ones, which are never in 'train').
    images: names to take instead of all; `embedded.PHOTOS_OPTIONAL` are in 'train'
      only when named here. Names of the other split are left out, so one setting
      serves both; a split of which nothing is named stays whole.

  Returns:
    The images of the split, in a fixed order.

  Raises:
    CodaxError: an unknown name.
  """
  files = embedded.photo_files()
  every = files['train'] | files['test']
  for name in images:
    if name not in every:
      raise unknown('photograph', name, every)
  wanted = [name for name in images if name in files[split]]
  if not wanted:
    wanted = [name for name in files[split] if name not in embedded.PHOTOS_OPTIONAL]
  if not wanted:
    raise CodaxError(f'scikit-image holds none of the photographs of split {split!r}')
  paths = [files[split][name] for name in wanted]
  return Source(tuple(wanted), lambda i: {'image': embedded.read_photo(paths[i])})


def digits(split: str) -> Source:
  """Returns scikit-learn's handwritten digits, 8 x 8 pixels, grey as RGB.

  Every fifth is in 'test'.

  Raises:
    CodaxError: scikit-learn is not installed.
  """
  images, labels = embedded.read_digits()
  is_test = np.arange(len(images)) % embedded.DIGITS_TEST_EVERY == 0
  members = np.flatnonzero(is_test == (split == 'test'))
  load = lambda i: {
    'image': as_rgb(images[members[i]]),
    'label': int(labels[members[i]]),
  }
  names = tuple(f'digit_{i}' for i in members)
  return Source(names, load, shape=images.shape[1:])


def _hash_lines(lines: Iterable[str]) -> str:
  """Returns the SHA-256 of lines of text."""
  digest = hashlib.sha256()
  for line in lines:
    text = folders.normalize(line)
    digest.update(text.encode('utf-8', 'surrogateescape') + b'\n')
  return digest.hexdigest()


def hash01(name: str) -> float:
  """Returns a fixed number in [0, 1) for a name: which split its image belongs to."""
  text = folders.normalize(name)
  digest = hashlib.sha256(text.encode('utf-8', 'surrogateescape')).digest()
  return int.from_bytes(digest[:6], 'big') / 2**48


def folder(split: str, *, path: str = '', test_fraction: float = 0.1) -> Source:
  """Lists every image under a directory, at any depth; see `codax.data.folders`.

  Files and links that are passed over are counted in the log, by their kind. An image
  belongs to 'test' when the hash of its path below the directory is under
  `test_fraction`: adding images moves no other one. With two images or more,
  neither split is empty (the one with the least or greatest hash goes there).

  Args:
    split: 'train' or 'test'.
    path: the directory.
    test_fraction: share held out, in [0, 1); 0 holds nothing out.

  Raises:
    CodaxError: no such directory, no image in it, or one only while something is
      to be held out. An image that cannot be read is named when it is loaded.
  """
  if not path:
    raise CodaxError("data set 'folder' needs the directory: --config.data.path=DIR")
  root = pathlib.Path(path).expanduser()
  if not root.is_dir():
    raise CodaxError(f'{path}: no such directory')
  if not 0 <= test_fraction < 1:
    raise CodaxError(f'data.test_fraction is {test_fraction}; valid: 0 <= x < 1')
  names, passed_over, is_notable = folders.list_images(root)
  if not names:
    text = f'passed over: {passed_over}' if passed_over else 'it is empty'
    raise CodaxError(f'{path}: no image in it ({text})')
  if is_notable:
    folders.say_once(f'{path}: passed over: {passed_over}')
  if len(names) == 1 and test_fraction > 0:
    raise CodaxError(
      f'{path}: one image only, and one has to be held out; add images, or set'
      ' data.test_fraction=0 to train on it, data.split=all to encode it'
    )
  ranked = sorted(names, key=hash01)
  held = {name for name in names if hash01(name) < test_fraction}
  if test_fraction > 0:
    held = (held | {ranked[0]}) - {ranked[-1]}
  members = tuple(name for name in names if (name in held) == (split == 'test'))

  def load(i):
    from codax import image_io

    image = image_io.read(root / members[i])
    for note in image.notes:
      folders.say_change(path, members[i], note)
    return {'image': as_rgb(image.pixels)}

  def check(i):
    from codax import image_io

    image_io.check(root / members[i])

  sizes = lambda: [(root / name).stat().st_size for name in members]
  read = lambda i: (root / members[i]).read_bytes()
  return Source(members, load, check=check, sizes=sizes, read=read)


def _tfds_missing(dataset: str, data_dir: str, reason: str) -> CodaxError:
  place = data_dir or 'DIR'
  return CodaxError(
    f'data set {dataset!r} is not in {data_dir or "the default TFDS directory"}'
    f' as array_record ({reason}); make it once with `pip install tensorflow-cpu &&'
    f' tfds build {dataset} --file_format=array_record'
    f' --data_dir={place}`, then give --config.data.data_dir={place}'
  )


def _tfds_split(tfds, dataset: str, data_dir: str, split: str):
  """Returns the random-access data of one split; 'test' falls back to 'validation'.

  Beside it: the split's name, the shape of images, and name and version of the set.
  """
  data_dir = os.path.expanduser(data_dir)
  kwargs = {'data_dir': data_dir or None, 'file_format': 'array_record'}
  try:
    builder = tfds.builder(dataset, **kwargs)
  except tfds.core.DatasetNotFoundError as e:
    # A name with a near one is most likely misspelt; keep TFDS's long text away.
    try:
      valid = tfds.list_builders(with_community_datasets=False)
    except Exception:
      valid = []
    if dataset.split('/')[0].split(':')[0] in valid or not valid:
      raise _tfds_missing(dataset, data_dir, 'not found') from e
    import difflib

    near = difflib.get_close_matches(dataset, valid, n=1)
    hint = f'; did you mean {near[0]!r}?' if near else ''
    raise CodaxError(f'unknown TFDS data set {dataset!r}{hint}') from e
  features = builder.info.features
  if features is None or 'image' not in features:
    raise CodaxError(f"TFDS data set {dataset!r} has no feature 'image'")
  feature = features['image']
  names = (split,) if split == 'train' else ('test', 'validation')
  reason = 'nothing prepared'
  for name in names:
    try:
      data = builder.as_data_source(split=name)
      return data, name, feature.shape, builder.info.full_name
    except (OSError, ValueError, AssertionError, NotImplementedError, KeyError) as e:
      reason = f'split {name!r}: {type(e).__name__}'
  raise _tfds_missing(dataset, data_dir, reason)


def tfds(split: str, *, dataset: str = '', data_dir: str = '') -> Source:
  """Returns an image data set of TensorFlow Datasets, already on disk as array_record.

  Reading needs no TensorFlow; nothing is downloaded. Labels come along where the set
  has them. 'test' means the set's validation split where it has no test split.

  Args:
    split: 'train' or 'test'.
    dataset: TFDS name, for example 'cifar10'.
    data_dir: the directory that holds it; '' is TFDS's default place.

  Raises:
    CodaxError: unknown or missing data set (with the command that makes it), or one
      without images.
  """
  if not dataset:
    raise CodaxError("data set 'tfds' needs a name: --config.data.dataset=cifar10")
  try:
    import tensorflow_datasets
  except ImportError as e:
    raise CodaxError(
      f'TFDS does not import ({e}): pip install tensorflow-datasets'
      ' importlib_resources array_record'
    ) from e
  data, name, shape, origin = _tfds_split(tensorflow_datasets, dataset, data_dir, split)

  def load(i):
    element = data[i]
    item = {'image': as_rgb(element['image'])}
    if 'label' in element and np.ndim(element['label']) == 0:
      item['label'] = int(element['label'])
    return item

  known = tuple(shape[:2]) if None not in shape[:2] else None
  prefix = f'{dataset}_{name}'.replace('/', '_').replace(':', '_')
  return Source(_Numbered(prefix, len(data)), load, known, origin=origin)


def _dead_leaves(split: str, *, size: int = 128, leaves_seed: int = 0) -> Source:
  """Returns synthetic dead-leaves images; see `codax.data.dead_leaves`.

  Args:
    split: 'train' (2^31 - 1 images) or 'test' (64, from other random numbers).
    size: side of the square images in pixels, 1..4096.
    leaves_seed: another seed is another data set.
  """
  if not 1 <= size <= 4096:
    raise CodaxError(f'data.size is {size}; valid: 1..4096')
  count = 2**31 - 1 if split == 'train' else 64
  stream = SPLITS.index(split)
  load = lambda i: {'image': dead_leaves.render((leaves_seed, stream, i), size)}
  return Source(_Numbered(f'dead_leaves_{split}', count), load, (size, size))


SOURCES = {
  'photos': photos,
  'folder': folder,
  'tfds': tfds,
  'digits': digits,
  'dead_leaves': _dead_leaves,
}


def options(name: str) -> tuple[str, ...]:
  """Returns the options that source `name` takes, beside the split."""
  if name not in SOURCES:
    raise unknown('data set', name, SOURCES)
  return tuple(inspect.signature(SOURCES[name]).parameters)[1:]


def get(name: str, split: str, **kwargs) -> Source:
  """Returns the images of one split of data set `name`.

  Args:
    name: one of `SOURCES`.
    split: 'train' or 'test'.
    **kwargs: options of the source (`options(name)`).

  Returns:
    A `Source`. 'train' and 'test' never share an image.

  Raises:
    CodaxError: unknown name, split or option, or an error of the source.
  """
  valid = options(name)
  if split not in SPLITS:
    raise unknown('split', split, SPLITS)
  for key in kwargs:
    if key not in valid:
      raise unknown(f'option of data set {name!r}', key, valid)
  return SOURCES[name](split, **kwargs)
