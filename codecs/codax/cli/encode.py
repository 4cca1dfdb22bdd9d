"""`codax encode`: compresses an image."""

import argparse
import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from codax import bitstream, codec, families, files, image_io, rate_control
from codax.cli import flags, streams
from codax.color import sections
from codax.errors import CodaxError
from codax.metrics import distortion

_SIGNALLED = 128  # and the number of the signal: the status, as shells report it
_ADVICE = 'try a lower --lmbda, or --psnr'


def run(args: argparse.Namespace) -> int:
  """Compresses one image and prints one line about it."""
  if args.codec is not None:
    _check_suffix(args.output, args.codec)
  streams.check_paths(args.input, args.output, args.details)
  image = streams.read_image(args.input)
  name = args.codec or _default_codec(args, image.pixels)
  _check_suffix(args.output, name)
  made = families.get(name, model=args.model, options=flags.collect_options(args))
  families.start_devices(name)
  _announce(args, name, image.pixels)
  with streams.naming(args.input), _watching(name) as (should_stop, signals):
    encoded, seconds = encode_with_progress(made, image.pixels, should_stop)
  data = _add_metadata(encoded.data, image, made)
  streams.write(args.output, data)
  gain = distortion.psnr_above_one_color(image.pixels, encoded.reconstruction)
  if args.details is not None:
    details = {'estimated_bits': encoded.estimated_bits, **encoded.details}
    details['psnr_above_one_color'] = gain
    streams.write(args.details, files.json_text(details).encode())
  _summarize(args, image.pixels, data, encoded, seconds)
  for text in _find_notes(encoded, gain):
    streams.note(text)
  return _SIGNALLED + signals[0] if signals else 0


def encode_with_progress(
  made: codec.Codec, pixels: np.ndarray, should_stop: codec.ShouldStop | None = None
) -> tuple[codec.Encoded, float]:
  """Encodes under a progress bar, or with lines where there is no terminal.

  Returns:
    The file, and the seconds that it took.
  """
  from codax.training import progress

  start = time.perf_counter()
  with progress.track(
    None, write=progress.print_line, desc=made.name, leave=False
  ) as shown:
    encoded = made.encode(pixels, progress=shown.update, should_stop=should_stop)
    return encoded, time.perf_counter() - start


def _check_suffix(output: str, name: str) -> None:
  """Raises `CodaxError` if a codec does not write files with this suffix."""
  suffixes = families.codec_family(name).suffixes
  suffix = Path(output).suffix.lower()
  if suffix and suffix not in suffixes:
    raise CodaxError(
      f'{output}: codec {name!r} writes {" or ".join(suffixes)} files, not {suffix}'
    )


def _default_codec(args: argparse.Namespace, pixels: np.ndarray) -> str:
  """Chooses the codec for an image where the user named none."""
  if args.model is not None:
    return 'vqvae'
  for name, (_, owners) in families.every_option().items():
    if getattr(args, name) is not None:
      return owners[0]
  if args.seconds is not None:
    return 'overfit'
  return families.default_codec(pixels.shape[0] * pixels.shape[1])


def _announce(args: argparse.Namespace, name: str, pixels: np.ndarray) -> None:
  """Says which codec runs and its expected time, before the work."""
  options = flags.collect_options(args)
  seconds = families.expected_seconds(name, pixels.shape, options)
  if seconds is None or seconds < 10:
    return
  from codax.training import progress

  height, width = pixels.shape[:2]
  verb = 'trains on' if families.family(name).kind == 'per_image' else 'encodes'
  text = f'{name} {verb} this image of {width} x {height} pixels: about '
  progress.print_line(text + f'{progress.duration(seconds)} on two CPU cores')


@contextlib.contextmanager
def _watching(name: str) -> Iterator[tuple[codec.ShouldStop | None, list[int]]]:
  """Lets a first signal end the training of a codec that trains while encoding.

  Yields:
    The function that says when to stop, None for other codecs, which a signal ends at
    once; and a list that gets the number of the signal.
  """
  signals = []

  def announce(number: int) -> None:
    signals.append(number)
    with contextlib.suppress(OSError):
      os.write(2, b'\nstopping; press again to end without a file\n')

  if families.codec_family(name).kind != 'per_image':
    yield None, signals
    return
  from codax.training import stopping

  with stopping.watch(0.0, announce) as should_stop:
    yield should_stop, signals


def _add_metadata(data: bytes, image: image_io.ImageFile, made: codec.Codec) -> bytes:
  """Adds the color space and the orientation, if they need it, to a `.cdx` file."""
  extra = sections.make_sections(image.color)
  if image.orientation != 1:
    extra.append(bitstream.Section(bitstream.ORIENTATION, bytes([image.orientation])))
  if extra and made.suffix != '.cdx':
    streams.note(
      f'codec {made.name!r} does not carry the color space and the orientation'
    )
    return data
  return bitstream.add_sections(data, extra) if extra else data


def _summarize(
  args: argparse.Namespace,
  pixels: np.ndarray,
  data: bytes,
  encoded: codec.Encoded,
  seconds: float,
) -> None:
  """Prints bytes, bits per pixel, PSNR and time of a file."""
  line = f'{streams.name_output(args.output)}: {len(data)} bytes'
  more = len(data) - len(encoded.data)
  if more:
    line += f' ({more} of them for color space and orientation)'
  bpp = 8 * len(data) / (pixels.shape[0] * pixels.shape[1])
  psnr = distortion.psnr(pixels, encoded.reconstruction)
  line += f', {bpp:.4f} bpp, PSNR {psnr:.2f} dB, {seconds:.2f} s'
  streams.say(line, args.output, args.details)


def _find_notes(encoded: codec.Encoded, gain: float | None) -> list[str]:
  """Finds sentences for the user about a file that is not all it could be."""
  notes = []
  miss = rate_control.get_miss(encoded)
  if miss:
    notes.append(rate_control.explain(miss, encoded.stop_reason))
  if encoded.stop_reason == 'signal':
    notes.append(
      f'interrupted after {encoded.details["steps"]} steps: the file is as good as '
      'they made it'
    )
  if text := distortion.explain_gain(gain, _ADVICE):
    notes.append(text)
  return notes
