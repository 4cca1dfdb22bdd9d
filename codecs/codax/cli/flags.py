"""Flags that several commands share, and the requests to encoders that they make."""

import argparse
import contextlib
import math
import os
from collections.abc import Callable
from typing import Any

from codax import codec, families


def add_path(sub: argparse.ArgumentParser, *names: str, **options: Any) -> None:
  """Adds an argument that is a path: ``~`` is expanded, also after a ``=``."""
  sub.add_argument(*names, type=os.path.expanduser, **options)


def add_model(sub: argparse.ArgumentParser, more: str = '') -> None:
  """Adds ``--model``; `more` ends its help."""
  text = 'run directory or bundle file of a trained codec' + more
  add_path(sub, '--model', metavar='RUN_OR_BUNDLE', help=text)


def add_jobs(sub: argparse.ArgumentParser) -> None:
  """Adds ``--jobs``."""
  text = '(folders) number of processes, each with its own memory (default: 1)'
  sub.add_argument('--jobs', metavar='N', type=parse_count, default=1, help=text)


def add_options(sub: argparse.ArgumentParser) -> None:
  """Adds the flags behind `codec.Options` and those of the families."""
  text = (
    'encoding effort (default: fast for codecs that train on each image, else medium)'
  )
  sub.add_argument('--preset', choices=codec.PRESETS, help=text)
  target = sub.add_mutually_exclusive_group()
  for name, text in {
    'lmbda': 'rate weight: more is a smaller file',
    'bpp': 'target rate in bits per pixel',
    'psnr': 'target PSNR in dB',
  }.items():
    target.add_argument(f'--{name}', metavar='X', type=parse_positive, help=text)
  text = '1 to 100: more is larger and better; each codec has its own scale'
  target.add_argument('--quality', metavar='N', type=parse_quality, help=text)
  for name, (option, owners) in families.every_option().items():
    group = target if option.is_target else sub
    if option.choices:
      text = f'({", ".join(owners)}) {option.help}'
      group.add_argument(
        '--' + name.replace('_', '-'), choices=option.choices, help=text
      )
      continue
    group.add_argument(
      '--' + name.replace('_', '-'),
      metavar='N' if option.kind is int else 'X',
      type=_make_parser_of(option),
      help=f'({", ".join(owners)}) {option.help}: {option.low:g} to {option.high:g}',
    )
  text = 'seed of codecs that train on each image (default: 0)'
  sub.add_argument('--seed', metavar='N', type=int, default=0, help=text)
  text = "(overfit, splat) time budget in seconds; overrides the preset's steps and "
  text += 'includes rate-target corrections and, as far as it fits, compilation'
  sub.add_argument('--seconds', metavar='X', type=parse_positive, help=text)


def collect_options(args: argparse.Namespace) -> codec.Options:
  """Collects the flags of `add_options`."""
  common = {n: getattr(args, n) for n in codec.Options._fields if n != 'extra'}
  extra = {name: getattr(args, name) for name in families.every_option()}
  extra = {name: value for name, value in extra.items() if value is not None}
  return codec.Options(**common, extra=extra)


def list_set(options: codec.Options) -> list[str]:
  """Lists the options that a user has set, the families' own ones included."""
  common = [name for name in codec.Options._fields if name != 'extra']
  default = codec.Options()
  changed = [n for n in common if getattr(options, n) != getattr(default, n)]
  return [*changed, *options.extra]


def has_option(owner: families.Family, name: str) -> bool:
  """Tells whether a codec has an option: one of `codec.Options` or of its family."""
  if name in ('seconds', 'seed'):  # of codecs that train while encoding
    return owner.kind == 'per_image'
  if name == 'quality':
    return owner.has_quality
  if name == 'lmbda':
    return owner.kind != 'baseline'
  return name in codec.Options._fields or name in [
    o.name for o in families.options_of(owner)
  ]


def restrict(options: codec.Options, owner: families.Family) -> codec.Options:
  """Drops options that a codec does not have, for commands that ask several at once."""
  lacking = [name for name in list_set(options) if not has_option(owner, name)]
  extra = {key: value for key, value in options.extra.items() if key not in lacking}
  default = codec.Options()
  dropped = {n: getattr(default, n) for n in lacking if n in codec.Options._fields}
  return options._replace(extra=extra, **dropped)


def parse_positive(text: str) -> float:
  """Parses a positive number."""
  with contextlib.suppress(ValueError):
    value = float(text)
    if math.isfinite(value) and value > 0:
      return value
  raise argparse.ArgumentTypeError(f'a positive number is wanted, not {text!r}')


def parse_quality(text: str) -> int:
  """Parses a quality, 1 to 100."""
  if text.isascii() and text.isdigit() and 1 <= int(text) <= 100:
    return int(text)
  raise argparse.ArgumentTypeError(
    f'a whole number from 1 to 100 is wanted, not {text!r}'
  )


def parse_count(text: str) -> int:
  """Parses a whole number above 0."""
  if text.isascii() and text.isdigit() and int(text) > 0:
    return int(text)
  raise argparse.ArgumentTypeError(f'a whole number above 0 is wanted, not {text!r}')


def _make_parser_of(option: codec.Option) -> Callable[[str], float]:
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
