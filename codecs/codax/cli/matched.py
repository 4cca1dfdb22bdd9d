"""`codax compare` without codecs: the default codec and its rivals at equal bytes."""

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from codax import codec, console, families, image_io, rate_control
from codax.baselines import codec as baselines
from codax.cli import encode, flags, streams
from codax.errors import CodaxError

RIVALS = ('jpeg', 'webp', 'avif')


class _Trial(NamedTuple):
  """One file of an image.

  Attributes:
    row: `measure.Row`.
    pixels: uint8 [H, W, C], decoded.
  """

  row: object
  pixels: np.ndarray


def run(args: argparse.Namespace) -> None:
  """Prints a table of the default codec beside rivals, and may write a page of it.

  Raises:
    CodaxError: bad images, or a page of several.
  """
  from codax.data import checks
  from codax.reports import comparisons, inputs, measure

  if args.html is not None:
    _check_page(args)
  seen: dict[str, image_io.ImageFile] = {}  # of the page

  def load(path: Path) -> np.ndarray:
    image = streams.read_image(str(path))
    if args.html is not None:
      seen[str(path)] = image
    return image.pixels

  bad: list[checks.BadImage] = []
  images = inputs.list_inputs(args.images, load, bad.append if args.skip_bad else None)
  if args.html is not None and len(images) > 1:
    raise CodaxError(f'--html is for one image, not for {len(images)}')
  every = [comparisons.Point(name, '', None) for name in families.codec_names()]
  add = comparisons.text_table(images, every, console.show)
  rows: dict[str, list] = {}
  for image in images:
    trials = _measure_image(args, image.name, image.load(), add)
    for row in (trial.row for trial in trials):
      rows.setdefault(row.codec, []).append(row)
  for group in rows.values() if len(images) > 1 else ():
    if len(group) == len(images):
      add(measure.mean(group)._replace(image='mean'))
  for one in bad:
    streams.note(f'passed over: {one.reason}')
  if args.html is not None:
    _write_page(args.html, images[0].name, next(iter(seen.values())), trials)


def _check_page(args: argparse.Namespace) -> None:
  """Checks before the work that a page can be written."""
  if streams.is_stdout(args.html):
    raise CodaxError('--html names a file: standard output has the table')
  streams.check_paths(args.images[0], args.html)


def _measure_image(
  args: argparse.Namespace, name: str, pixels: np.ndarray, add
) -> list[_Trial]:
  """Measures the files of an image, each with a line of the table."""
  chosen = encode.choose_codec(args, pixels)
  made = families.get(chosen, model=args.model, options=flags.collect_options(args))
  families.start_devices(chosen)
  encode.announce(args, chosen, pixels)
  with streams.naming(name):
    encoded, seconds = encode.encode_with_progress(made, pixels)
  trials = [_judge(made, name, 'default', pixels, encoded, seconds)]
  add(trials[0].row)
  _say_notes(trials[0].row)
  size = len(encoded.data)
  available = baselines.list_available()
  for rival in RIVALS:
    if rival not in available:
      streams.note(f'{rival} is left out: it is not in this Pillow')
      continue
    quality = baselines.encode_nearest_size(pixels, rival, size).details['quality']
    other = baselines.at_quality(rival, quality)
    start = time.perf_counter()
    encoded = other.encode(pixels)
    seconds = time.perf_counter() - start
    trials.append(_judge(other, name, f'q{quality}', pixels, encoded, seconds))
    add(trials[-1].row)
    if abs(len(encoded.data) / size - 1) > rate_control.BPP_TOLERANCE:
      streams.note(
        f'{name} with {rival}: {len(encoded.data)} bytes are its nearest to {size}'
      )
  return trials


def _judge(
  made: codec.Codec,
  name: str,
  point: str,
  pixels: np.ndarray,
  encoded: codec.Encoded,
  seconds: float,
) -> _Trial:
  """Decodes a file and measures it."""
  from codax.reports import measure

  start = time.perf_counter()
  decoded = baselines.match_channels(made.decode(encoded.data), pixels.shape[-1])
  times = seconds, time.perf_counter() - start
  row = measure.row_of(name, made.name, point, pixels, encoded, decoded, times)
  return _Trial(row, decoded)


def _say_notes(row) -> None:
  """Says what is not as it should be about a file."""
  from codax.reports import measure

  for line in measure.list_notes(row):
    streams.note(line)


def _write_page(
  path: str, name: str, image: image_io.ImageFile, trials: list[_Trial]
) -> None:
  """Writes the page: PNG files of the pixels, with the image's own colors."""
  from codax.reports import slider_page

  def to_png(pixels: np.ndarray) -> bytes:
    shown = image_io.ImageFile(pixels, image.color, image.orientation)
    return image_io.format_image(shown, 'PNG')[0]

  entries = [
    slider_page.Entry(
      _name(t.row), t.row.bytes, t.row.bpp, t.row.psnr, to_png(t.pixels)
    )
    for t in trials
  ]
  text = slider_page.make_page(name, to_png(image.pixels), entries)
  streams.write(path, text.encode('utf-8', 'backslashreplace'))
  streams.say(f'{streams.name_output(path)}: a page with {len(entries)} files', path)


def _name(row) -> str:
  """Names a codec with its quality, 'jpeg, quality 30'."""
  is_baseline = row.point.startswith('q')
  return f'{row.codec}, quality {row.point[1:]}' if is_baseline else row.codec
