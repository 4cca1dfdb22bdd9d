"""The `codax` command: encode, decode, info, compare, models.

Every user error is one line on stderr and exit status 2. JAX is imported only when a
codec that needs it runs: `codax info` and `codax --help` answer at once.
"""

import argparse
import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import codax
from codax import bitstream, codec, families, files, image_io, pretrained, rate_control
from codax.errors import ArgumentParser, CodaxError, OutOfReach, exit_status

_MAX_FILE = 2**30
_SIGNALLED = 128  # and the number of the signal: the status, as shells report it


def main(argv: list[str] | None = None) -> int:
  """Runs the command.

  Args:
    argv: arguments without the program's name; those of the process if None.

  Returns:
    The exit status: 0, or 2 after a user error.
  """
  args = _parser().parse_args(argv)
  return exit_status(lambda: args.run(args))


def _parser() -> argparse.ArgumentParser:
  text = 'Learned image codecs whose numbers are file sizes.'
  parser = ArgumentParser(prog='codax', description=text, allow_abbrev=False)
  version = f'codax {codax.__version__}'
  parser.add_argument('--version', action='version', version=version)
  commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')

  def command(name: str, run: Callable, text: str) -> argparse.ArgumentParser:
    sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    sub.set_defaults(run=run)
    return sub

  sub = command('encode', _encode, 'compress an image')
  sub.add_argument('input', metavar='IN', help='any readable image')
  _add_output(sub, 'OUT.cdx', 'file to write (.jpg, .webp ... for the baselines)')
  text = f'one of {", ".join(families.codec_names())} (default: vqvae where --model '
  text += (
    f'is given; else overfit up to {families.DEFAULT_PIXELS:,} pixels, which takes '
  )
  text += 'minutes, and vqvae with the model of the package above, which takes seconds)'
  sub.add_argument('--codec', metavar='NAME', help=text)
  _add_model(sub)
  _add_options(sub)
  text = 'also write encoding statistics as JSON'
  sub.add_argument('--details', metavar='OUT.json', help=text)

  sub = command('decode', _decode, 'decompress a .cdx file into an image')
  sub.add_argument('input', metavar='IN.cdx')
  _add_output(sub, 'OUT.png', 'the suffix picks the format; PNG without one')
  places = f'${pretrained.MODEL_VARIABLE}, in the package and in runs/*'
  _add_model(sub, f' (default: looked for in {places})')
  text = 'decode the first N Gaussians only; `codax info` lists the valid N'
  sub.add_argument('--prefix', metavar='N', type=_whole, help=text)

  sub = command('info', _info, 'describe a .cdx file; needs no model')
  sub.add_argument('input', metavar='IN.cdx')
  sub.add_argument('--json', action='store_true', help='as one JSON object')

  sub = command('models', _models, 'list the pretrained models of the package')
  sub.add_argument('--json', action='store_true', help='as one JSON list')

  text = 'code images with several codecs into a table; the first times of a codec '
  sub = command('compare', _compare, text + 'include its compilation')
  sub.add_argument('images', metavar='IMG', nargs='+', help='images, or folders')
  text = 'names with commas between; NAME:RUN gives one its own model'
  sub.add_argument('--codecs', metavar='A,B', required=True, help=text)
  _add_model(sub)
  _add_options(sub)
  return parser


def _add_output(sub: argparse.ArgumentParser, metavar: str, text: str) -> None:
  sub.add_argument('-o', '--output', metavar=metavar, required=True, help=text)


def _add_model(sub: argparse.ArgumentParser, more: str = '') -> None:
  text = 'run directory or bundle file of a trained codec' + more
  sub.add_argument('--model', metavar='RUN_OR_BUNDLE', help=text)


def _add_options(sub: argparse.ArgumentParser) -> None:
  """Adds the flags behind `codec.Options` and those of the families."""
  text = (
    'encoding effort (default: fast for codecs that train on each image, else medium)'
  )
  sub.add_argument('--preset', choices=codec.PRESETS, help=text)
  target = sub.add_mutually_exclusive_group()
  for name, text in {
    'lmbda': 'rate weight: more is a smaller file',
    'bpp': 'bits per pixel to aim at',
    'psnr': 'PSNR to aim at, in dB',
  }.items():
    target.add_argument(f'--{name}', metavar='X', type=_positive, help=text)
  for name, (option, owners) in families.every_option().items():
    group = target if option.is_target else sub
    group.add_argument(
      '--' + name.replace('_', '-'),
      metavar='N' if option.kind is int else 'X',
      type=_number_of(option),
      help=f'({", ".join(owners)}) {option.help}: {option.low:g} to {option.high:g}',
    )
  text = 'seed of codecs that train on each image (default: 0)'
  sub.add_argument('--seed', metavar='N', type=int, default=0, help=text)
  text = "(overfit, splat) time budget in seconds; overrides the preset's steps and "
  text += 'includes rate-target corrections'
  sub.add_argument('--seconds', metavar='X', type=_positive, help=text)


