"""`codax decode`: decompresses a `.cdx` file."""

import argparse
import time
from pathlib import Path

from codax import alpha, bitstream, families, image_io
from codax.cli import folder, streams
from codax.color.sections import read_sections
from codax.errors import CodaxError

_CHANNELS = {1: 'grey', 3: 'RGB'}


def run(args: argparse.Namespace) -> int | None:
  """Decompresses one file and prints one line about it; or those of a folder."""
  if Path(args.input).is_dir():
    return folder.run(args)
  streams.check_paths(args.input, args.output)
  to_stdout = streams.is_stdout(args.output)
  # an unknown suffix fails before the work
  kind = 'PNG' if to_stdout else image_io.file_format(args.output)
  data = streams.read_cdx(args.input)
  with streams.naming(args.input):
    header, sections = bitstream.read(data, known=None)
    orientation = bitstream.orientation(sections)
    color, notes = read_sections(sections, header.channels)
    has_alpha = bitstream.find(sections, bitstream.ALPHA) is not None
    if has_alpha:
      image_io.check_alpha(kind)
    made = families.codec_for(data, model=args.model)
    if args.prefix is not None and made.decode_prefix is None:
      raise CodaxError(f'files of codec {made.name!r} have no prefixes')
    if args.scale is not None and made.decode_scaled is None:
      raise CodaxError(f'files of codec {made.name!r} cannot be scaled')
    if args.scale is not None and args.prefix is not None:
      raise CodaxError('give --prefix or --scale, not both')
    start = time.perf_counter()
    if args.prefix is not None:
      pixels = made.decode_prefix(data, args.prefix)
    elif args.scale is not None:
      pixels = made.decode_scaled(data, args.scale)
    else:
      pixels = made.decode(data)
    seconds = time.perf_counter() - start
  colors, plane = alpha.separate(pixels)
  image = image_io.ImageFile(colors, color, orientation, alpha=plane)
  with streams.naming(args.output):
    out, more = image_io.format_image(image, kind)
  streams.write(args.output, out)
  for note in (*notes, *more):
    streams.note(note)
  h, w, c = image_io.turn_pixels(image, kind).pixels.shape  # as it was written
  name = streams.name_output(args.output)
  kind = _CHANNELS[c] + ' with alpha' * has_alpha
  streams.say(f'{name}: {w} x {h} {kind}, {seconds:.2f} s', args.output)
  return None


def decode_file(
  args: argparse.Namespace, path: str, kind: str
) -> tuple[bytes, tuple[str, ...]]:
  """Decodes a `.cdx` file to the bytes of an image file; returns them and notes."""
  data = streams.read_cdx(path)
  header, sections = bitstream.read(data, known=None)
  color, notes = read_sections(sections, header.channels)
  colors, plane = alpha.separate(
    families.codec_for(data, model=args.model).decode(data)
  )
  orientation = bitstream.orientation(sections)
  image = image_io.ImageFile(colors, color, orientation, alpha=plane)
  data, more = image_io.format_image(image, kind)
  return data, (*notes, *more)
