"""Kinds of files by their first bytes: optional readers, and advice where none reads.

Suffixes say little: bytes from a pipe have none, and phones name HEIC files `.jpg`.
"""

import contextlib
import functools
import importlib
import importlib.util
import struct
import warnings
from typing import NamedTuple

from PIL import features

from codax import bitstream

HEAD = 4096  # first bytes of a file that the functions here look at

# Formats that Pillow opens by running or asking another program, and ones that hold no
# image that it can read by itself.
EXCLUDED = frozenset('EPS WMF BUFR GRIB HDF5 MPEG'.split())


class OptionalReader(NamedTuple):
  """A reader of a format that Pillow itself does not have.

  Attributes:
    module: Python module that has it.
    package: package to install.
    opener: function of the module that registers it, '' if importing does.
  """

  module: str
  package: str
  opener: str = ''


OPTIONAL = {
  'JXL': OptionalReader('pillow_jxl', 'pillow-jxl-plugin'),
  'HEIF': OptionalReader('pillow_heif', 'pillow-heif', 'register_heif_opener'),
}
OPTIONAL_SUFFIXES = {'.jxl': 'JXL', '.heic': 'HEIF', '.heif': 'HEIF', '.hif': 'HEIF'}

# Kinds of files that codax does not read, and what to do.
_ADVICE = {
  'CDX': 'is a .cdx file, not an image: codax decode makes one of it',
  'EPS': 'is PostScript, which is a program and not pixels: render it to PNG first',
  'PDF': 'is a PDF document: export its page or image as PNG first',
  'SVG': 'is a vector graphic: render it to PNG first',
  'RAW': 'holds the raw data of a camera: develop it to TIFF or JPEG first',
  'EXR': 'has high dynamic range (OpenEXR): tone-map it to 8 or 16 bits first',
  'HDR': 'has high dynamic range (Radiance): tone-map it to 8 or 16 bits first',
  'VIDEO': 'is a video: export a frame as PNG first',
  'ARCHIVE': 'is an archive: unpack it first',
  'LFS': 'is a pointer of Git LFS, not the image: git lfs pull fetches it',
  'HTML': 'is a web page, not an image: the download went wrong',
  'WMF': 'is a Windows metafile: render it to PNG first',
}
_STARTS = (
  (bitstream.MAGIC, 'CDX'),
  (b'%!PS', 'EPS'),
  (b'\xc5\xd0\xd3\xc6', 'EPS'),
  (b'%PDF', 'PDF'),
  (b'FUJIFILMCCD-RAW', 'RAW'),
  (b'IIRO', 'RAW'),
  (b'IIU\0', 'RAW'),
  (b'\0MRM', 'RAW'),
  (b'\x76\x2f\x31\x01', 'EXR'),
  (b'#?RADIANCE', 'HDR'),
  (b'#?RGBE', 'HDR'),
  (b'\x1aE\xdf\xa3', 'VIDEO'),
  (b'PK\3\4', 'ARCHIVE'),
  (b'\x1f\x8b', 'ARCHIVE'),
  (b'BZh', 'ARCHIVE'),
  (b'7z\xbc\xaf', 'ARCHIVE'),
  (b'\xfd7zXZ', 'ARCHIVE'),
  (b'version https://git-lfs', 'LFS'),
  (b'\xd7\xcd\xc6\x9a', 'WMF'),
  (b'\xff\x0a', 'JXL'),
  (b'\0\0\0\x0cJXL ', 'JXL'),
  (b'\x89PNG\r\n\x1a\n', 'PNG'),
  (b'\xff\xd8\xff', 'JPEG'),
)
_BRANDS = {  # of files of boxes: the brand behind 'ftyp'
  'HEIF': (b'heic', b'heix', b'heim', b'heis', b'hevc', b'hevx', b'mif1', b'msf1'),
  'AVIF': (b'avif', b'avis'),
  'RAW': (b'crx ',),
  'VIDEO': (b'isom', b'iso2', b'mp41', b'mp42', b'qt  ', b'M4V ', b'avc1', b'3gp4'),
}


