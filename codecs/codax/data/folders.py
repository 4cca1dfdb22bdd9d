"""Images of a folder at any depth, and what else lies there.

Links to folders are followed, without going round, and no file counts twice: an image
that is reached by two names could be trained on and held out. The order and the split
of the images depend on their names alone, not on the file system.
"""

import collections
import functools
import logging as python_logging
import os
import stat
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from absl import logging

from codax import console
from codax.errors import CodaxError
from codax.readers import formats

SUFFIXES = frozenset(
  '.png .apng .jpg .jpeg .jpe .jfif .webp .bmp .dib .tif .tiff .ppm .pgm .pbm .pnm'
  ' .avif .gif .jp2 .j2k .jpf .tga .qoi'.split()
)
# Suffixes of camera files, for the note: they hold no finished image.
_RAW = frozenset('.3fr .arw .cr2 .cr3 .dng .nef .nrw .orf .pef .raf .rw2 .srw'.split())
_MAX_GROUPS = 8
_PLURALS = {
  'broken link': 'broken links',
  'link that goes round': 'links that go round',
  'link to a folder that is listed': 'links to folders that are listed',
  'folder that': 'folders that',
  'that is listed already': 'that are listed already',
  'other name of an image': 'other names of images',
  'no regular file': 'no regular files',
}


class Listing(NamedTuple):
  """Images of a folder.

  Attributes:
    names: paths below the folder, with ``/``, sorted.
    passed_over: number and reason of all other files and links with an example of each
      kind, one line; '' if there are none.
    is_notable: whether an image may be among these, or a whole folder. Texts and labels
      beside images are not worth a note.
  """

  names: tuple[str, ...]
  passed_over: str = ''
  is_notable: bool = False


class _Walk(NamedTuple):
  """State of a walk through a folder.

  Attributes:
    root: the folder.
    images: output: name of each image by its device and number.
    folders: device and number of each folder listed.
    links: names of links that are still to be followed.
    others: output: names of what is passed over, by reason.
  """

  root: Path
  images: dict[tuple, str]
  folders: set[tuple[int, int]]
  links: collections.deque
  others: dict[str, list[str]]


def normalize(name: str) -> str:
  """Returns a name in composed Unicode (NFC): systems spell one name in two ways."""
  return unicodedata.normalize('NFC', name)


def list_images(root: str | os.PathLike) -> Listing:
  """Lists the images of a folder at any depth.

  Hidden files (``.x``), files of other kinds, and those without an installed reader
  are passed over. Real folders come before links to them, so that an image with two
  names keeps the one that is no link.

  Raises:
    CodaxError: the folder cannot be opened.
  """
  walk = _Walk(
    Path(root), {}, set(), collections.deque(), collections.defaultdict(list)
  )
  try:
    os.scandir(walk.root).close()
  except OSError as e:
    raise CodaxError(f'{root}: {e.strerror}') from e
  _list_folder(walk, '')
  while walk.links:
    _follow(walk, walk.links.popleft())
  names = tuple(sorted(walk.images.values(), key=lambda name: (normalize(name), name)))
  is_notable = any(_may_be_image(reason, x) for reason, x in walk.others.items())
  return Listing(names, _describe(walk.others), is_notable)


def _list_folder(walk: _Walk, top: str) -> None:
  """Lists a folder, given by its name below the root, and all real folders in it."""
  waiting = [top]
  while waiting:
    name = waiting.pop()
    path = walk.root / name
    try:
      facts = path.stat()
      with os.scandir(path) as entries:
        inside = sorted(entries, key=lambda entry: (normalize(entry.name), entry.name))
    except OSError as e:
      walk.others[f'folder that cannot be opened ({e.strerror})'].append(name)
      continue
    key = facts.st_dev, facts.st_ino
    if key in walk.folders:
      walk.others['folder that is listed already'].append(name)
      continue
    walk.folders.add(key)
    waiting += reversed(list(_list_entries(walk, name, facts.st_dev, inside)))