def _number_of(option: codec.Option) -> Callable[[str], float]:
  """Makes argparse's converter for a family's option."""

  def convert(text: str) -> float:
    with contextlib.suppress(ValueError):
      value = option.kind(text)
      if option.low <= value <= option.high:
        return value
    kind = 'a whole number' if option.kind is int else 'a number'
    raise argparse.ArgumentTypeError(
      f'{kind} from {option.low:g} to {option.high:g} is wanted, not {text!r}'
    )

  return convert


def _positive(text: str) -> float:
  with contextlib.suppress(ValueError):
    value = float(text)
    if math.isfinite(value) and value > 0:
      return value
  raise argparse.ArgumentTypeError(f'a positive number is wanted, not {text!r}')


def _whole(text: str) -> int:
  if text.isascii() and text.isdigit() and int(text) > 0:
    return int(text)
  raise argparse.ArgumentTypeError(f'a whole number above 0 is wanted, not {text!r}')


def _options(args: argparse.Namespace) -> codec.Options:
  """Collects the flags of `_add_options`."""
  common = {n: getattr(args, n) for n in codec.Options._fields if n != 'extra'}
  extra = {name: getattr(args, name) for name in families.every_option()}
  extra = {name: value for name, value in extra.items() if value is not None}
  return codec.Options(**common, extra=extra)


# --- encode ---------------------------------------------------------------------------


def _encode(args: argparse.Namespace) -> int:
  """Compresses one picture and prints one line about it."""
  if args.codec is not None:
    _check_suffix(args.output, args.codec)
  _check_paths(args.input, args.output, args.details)
  picture = _read_picture(args.input)
  name = args.codec or _default_codec(args, picture.pixels)
  _check_suffix(args.output, name)
  made = families.get(name, model=args.model, options=_options(args))
  _announce(args, name, picture.pixels)
  with _naming(args.input), _watching(name) as (should_stop, signals):
    coded, seconds = _timed_encode(made, picture.pixels, should_stop)
  data = _with_metadata(coded.data, picture, made)
  image_io.write_file(args.output, data)
  if args.details is not None:
    image_io.write_file(args.details, files.json_text(coded.details).encode())

  h, w = picture.pixels.shape[:2]
  line = f'{args.output}: {len(data)} bytes'
  if len(data) > len(coded.data):
    line += f' ({len(data) - len(coded.data)} of them for ICC profile and orientation)'
  quality = _psnr(picture.pixels, coded.reconstruction)
  print(
    f'{line}, {8 * len(data) / (h * w):.4f} bpp, PSNR {quality:.2f} dB, '
    f'estimated {coded.estimated_bits:.0f} bits, actual {8 * len(coded.data)} '
    f'bits, {seconds:.2f} s'
  )
  for text in _misses(coded):
    _note(text)
  if coded.stop_reason == 'signal':
    _note(f'interrupted after {coded.details["steps"]} steps: the file is as good as '
          'they made it')  # fmt: skip
  return _SIGNALLED + signals[0] if signals else 0


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
  """Says which codec runs and about how long it will take, before the work."""
  seconds = families.expected_seconds(name, pixels.shape, _options(args))
  if seconds is None or seconds < 10:
    return
  height, width = pixels.shape[:2]
  text = f'{name} trains on this image of {width} x {height} pixels: about '
  print(text + f'{_duration(seconds)} on two CPU cores', file=sys.stderr)


def _duration(seconds: float) -> str:
  """Formats a time with one unit: '40 s', '7 min', '3 h'."""
  if seconds < 90:
    return f'{max(1, round(seconds))} s'
  minutes = seconds / 60
  return f'{round(minutes)} min' if minutes < 90 else f'{round(minutes / 60)} h'


