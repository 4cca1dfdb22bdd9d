"""Images of files and folders, looked at before the work, with names for tables."""

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from codax import codec, families, image_io
from codax.data import checks
from codax.errors import CodaxError
from codax.files import make_printable


class Input(NamedTuple):
  """One image to measure.

  Attributes:
    name: name in the tables.
    load: function without arguments that gives uint8 [H, W, 1 or 3].
    path: file of the image; None for an embedded photograph.
  """

  name: str
  load: Callable[[], np.ndarray]
  path: Path | None = None


def list_inputs(
  paths: Iterable[str | Path],
  read: Callable[[Path], np.ndarray] = lambda path: image_io.read(path).pixels,
  pass_over: checks.PassOver | None = None,
) -> list[Input]:
  """Lists images of files and folders, and reads each of them once.

  Reading takes far less time than the encoding to come, and finds what headers do not
  tell. A file that is named twice is taken once; the contents of a pipe are kept.

  Args:
    paths: image files, and folders of which every image is taken, at any depth.
    read: gives the pixels of a file, uint8 [H, W, 1 or 3].
    pass_over: called with each image that cannot be used; None refuses them all.

  Raises:
    CodaxError: files are missing, or are no images that codecs take, all named; or no
      image is left.
  """
  files, bad = _list_files(paths)
  look = functools.partial(_look, read)
  results = checks.map_in_threads(look, [path for path, _ in files])
  sound, pixels = [], {}
  for (path, parts), found in zip(files, results, strict=True):
    if isinstance(found, str):
      bad.append(checks.BadImage(make_printable('/'.join(path.parts[-parts:])), found))
      continue
    sound.append((path, parts))
    if found is not None:
      pixels[path] = found
  reasons = [one.reason for one in bad]
  if pass_over is None:
    checks.refuse(reasons, checks.FLAG_ADVICE if sound else '')
  elif not sound:
    checks.refuse(reasons, 'no image is left')
  for one in bad:
    pass_over(one)
  names = _make_names(sound)
  load = lambda path: pixels[path] if path in pixels else read(path)
  return [
    Input(name, lambda p=path: load(p), path)
    for name, (path, _) in zip(names, sound, strict=True)
  ]


def open_coded(
  paths: Iterable[str | Path],
) -> list[tuple[bytes, Callable[[bytes], np.ndarray], tuple[int, int]]]:
  """Reads `.cdx` files and decodes each once.

  Returns:
    Bytes, decoder, and height and width of each file.

  Raises:
    CodaxError: files are missing, damaged or without their model, all named.
  """
  opened, wrong = [], []
  for path in paths:
    try:
      data = Path(path).read_bytes()
      decode = families.codec_for(data).decode
      opened.append((data, decode, decode(data).shape[:2]))
    except OSError as e:
      wrong.append(f'{path}: {e.strerror}')
    except CodaxError as e:
      wrong.append(f'{path}: {e}')
  checks.refuse(wrong, what='files')
  return opened


def _list_files(
  paths: Iterable[str | Path],
) -> tuple[list[tuple[Path, int]], list[checks.BadImage]]:
  """Lists the files of paths, each once.

  Returns:
    Files with the number of last parts that name them (of a folder's images those
    below it), and paths that are missing.
  """
  from codax.data import sources

  files, bad = {}, []
  for root in map(Path, paths):
    names = ['']
    try:
      if root.is_dir():
        # Nothing is trained here, so nothing is held out: the folder's whole list.
        found = sources.get('folder', 'train', path=str(root), test_fraction=0)
        names = found.names
      elif not root.exists():
        raise CodaxError(f'{root}: no such directory or image')
    except CodaxError as e:
      bad.append(checks.BadImage(str(root), str(e)))
      continue
    for name in names:
      path = root / name
      files.setdefault(os.path.abspath(path), (path, len(Path(name).parts) or 1))
  return list(files.values()), bad


def _look(read: Callable[[Path], np.ndarray], path: Path) -> str | np.ndarray | None:
  """Returns a line that says why an image cannot be used; the pixels of a pipe."""
  try:
    if path.is_file():
      codec.check_image(image_io.read(path).pixels)
      return None
    return codec.check_image(read(path))  # there is no second time
  except CodaxError as e:
    text = str(e)
    return text if str(path) in text else f'{path}: {text}'


def _make_names(files: Sequence[tuple[Path, int]]) -> list[str]:
  """Names files by the fewest last parts of their paths that tell them apart.

  Args:
    files: paths, and the number of parts of each that is named at least.
  """
  parts = [Path(os.path.abspath(path)).parts for path, _ in files]
  counts = [count for _, count in files]
  while True:
    names = [
      make_printable('/'.join(p[-n:])) for p, n in zip(parts, counts, strict=True)
    ]
    alike = {}
    for i, name in enumerate(names):
      alike.setdefault(name, []).append(i)
    unclear = [i for group in alike.values() if len(group) > 1 for i in group]
    longer = [i for i in unclear if counts[i] < len(parts[i])]
    if not longer:
      return names
    for i in longer:
      counts[i] += 1
