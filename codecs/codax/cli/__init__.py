"""The `codax` command: encode, decode, info, compare, models.

Every user error is one line on stderr and exit status 2. JAX is imported only when a
codec that needs it runs: `codax info` and `codax --help` answer at once.
"""

import argparse
from collections.abc import Callable

import codax
from codax import console, families, pretrained
from codax.cli import compare, decode, encode, flags, info
from codax.errors import ArgumentParser, exit_status


@console.guard
def main(argv: list[str] | None = None) -> int:
  """Runs the command.

  Args:
    argv: arguments without the program's name; those of the process if None.

  Returns:
    The exit status: 0, 2 after a user error, or 128 and the number of a signal.
  """
  args = _parser().parse_args(argv)
  return exit_status(lambda: args.run(args))


def _parser() -> argparse.ArgumentParser:
  """Builds the parser of all commands."""
  text = 'Learned image codecs whose numbers are file sizes.'
  parser = ArgumentParser(prog='codax', description=text, allow_abbrev=False)
  version = f'codax {codax.__version__}'
  parser.add_argument('--version', action='version', version=version)
  commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')

  def command(name: str, run: Callable, text: str) -> argparse.ArgumentParser:
    sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    sub.set_defaults(run=run)
    return sub

  _add_encode(command('encode', encode.run, 'compress an image'))
  _add_decode(command('decode', decode.run, 'decompress a .cdx file into an image'))

  sub = command('info', info.run, 'describe a .cdx file; needs no model')
  flags.add_path(sub, 'input', metavar='IN.cdx', help='file to describe, - for stdin')
  sub.add_argument('--json', action='store_true', help='all facts as one JSON object')

  sub = command('models', info.run_models, 'list the pretrained models of the package')
  sub.add_argument('--json', action='store_true', help='as one JSON list')

  text = 'compress images with several codecs into a table, without --codecs at equal '
  text += 'bytes; the first times of a codec '
  sub = command('compare', compare.run, text + 'include its compilation')
  flags.add_path(sub, 'images', metavar='IMG', nargs='+', help='images, or folders')
  text = 'names with commas between; NAME:RUN gives one its own model (default: the '
  text += 'codec of `codax encode`, and JPEG, WebP and AVIF at as many bytes)'
  sub.add_argument('--codecs', metavar='A,B', help=text)
  text = 'without --codecs and of one image: also write a page with a slider'
  flags.add_path(sub, '--html', metavar='OUT.html', help=text)
  sub.set_defaults(codec=None)  # `encode.choose_codec` asks for it
  flags.add_model(sub)
  flags.add_options(sub)
  text = 'pass over images that cannot be used, and name them at the end'
  sub.add_argument('--skip-bad', action='store_true', help=text)
  return parser


def _add_encode(sub: argparse.ArgumentParser) -> None:
  """Adds the flags of `codax encode`."""
  flags.add_jobs(sub)
  text = 'any readable image, - for stdin; or a folder, and -o another'
  flags.add_path(sub, 'input', metavar='IN', help=text)
  text = 'file to write, - for stdout (.jpg, .webp ... for the baselines)'
  flags.add_path(sub, '-o', '--output', metavar='OUT.cdx', required=True, help=text)
  text = (
    f'one of {", ".join(families.codec_names())} (default: vqvae where --model is '
    f'given; else overfit up to {families.DEFAULT_PIXELS:,} pixels, which takes '
    'minutes, and vqvae with the model of the package above, which takes seconds)'
  )
  sub.add_argument('--codec', metavar='NAME', help=text)
  flags.add_model(sub)
  flags.add_options(sub)
  text = 'also write encoding statistics as JSON'
  flags.add_path(sub, '--details', metavar='OUT.json', help=text)


def _add_decode(sub: argparse.ArgumentParser) -> None:
  """Adds the flags of `codax decode`."""
  flags.add_jobs(sub)
  text = 'file to decompress, - for stdin; or a folder, and -o another'
  flags.add_path(sub, 'input', metavar='IN.cdx', help=text)
  text = 'the suffix picks the format; PNG without one; - for stdout'
  flags.add_path(sub, '-o', '--output', metavar='OUT.png', required=True, help=text)
  places = f'${pretrained.MODEL_VARIABLE}, in the package and in runs/*'
  flags.add_model(sub, f' (default: looked for in {places})')
  text = 'decode the first N Gaussians only; `codax info` lists the valid N'
  sub.add_argument('--prefix', metavar='N', type=flags.parse_count, help=text)
  text = '(splat) decode at 1, 2 or 4 times the size'
  sub.add_argument('--scale', metavar='S', type=flags.parse_count, help=text)