def _list_entries(
  walk: _Walk, folder: str, device: int, entries: list[os.DirEntry]
) -> Iterator[str]:
  """Notes the files and links of a folder; yields the names of folders in it."""
  for entry in entries:
    name = f'{folder}/{entry.name}' if folder else entry.name
    if entry.name.startswith('.'):
      walk.others['hidden'].append(name)
    elif entry.is_symlink():
      walk.links.append(name)
    elif entry.is_dir(follow_symlinks=False):
      yield name
    elif entry.is_file(follow_symlinks=False):
      _add_file(walk, name, (device, entry.inode()))
    else:
      walk.others['no regular file'].append(name)


def _add_file(walk: _Walk, name: str, key: tuple[int, int]) -> None:
  """Adds a file to the images, or to what is passed over."""
  suffix = os.path.splitext(name)[1].lower()
  reason = _explain_suffix(suffix)
  if key[1] == 0:  # a file system that numbers no files
    key = (*key, name)
  if reason is not None:
    walk.others[reason].append(name)
  elif key in walk.images:
    walk.others['other name of an image'].append(name)
  else:
    walk.images[key] = name


def _follow(walk: _Walk, name: str) -> None:
  """Follows a link to a file, or to a folder that is not listed yet."""
  path = walk.root / name
  try:
    facts = path.stat()
  except OSError:
    walk.others['broken link'].append(name)
    return
  key = facts.st_dev, facts.st_ino
  if stat.S_ISREG(facts.st_mode):
    _add_file(walk, name, key)
  elif not stat.S_ISDIR(facts.st_mode):
    walk.others['no regular file'].append(name)
  elif walk.root.resolve().is_relative_to(path.resolve()):
    walk.others['link that goes round'].append(name)
  elif key in walk.folders:
    walk.others['link to a folder that is listed already'].append(name)
  else:
    _list_folder(walk, name)


def _explain_suffix(suffix: str) -> str | None:
  """Returns the reason to pass over files with a suffix; None for images."""
  if suffix in _RAW:
    return f'{suffix}: raw data of a camera, to be developed first'
  command = formats.explain_suffix(suffix)
  if command is not None:
    return f'{suffix}: no reader, {command}'
  if suffix in SUFFIXES or suffix in formats.OPTIONAL_SUFFIXES:
    return None
  return f'{suffix}: no image' if suffix else 'without a suffix'


def _may_be_image(reason: str, names: list[str]) -> bool:
  """Tells whether there may be an image among the names passed over for a reason."""
  if reason == 'hidden':
    return any(os.path.splitext(name)[1].lower() in SUFFIXES for name in names)
  return not reason.endswith(('no image', 'without a suffix'))


def _describe(others: dict[str, list[str]]) -> str:
  """Describes what was passed over: number, reason and an example of each kind."""
  ranked = sorted(others.items(), key=lambda item: ('no image' in item[0], item[0]))
  parts = []
  for reason, names in ranked[:_MAX_GROUPS]:
    example = min(names)
    if len(names) > 1:
      example += ', ...'
      for one, many in _PLURALS.items():
        reason = reason.replace(one, many)
    parts.append(f'{len(names)} {reason} ({example})')
  rest = sum(len(names) for _, names in ranked[_MAX_GROUPS:])
  if rest:
    parts.append(f'{rest} of other kinds')
  return '; '.join(parts)


# --- Notes ----------------------------------------------------------------------------


@functools.cache
def say_once(text: str) -> None:
  """Writes a line to the log, or to stderr in commands that have none.

  The other split of a folder has the same to say.
  """
  if logging.get_absl_handler() in python_logging.root.handlers:
    logging.warning('%s', text)
  elif sys.stderr is not None:
    console.say(f'note: {text}', sys.stderr)


_changes_said: set[tuple[str, str]] = set()


def say_change(path: str, name: str, note: str) -> None:
  """Says how an image was changed, for the first image of a folder with this change."""
  kind = ''.join('0' if c.isdigit() else c for c in note)
  if (path, kind) not in _changes_said:
    _changes_said.add((path, kind))
    say_once(f'{path}: {name}: {note} (others of the kind are not named)')
