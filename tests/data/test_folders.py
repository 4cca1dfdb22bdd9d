"""Folders of images: what is listed, in which order, and what is passed over."""

import logging
import os
import unicodedata

import absl.logging
import pytest
from PIL import Image

from codax.data import folders, sources
from codax.errors import CodaxError
from codax.readers import formats

posix = pytest.mark.skipif(os.name != 'posix', reason='links and pipes of POSIX')
COMPOSED = unicodedata.normalize('NFC', 'caf\u00e9.png')
DECOMPOSED = unicodedata.normalize('NFD', COMPOSED)


def write(path, text=None):
  path.parent.mkdir(parents=True, exist_ok=True)
  if text is None:
    Image.new('RGB', (4, 4), 'red').save(path, 'PNG')
  else:
    path.write_text(text)


def without_readers(monkeypatch):
  monkeypatch.setattr(
    formats.importlib.util, 'find_spec', lambda name, package=None: None
  )


def test_images_are_listed_in_the_order_of_their_names(tmp_path):
  names = ['b/2.png', 'b.png', 'B.PNG', 'a/b/c.png', 'a/1.jfif', 'z.jpe', 'n.pnm']
  for name in names:
    write(tmp_path / name)
  listing = folders.list_images(tmp_path)
  assert listing.names == tuple(sorted(names)) and listing.passed_over == ''


def test_other_files_are_counted_by_reason_with_an_example(tmp_path, monkeypatch):
  without_readers(monkeypatch)
  for name in ('x.png', '._x.png', '.DS_Store', '.git/y.png', '.thumbs/z.jpg'):
    write(tmp_path / name)
  for name in ('b.HEIC', 'a.heic', 'c.jxl', 'DSC1.NEF', 'Thumbs.db', 'n.txt', 'README'):
    write(tmp_path / 'sub' / name, 'text')
  names, passed_over, _ = folders.list_images(tmp_path)
  assert names == ('x.png',)
  assert passed_over.split('; ') == [
    '2 .heic: no reader, pip install pillow-heif (sub/a.heic, ...)',
    '1 .jxl: no reader, pip install pillow-jxl-plugin (sub/c.jxl)',
    '1 .nef: raw data of a camera, to be developed first (sub/DSC1.NEF)',
    '4 hidden (.DS_Store, ...)',
    '1 without a suffix (sub/README)',
    '1 .db: no image (sub/Thumbs.db)',
    '1 .txt: no image (sub/n.txt)',
  ]


@pytest.mark.parametrize(
  ('name', 'is_notable'),
  [
    ('._x.png', True),
    ('x.NEF', True),
    ('.DS_Store', False),
    ('.git/x.png', False),
    ('labels.txt', False),
    ('README', False),
  ],
)
def test_note_is_worth_it_where_an_image_may_be_passed_over(tmp_path, name, is_notable):
  write(tmp_path / 'x.png')
  write(tmp_path / name, 'text')
  listing = folders.list_images(tmp_path)
  assert listing.names == ('x.png',)
  assert listing.is_notable == is_notable and listing.passed_over


def test_files_of_many_kinds_are_summed_up(tmp_path):
  for i in range(12):
    write(tmp_path / f'{i}.x{i:02}', 'text')
  passed_over = folders.list_images(tmp_path).passed_over
  assert passed_over.count(';') == 8 and passed_over.endswith('; 4 of other kinds')


def test_avif_is_passed_over_where_pillow_lacks_it(tmp_path, monkeypatch):
  write(tmp_path / 'x.avif', 'text')
  assert folders.list_images(tmp_path).names == ('x.avif',)
  monkeypatch.setattr(formats.features, 'check', lambda name: False)
  listing = folders.list_images(tmp_path)
  assert listing.names == () and 'pip install --upgrade pillow' in listing.passed_over


def test_files_with_an_installed_optional_reader_are_images(tmp_path, monkeypatch):
  write(tmp_path / 'x.heic', 'text')
  write(tmp_path / 'x.jxl', 'text')
  monkeypatch.setattr(
    formats.importlib.util, 'find_spec', lambda name, package=None: object()
  )
  assert folders.list_images(tmp_path) == (('x.heic', 'x.jxl'), '', False)


@posix
def test_links_to_folders_are_followed_without_going_round(tmp_path):
  root = tmp_path / 'root'
  for path in (root / 'real' / '1.png', tmp_path / 'outside' / 'deep' / '2.png'):
    write(path)
  (root / 'loop').symlink_to('.')
  (root / 'real' / 'up').symlink_to('..')
  (root / 'parent').symlink_to(tmp_path)
  (root / 'linked').symlink_to(tmp_path / 'outside')
  (tmp_path / 'outside' / 'back').symlink_to(root)
  (tmp_path / 'outside' / 'self').symlink_to('self')
  names, passed_over, _ = folders.list_images(root)
  assert names == ('linked/deep/2.png', 'real/1.png')
  assert passed_over.split('; ') == [
    '1 broken link (linked/self)',
    '4 links that go round (linked/back, ...)',
  ]


@posix
def test_image_of_two_names_counts_once_by_the_one_that_is_no_link(tmp_path):
  """Else one image could be trained on and held out."""
  write(tmp_path / 'm' / 'x.png')
  (tmp_path / 'a.png').symlink_to('m/x.png')
  (tmp_path / 'b').symlink_to('m')
  (tmp_path / 'c').symlink_to('m')
  write(tmp_path / 'h1.png')
  os.link(tmp_path / 'h1.png', tmp_path / 'h2.png')
  (tmp_path / 'gone.png').symlink_to('nowhere.png')
  outside = tmp_path.parent / f'{tmp_path.name} outside.png'
  write(outside)
  (tmp_path / 'alone.png').symlink_to(outside)
  names, passed_over, _ = folders.list_images(tmp_path)
  assert names == ('alone.png', 'h1.png', 'm/x.png')
  assert '1 broken link (gone.png)' in passed_over
  assert '2 links to folders that are listed already (b, ...)' in passed_over
  assert '2 other names of images (a.png, ...)' in passed_over


