"""`codax compare`: a table of images x codecs, and means over images."""

import argparse
import math
from collections.abc import Sequence

import numpy as np

from codax import codec, console, families, rate_control, signals
from codax.cli import encode, flags, matched, streams
from codax.errors import CodaxError


def run(args: argparse.Namespace) -> None:
  """Prints a table of images x codecs, and means over images."""
  if args.codecs is None:
    matched.run(args)
    return
  if args.html is not None:
    raise CodaxError('--html compares at equal bytes: leave --codecs out')
  from codax.data import checks
  from codax.reports import comparisons, inputs, measure
  from codax.training import progress

  # All codecs are made before any work, so that a wrong name costs no time.
  points = [
    comparisons.Point(name, measure.DEFAULT, _with_progress(made))
    for name, made in _make_codecs(args).items()
  ]
  load = lambda path: streams.read_image(str(path)).pixels
  bad: list[checks.BadImage] = []
  pass_over = bad.append if args.skip_bad else None
  images = inputs.list_inputs(args.images, load, pass_over)
  add = comparisons.text_table(images, points, console.show)

  def add_row(row: measure.Row) -> None:
    add(row)
    for line in measure.list_notes(row):
      streams.note(line)

  # No bar and no signs of life but the encoders' own; the estimate is for all images.
  with progress.track(
    len(images), unit='image', every=math.inf, write=progress.print_line,
    is_warm=True, disable=True,
  ) as shown, signals.explain(lambda: _describe_interruption(kept)):  # fmt: skip
    kept: list[comparisons.Measured] = []
    measured = comparisons.measure_all(
      images, points, keep=kept.append, each=add_row,
      finish=lambda _: shown.advance(1), is_skipped=args.skip_bad,
    )  # fmt: skip
  readable = len(images) - len(measured.unreadable)
  if readable > 1:
    means = comparisons.means(measured.rows, points, readable)
    for mean in means:
      add(mean._replace(image='mean'))
    averaged = {mean.codec for mean in means}
    for name in (point.label for point in points if point.label not in averaged):
      streams.note(f'{name} has no mean: it would be of other images than the others')
  for miss in measured.missed:
    streams.note(f'{miss["reason"]}; left out')
  for line in comparisons.list_passed_over(measured, bad, args.skip_bad):
    streams.note(line)


def _describe_interruption(kept: list) -> str:
  """Says which measurement a signal left out of the table."""
  left_out = kept[0].interrupted if kept else {}
  if not left_out:
    return 'the table has no means'
  return (
    f'{left_out["image"]} with {left_out["codec"]} and what follows are not measured; '
    'the table has no means'
  )


def _make_codecs(args: argparse.Namespace) -> dict[str, codec.Codec]:
  """Makes the codecs of ``--codecs`` by their names there."""
  names = [name.strip() for name in args.codecs.split(',') if name.strip()]
  if not names:
    raise CodaxError('--codecs names no codec')
  owners = {name: families.codec_family(name.partition(':')[0]) for name in names}
  options = flags.collect_options(args)
  _check_options(options, args.model, list(owners.values()))
  made = {}
  for name, owner in owners.items():
    own_model = name.partition(':')[2]
    # --model is for codecs that need one; a model given by NAME:RUN is always passed.
    model = own_model or (args.model if owner.needs_bundle else None)
    made[name] = families.get(
      owner.name, model=model, options=flags.restrict(options, owner)
    )
    families.start_devices(owner.name)
  return made


def _check_options(
  options: codec.Options, model: str | None, owners: Sequence[families.Family]
) -> None:
  """Says which codecs lack an option, and refuses one that no codec of the list has."""
  wanted = {name: flags.has_option for name in flags.list_set(options)}
  if model is not None:
    wanted['model'] = lambda owner, _: owner.needs_bundle
  for name, is_known in wanted.items():
    flag = '--' + name.replace('_', '-')
    lacking = [owner.name for owner in owners if not is_known(owner, name)]
    if len(lacking) == len(owners):
      every = map(families.family, families.codec_names())
      have = ', '.join(owner.name for owner in every if is_known(owner, name))
      raise CodaxError(f'no codec of --codecs has {flag} (codecs with it: {have})')
    if lacking:
      streams.note(f'{flag} is no option of {", ".join(dict.fromkeys(lacking))}')


def _with_progress(made: codec.Codec) -> codec.Codec:
  """Makes a codec that shows its progress while encoding."""

  def run(image: np.ndarray, **_) -> codec.Encoded:
    encoded, _ = encode.encode_with_progress(made, image)
    short = rate_control.explain_budget(encoded)
    if short:
      streams.note(f'{made.name}: {short}')
    return encoded

  return made._replace(encode=run)