def _misses(coded: codec.Encoded) -> list[str]:
  """Returns a line about the target that a file misses, if it does."""
  miss = rate_control.get_miss(coded)
  return [rate_control.explain(miss, coded.stop_reason)] if miss else []


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


def _with_metadata(
  data: bytes, picture: image_io.ImageFile, made: codec.Codec
) -> bytes:
  """Adds the ICC profile and the orientation, if there are any, to a `.cdx` file."""
  extra = []
  if picture.icc is not None:
    extra.append(bitstream.Section(bitstream.ICC, picture.icc))
  if picture.orientation != 1:
    extra.append(bitstream.Section(bitstream.ORIENTATION, bytes([picture.orientation])))
  if extra and made.suffix != '.cdx':
    _note(f'codec {made.name!r} does not carry the ICC profile and the orientation')
    return data
  return bitstream.add_sections(data, extra) if extra else data


# --- decode and info ------------------------------------------------------------------


def _decode(args: argparse.Namespace) -> None:
  """Decompresses one file and prints one line about it."""
  _check_paths(args.input, args.output)
  image_io.file_format(args.output)  # an unknown suffix fails before the work
  data = _read_cdx(args.input)
  with _naming(args.input):
    _, sections = bitstream.read(data, known=None)
    orientation = bitstream.orientation(sections)
    made = families.codec_for(data, model=args.model)
    if args.prefix is not None and made.decode_prefix is None:
      raise CodaxError(f'files of codec {made.name!r} have no prefixes')
    start = time.perf_counter()
    if args.prefix is None:
      pixels = made.decode(data)
    else:
      pixels = made.decode_prefix(data, args.prefix)
    seconds = time.perf_counter() - start
  icc = bitstream.find(sections, bitstream.ICC)
  for note in image_io.write(args.output, image_io.ImageFile(pixels, icc, orientation)):
    _note(note)
  h, w, c = pixels.shape
  kind = {1: 'grey', 3: 'RGB', 4: 'RGBA'}[c]
  print(f'{args.output}: {w} x {h} {kind}, {seconds:.2f} s')


def _info(args: argparse.Namespace) -> None:
  """Prints what a file's container says."""
  data = _read_cdx(args.input)
  with _naming(args.input):
    facts = {'file': args.input, **families.describe(data)}
  if args.json:
    print(json.dumps(facts))
    return
  width = max(map(len, facts))
  for name, value in facts.items():
    if name == 'sections':
      value = ', '.join(f'{s["name"]} ({s["bytes"]} bytes)' for s in value) or 'none'
    elif name == 'bpp':
      value = f'{value:.4f}'
    elif value is None:
      value = 'none' if name == 'bundle_id' else 'unknown'
    print(f'{name:<{width}}  {value}')


def _models(args: argparse.Namespace) -> None:
  """Prints the models that come with the package."""
  found = pretrained.models()
  if args.json:
    print(json.dumps([one._asdict() for one in found]))
    return
  for one in found:
    size = (pretrained.FOLDER / one.file).stat().st_size
    print(f'{one.name} ({one.family}, {size} bytes): {one.summary}')
    metrics = ', '.join(f'{key} {value}' for key, value in one.metrics.items())
    for label, text in {
      'trained on': one.data,
      'licence': one.licence,
      'measured': metrics,
      'made by': one.command,
      'sha256': one.sha256,
    }.items():
      if text:
        print(f'  {label:<10}  {text}')


def _read_cdx(path: str) -> bytes:
  """The bytes of a file that starts like a `.cdx` file."""
  with open(path, 'rb') as f:
    data = f.read(len(bitstream.MAGIC))
    if not bitstream.is_cdx(data):
      what = 'the file is empty' if not data else 'it does not start like one'
      raise CodaxError(f'{path}: not a .cdx file: {what}')
    data += f.read(_MAX_FILE)
  if len(data) > _MAX_FILE:
    raise CodaxError(f'{path}: over the limit of {_MAX_FILE} bytes')
  return data


# --- compare --------------------------------------------------------------------------