@posix
def test_folders_linked_twice_from_outside_count_once(tmp_path):
  write(tmp_path / 'outside' / 'x.png')
  root = tmp_path / 'root'
  root.mkdir()
  for name in ('b', 'a'):
    (root / name).symlink_to(tmp_path / 'outside')
  assert folders.list_images(root).names == ('a/x.png',)


@posix
def test_pipes_are_no_images(tmp_path):
  write(tmp_path / 'x.png')
  os.mkfifo(tmp_path / 'y.png')
  assert folders.list_images(tmp_path)[:2] == (('x.png',), '1 no regular file (y.png)')


def test_folder_that_cannot_be_opened_is_named(tmp_path, monkeypatch):
  write(tmp_path / 'x.png')
  write(tmp_path / 'locked' / 'y.png')
  scan = os.scandir

  def refuse(path):
    if os.fspath(path).endswith('locked'):
      raise PermissionError(13, 'Permission denied', os.fspath(path))
    return scan(path)

  monkeypatch.setattr(os, 'scandir', refuse)
  names, passed_over, _ = folders.list_images(tmp_path)
  assert names == ('x.png',)
  assert passed_over == '1 folder that cannot be opened (Permission denied) (locked)'
  with pytest.raises(CodaxError, match='locked: Permission denied'):
    sources.get('folder', 'train', path=str(tmp_path / 'locked'))


def test_order_does_not_depend_on_the_file_system(tmp_path, monkeypatch):
  for name in ('c.png', 'a/z.png', 'b.png', 'a/y.png'):
    write(tmp_path / name)
  wanted = folders.list_images(tmp_path)
  scan = os.scandir

  class Reversed:
    def __init__(self, path):
      with scan(path) as entries:
        self.entries = list(entries)[::-1]

    def __enter__(self):
      return iter(self.entries)

    def __exit__(self, *_):
      pass

    def close(self):
      pass

  monkeypatch.setattr(os, 'scandir', Reversed)
  assert folders.list_images(tmp_path) == wanted


def test_split_does_not_depend_on_the_spelling_of_unicode(tmp_path):
  """macOS and archives made there spell accents as letters of their own."""
  assert COMPOSED != DECOMPOSED
  assert sources.hash01(COMPOSED) == sources.hash01(DECOMPOSED)
  made = []
  for form, name in (('c', COMPOSED), ('d', DECOMPOSED)):
    for other in ('a.png', 'caff.png', 'z.png'):
      write(tmp_path / form / other)
    write(tmp_path / form / name)
    source = sources.get('folder', 'train', path=str(tmp_path / form), test_fraction=0)
    assert source[source.names.index(name)]['image'].shape == (4, 4, 3)
    made.append((source.fingerprint(), [folders.normalize(n) for n in source.names]))
  assert made[0] == made[1]


@pytest.mark.parametrize('has_log', [True, False])
def test_source_says_once_what_was_passed_over(
  tmp_path, caplog, capsys, monkeypatch, has_log
):
  without_readers(monkeypatch)
  for i in range(4):
    write(tmp_path / f'{i}.png')
  write(tmp_path / 'x.heic', 'text')
  folders.say_once.cache_clear()
  own = absl.logging.get_absl_handler()  # other tests may have put it there
  handlers = [x for x in logging.root.handlers if x is not own] + [own] * has_log
  monkeypatch.setattr(logging.root, 'handlers', handlers)
  with caplog.at_level('WARNING', logger='absl'):
    for split in ('train', 'test'):
      sources.get('folder', split, path=str(tmp_path))
  text = '1 .heic: no reader, pip install pillow-heif (x.heic)'
  lines = [record.getMessage() for record in caplog.records]
  printed = capsys.readouterr().err
  assert lines == [f'{tmp_path}: passed over: {text}'] * has_log
  if not has_log:
    assert printed == f'note: {tmp_path}: passed over: {text}\n'
  (tmp_path / 'only').mkdir()
  write(tmp_path / 'only' / 'x.heic', 'text')
  with pytest.raises(CodaxError, match='only: no image .*pip install pillow-heif'):
    sources.get('folder', 'train', path=str(tmp_path / 'only'))


def test_change_of_images_is_said_once_for_each_kind(tmp_path, capsys, monkeypatch):
  for i in range(3):
    Image.new('CMYK', (4, 4), (9, 99, 0, 0)).save(tmp_path / f'c{i}.tif')
    Image.new('P', (4, 4), 7).save(tmp_path / f'p{i}.png')
  monkeypatch.setattr(logging.root, 'handlers', [])
  folders._changes_said.clear()
  folders.say_once.cache_clear()
  source = sources.get('folder', 'train', path=str(tmp_path), test_fraction=0)
  for _ in range(2):
    assert len(list(source)) == 6
  lines = capsys.readouterr().err.splitlines()
  other = '(others of the kind are not named)'
  assert lines == [
    f'note: {tmp_path}: c0.tif: CMYK colours were turned into RGB {other}',
    f'note: {tmp_path}: p0.png: palette colours were turned into RGB {other}',
  ]