def guess(head: bytes) -> str | None:
  """Guesses the kind of a file from its first bytes.

  Args:
    head: first `HEAD` bytes of the file, or all if it has fewer.

  Returns:
    Pillow's name of the format, or a key of the advice here; None for others.
  """
  for start, kind in _STARTS:
    if head.startswith(start):
      return kind
  if head[4:8] == b'ftyp':
    # a general brand ('mif1') stands first in AVIF files too
    major = head[8:12]
    end = min(struct.unpack('>I', head[:4])[0], len(head) - 3)
    others = [head[i : i + 4] for i in range(16, end, 4)]
    if major in (b'mif1', b'msf1') and set(others) & set(_BRANDS['AVIF']):
      return 'AVIF'
    return next((k for k, brands in _BRANDS.items() if major in brands), None)
  if head[:4] in (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+'):
    return 'RAW' if head[8:10] == b'CR' else 'TIFF'
  if head[:4] == b'RIFF' and head[8:12] == b'AVI ':
    return 'VIDEO'
  text = head[:64].lstrip(b'\xef\xbb\xbf \t\r\n').lower()
  if text.startswith((b'<svg', b'<?xml')):
    return 'SVG'
  if text.startswith((b'<!doctype html', b'<html')):
    return 'HTML'
  return None


def explain_refusal(head: bytes) -> str | None:
  """Returns advice for a file that Pillow must not be asked about.

  Args:
    head: first `HEAD` bytes of the file.

  Returns:
    A predicate ('holds ...'), or None for files that may be images. Pillow takes the
    preview in the raw data of some cameras for the image, and decodes `.cdx` files
    where `codax.pillow_plugin` is imported.
  """
  if not head:
    return 'is empty (0 bytes)'
  return _ADVICE[kind] if (kind := guess(head)) in ('RAW', 'CDX') else None


def explain_unidentified(head: bytes) -> str:
  """Returns the reason why Pillow does not know a file, and advice."""
  kind = guess(head)
  if kind in _ADVICE:
    return _ADVICE[kind]
  if kind in OPTIONAL:
    return f'{kind} needs a reader that is not installed: {_command(kind)}'
  if kind == 'AVIF':
    return 'AVIF needs a newer Pillow, or the file is damaged'
  if kind == 'TIFF':
    return (
      'a TIFF file that Pillow cannot read (damaged, or of floating-point or unusual'
      ' samples): convert it to 8 or 16-bit integers, or to PNG'
    )
  if kind == 'JPEG' and (bits := _jpeg_bits(head)) not in (None, 8):
    return f'a JPEG file of {bits} bits: convert it to 8 bits, or to 16-bit PNG'
  if kind in ('PNG', 'JPEG'):
    return f'a {kind} file that is damaged or cut short at its beginning'
  return 'not an image that Pillow can read'


def _jpeg_bits(head: bytes) -> int | None:
  """Returns the bits of a sample, if the frame header is among the first bytes."""
  at = 2
  while at + 5 <= len(head) and head[at] == 0xFF:
    marker, size = head[at + 1], struct.unpack('>H', head[at + 2 : at + 4])[0]
    if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
      return head[at + 4]
    at += 2 + size
  return None


def _command(kind: str) -> str:
  return f'pip install {OPTIONAL[kind].package}'


def explain_suffix(suffix: str) -> str | None:
  """Returns the command that installs the reader of a suffix, None if it is there."""
  if suffix == '.avif' and not features.check('avif'):
    return 'pip install --upgrade pillow'
  kind = OPTIONAL_SUFFIXES.get(suffix)
  if kind is None or importlib.util.find_spec(OPTIONAL[kind].module) is not None:
    return None
  return _command(kind)


def register_for(head: bytes = b'', suffix: str = '') -> None:
  """Makes the optional reader of a file known to Pillow, if it is installed.

  Args:
    head: first `HEAD` bytes of a file to read.
    suffix: suffix of a file to write, in small letters.
  """
  kind = OPTIONAL_SUFFIXES.get(suffix) or guess(head)
  if kind in OPTIONAL:
    _register(kind)


@functools.cache
def _register(kind: str) -> None:
  """Registers an optional reader, once; without it Pillow does not know the file."""
  reader = OPTIONAL[kind]
  with contextlib.suppress(ImportError), warnings.catch_warnings():
    warnings.simplefilter('ignore')
    module = importlib.import_module(reader.module)
    if reader.opener:
      getattr(module, reader.opener)()