def _compare(args: argparse.Namespace) -> None:
  """Prints a table of images x codecs, and means over images."""
  from codax.reports import comparisons, measure

  names = [name.strip() for name in args.codecs.split(',') if name.strip()]
  if not names:
    raise CodaxError('--codecs names no codec')
  # All of them are made before any work, so that a wrong name costs no time.
  made = {}
  for name in names:
    plain, _, own_model = name.partition(':')
    owner = families.codec_family(plain)
    # --model is for codecs that need one; a model given by NAME:RUN is always passed.
    model = own_model or (args.model if owner.needs_bundle else None)
    options = families.restrict(_options(args), owner)
    made[name] = families.get(plain, model=model, options=options)
  points = [
    comparisons.Point(name, measure.DEFAULT, _with_bar(one))
    for name, one in made.items()
  ]
  images = comparisons.inputs(args.images, lambda path: _read_picture(path).pixels)
  show = lambda line: print(line, flush=True)
  add = comparisons.text_table(images, points, show)

  def each(row: measure.Row) -> None:
    add(row)
    if row.target_missed:
      _note(f'{row.image} with {row.codec}: {row.target_missed}')

  found = comparisons.measure_all(images, points, each=each)
  readable = len(images) - len(found.unreadable)
  if readable > 1:
    means = comparisons.means(found.rows, points, readable)
    for mean in means:
      add(mean._replace(image='mean'))
    averaged = {mean.codec for mean in means}
    for name in (name for name in made if name not in averaged):
      _note(f'{name} has no mean: it would be of other images than the others')
  for miss in found.missed:
    _note(f'{miss["reason"]}; left out')
  if found.unreadable:
    reasons = '; '.join(one['reason'] for one in found.unreadable)
    raise CodaxError(f'passed over: {reasons}')


# --- shared ---------------------------------------------------------------------------


def _read_picture(path: str) -> image_io.ImageFile:
  """Reads a picture and says on stderr what that lost."""
  picture = image_io.read(path)
  for note in picture.notes:
    _note(f'{path}: {note}')
  return picture


def _timed_encode(
  made: codec.Codec, pixels: np.ndarray, should_stop: codec.ShouldStop | None = None
) -> tuple[codec.Encoded, float]:
  """Encodes under a progress bar, shown only if stderr is a terminal; and seconds."""
  from tqdm import tqdm

  from codax.training import progress as progress_lib

  is_terminal, meter = sys.stderr.isatty(), None
  with tqdm(desc=made.name, leave=False, disable=not is_terminal) as bar:

    def progress(done: int, total: int) -> None:
      nonlocal meter
      bar.total = total
      bar.update(done - bar.n)
      if meter is None or done < meter.done:  # the first fit, or a correction
        meter = progress_lib.Meter(0, total, 'step')
      text = meter.advance(done - meter.done)
      if text is None and not is_terminal and meter.is_silent():
        text = meter.describe()
      if text is not None:
        bar.clear()
        print(text, file=sys.stderr, flush=True)

    start = time.perf_counter()
    coded = made.encode(pixels, progress=progress, should_stop=should_stop)
    return coded, time.perf_counter() - start


def _with_bar(made: codec.Codec) -> codec.Codec:
  """Makes a codec that encodes under a progress bar."""
  return made._replace(encode=lambda image, **_: _timed_encode(made, image)[0])


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
  from codax.metrics import distortion

  return float(distortion.psnr(a, b))


def _check_paths(source: str, *outputs: str | None) -> None:
  """Checks that outputs can be written and are no other file of the command.

  Links are followed: writing through one would destroy the file behind it.

  Raises:
    CodaxError: an output is the input or another output, is a folder, or its folder
      does not exist.
  """
  seen = {Path(source).resolve(): source}
  for path in filter(None, outputs):
    image_io.check_output(path)
    real = Path(path).resolve()
    same = next((text for other, text in seen.items() if _is_same(other, real)), None)
    if same is not None:
      raise CodaxError(f'{path} is the same file as {same}: choose another output')
    seen[real] = path


def _is_same(a: Path, b: Path) -> bool:
  """Whether two resolved paths are one file, hard links included; devices are none."""
  if a == b:
    return a.is_file() or not a.exists()
  return a.is_file() and b.is_file() and a.samefile(b)


@contextlib.contextmanager
def _naming(what: str) -> Iterator[None]:
  """Puts the file's name before the message of an error about its contents."""
  try:
    yield
  except OutOfReach as e:
    raise OutOfReach(f'{what}: {e}', e.nearest) from e
  except CodaxError as e:
    raise CodaxError(f'{what}: {e}') from e


def _note(text: str) -> None:
  print(f'note: {text}', file=sys.stderr)


if __name__ == '__main__':
  sys.exit(main())
