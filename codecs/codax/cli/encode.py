"""`codax encode`: compresses an image."""

import argparse
import contextlib
import time
from pathlib import Path

import numpy as np

from codax import (
  alpha,
  bitstream,
  codec,
  families,
  files,
  image_io,
  rate_control,
  signals,
)
from codax.cli import flags, folder, streams
from codax.color import sections
from codax.errors import CodaxError
from codax.metrics import distortion

_ADVICE = 'try a lower --lmbda, or --psnr'
# Words behind 'stopping: ' where a file of the steps so far can be written.
_ANSWER = 'a file of the steps so far is written; again: no file'


def run(args: argparse.Namespace) -> int | None:
  """Compresses one image and prints one line about it; or those of a folder."""
  if Path(args.input).is_dir():
    return folder.run(args)
  if args.codec is not None:
    _check_suffix(args.output, args.codec)
  streams.check_paths(args.input, args.output, args.details)
  keep_alpha = args.codec is None or families.keeps_alpha(args.codec)
  image = streams.read_image(args.input, keep_alpha=keep_alpha)
  pixels = alpha.join(image.pixels, image.alpha)
  name = args.codec or choose_codec(args, image.pixels)
  _check_suffix(args.output, name)
  made = families.get(name, model=args.model, options=flags.collect_options(args))
  families.start_devices(name)
  announce(args, name, image.pixels)
  keeps_file = families.codec_family(name).kind == 'per_image'
  with streams.naming(args.input), signals.explain('no file was written'):
    encoded, seconds = encode_with_progress(made, pixels, keeps_file)
  data = add_metadata(encoded.data, image, made)
  streams.write(args.output, data)
  colors, _ = alpha.split(pixels)  # what was coded, without alpha
  encoded = encoded._replace(
    reconstruction=encoded.reconstruction[..., : colors.shape[2]]
  )
  gain = distortion.psnr_above_one_color(colors, encoded.reconstruction)
  if args.details is not None:
    details = {'estimated_bits': encoded.estimated_bits, **encoded.details}
    details['psnr_above_one_color'] = gain
    streams.write(args.details, files.json_text(details).encode())
  _summarize(args, colors, data, encoded, seconds)
  for text in find_notes(encoded, gain):
    streams.note(text)
  return None


def encode_with_progress(
  made: codec.Codec, pixels: np.ndarray, keeps_file: bool = False
) -> tuple[codec.Encoded, float]:
  """Encodes under a progress bar, or with lines where there is no terminal.

  Args:
    made: codec.
    pixels: uint8 [H, W, C].
    keeps_file: whether a signal ends the encoding with the file of the steps so far,
      once there are some; else, and before, it ends the command.

  Returns:
    The file, and the seconds that it took.
  """
  from codax.training import progress

  start = time.perf_counter()
  watches: list[codec.ShouldStop] = []
  with (
    contextlib.ExitStack() as stack,
    progress.track(
      None, write=progress.print_line, desc=made.name, leave=False
    ) as shown,
  ):  # fmt: skip

    def update(done: int, total: int) -> None:
      if keeps_file and not watches:
        watches.append(stack.enter_context(signals.postpone(_ANSWER)))
      shown.update(done, total)

    def should_stop() -> codec.StopReason:
      return watches[0]() if watches else None

    encoded = made.encode(pixels, progress=update, should_stop=should_stop)
    should_stop()  # a signal in its last moments leaves the file as well
    return encoded, time.perf_counter() - start


def _check_suffix(output: str, name: str) -> None:
  """Raises `CodaxError` if a codec does not write files with this suffix."""
  suffixes = families.codec_family(name).suffixes
  suffix = Path(output).suffix.lower()
  if suffix and suffix not in suffixes:
    raise CodaxError(
      f'{output}: codec {name!r} writes {" or ".join(suffixes)} files, not {suffix}'
    )


def choose_codec(args: argparse.Namespace, pixels: np.ndarray) -> str:
  """Chooses the codec for an image where the user named none."""
  if args.model is not None:
    return 'vqvae'
  for name, (_, owners) in families.every_option().items():
    if getattr(args, name) is not None:
      return owners[0]
  if args.seconds is not None:
    return 'overfit'
  return families.default_codec(pixels.shape[0] * pixels.shape[1])


def announce(args: argparse.Namespace, name: str, pixels: np.ndarray) -> None:
  """Says which codec runs and its expected time, before the work."""
  options = flags.collect_options(args)
  seconds = families.expected_seconds(name, pixels.shape, options)
  start = families.startup_seconds(name, options)
  if seconds is None or max(seconds, start) < 10:
    return
  from codax.training import progress

  height, width = pixels.shape[:2]
  verb = 'trains on' if families.family(name).kind == 'per_image' else 'encodes'
  text = f'{name} {verb} this image of {width} x {height} pixels: about '
  text += f'{progress.duration(max(seconds, start))} on two CPU cores'
  if seconds < start:
    text += f' ({seconds:g} s are too few: compiling takes longer)'
  progress.print_line(text)


def add_metadata(data: bytes, image: image_io.ImageFile, made: codec.Codec) -> bytes:
  """Adds the color space and the orientation, if they need it, to a `.cdx` file."""
  extra = sections.make_sections(image.color)
  extra += bitstream.orientation_sections(image.orientation)
  if extra and made.suffix != codec.SUFFIX:
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
  parts = {
    'alpha': alpha.count_bytes(data),
    'color space and orientation': len(data) - len(encoded.data),
  }
  if more := [f'{count} of them for {what}' for what, count in parts.items() if count]:
    line += f' ({", ".join(more)})'
  bpp = 8 * len(data) / (pixels.shape[0] * pixels.shape[1])
  psnr = distortion.psnr(pixels, encoded.reconstruction)
  line += f', {bpp:.4f} bpp, PSNR {psnr:.2f} dB, {seconds:.2f} s'
  streams.say(line, args.output, args.details)


def find_notes(encoded: codec.Encoded, gain: float | None) -> list[str]:
  """Finds sentences for the user about a file that is not all it could be."""
  notes = []
  miss = rate_control.get_miss(encoded)
  if miss:
    notes.append(rate_control.explain(miss, encoded.stop_reason))
  short = rate_control.explain_budget(encoded)
  if short:
    notes.append(short)
  if encoded.stop_reason == 'signal':
    notes.append(
      f'interrupted after {encoded.details["steps"]} steps: the file is as good as '
      'they made it'
    )
  if text := distortion.explain_gain(gain, _ADVICE):
    notes.append(text)
  return notes
