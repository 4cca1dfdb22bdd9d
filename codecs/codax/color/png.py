"""Color chunks of PNG files (third edition) that Pillow neither reads nor writes."""

from typing import BinaryIO

from PIL import PngImagePlugin

from codax.color import spaces

_SIGNATURE = b'\x89PNG\r\n\x1a\n'
_MAX_CHUNKS = 1000  # before the pixels
HDR_CHUNKS = (b'mDCV', b'cLLI', b'mDCv', b'cLLi')


def read_chunks(file: BinaryIO) -> dict[bytes, bytes]:
  """Returns the small chunks before the pixels, by name, up to 64 bytes of each."""
  chunks = {}
  file.seek(0)
  if file.read(len(_SIGNATURE)) != _SIGNATURE:
    return chunks
  for _ in range(_MAX_CHUNKS):
    head = file.read(8)
    size, name = int.from_bytes(head[:4]), head[4:]
    if len(head) < 8 or name in (b'IDAT', b'IEND'):
      break
    if size <= 64 and name not in chunks:
      chunks[name] = file.read(size)
      file.seek(4, 1)
    else:
      file.seek(size + 4, 1)
  return chunks


def make_chunks(code: bytes) -> PngImagePlugin.PngInfo:
  """Makes the chunks of a named space: sRGB, or the codes of H.273 if it has any."""
  info = PngImagePlugin.PngInfo()
  if code == spaces.SRGB:
    info.add(b'sRGB', b'\0')  # perceptual
  elif named := spaces.to_h273(code):
    primaries, transfer, is_full_range = named
    info.add(b'cICP', bytes([primaries, transfer, 0, is_full_range]))
  return info
