"""`codax compare`: a table of images x codecs, and means over images."""

import argparse
import math

import numpy as np

from codax import codec, families, rate_control, signals
from codax.cli import encode, flags, streams
from codax.errors import CodaxError


def run(args: argparse.Namespace) -> None:
  """Prints a table of images x codecs, and means over images."""
  from codax.reports import comparisons, measure
  from codax.training import progress

  # All codecs are made before any work, so that a wrong name costs no time.
  points = [
    comparisons.Point(name, measure.DEFAULT, _with_progress(made))
    for name, made in _make_codecs(args).items()
  ]
  load = lambda path: streams.read_image(str(path)).pixels
  images = comparisons.inputs(args.images, load)
  add = comparisons.text_table(images, points, streams.say)

  def add_row(row: measure.Row) -> None:
    add(row)
    if row.target_missed:
      streams.note(f'{row.image} with {row.codec}: {row.target_missed}')

  # No bar and no signs of life but the encoders' own; the estimate is for all images.
  with progress.track(
    len(images), unit='image', every=math.inf, write=progress.print_line,
    is_warm=True, disable=True,
  ) as shown, signals.explain(lambda: _describe_interruption(kept)):  # fmt: skip
    kept: list[comparisons.Measured] = []
    measured = comparisons.measure_all(
      images,
      points,
      keep=kept.append,
      each=add_row,
      finish=lambda _: shown.advance(1),
    )
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
  if measured.unreadable:
    reasons = '; '.join(one['reason'] for one in measured.unreadable)
    raise CodaxError(f'passed over: {reasons}')


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
  _check_seconds(args, names)
  made = {}
  for name in names:
    plain, _, own_model = name.partition(':')
    owner = families.codec_family(plain)
    # --model is for codecs that need one; a model given by NAME:RUN is always passed.
    model = own_model or (args.model if owner.needs_bundle else None)
    options = families.restrict(flags.collect_options(args), owner)
    made[name] = families.get(plain, model=model, options=options)
  return made


def _check_seconds(args: argparse.Namespace, names: list[str]) -> None:
  """Says which codecs have no use for ``--seconds``.

  Raises:
    CodaxError: none has.
  """
  kinds = {name: families.codec_family(name.partition(':')[0]).kind for name in names}
  others = [name for name, kind in kinds.items() if kind != 'per_image']
  if args.seconds is None or not others:
    return
  if len(others) == len(kinds):
    raise CodaxError('--seconds is for codecs that train on each image: give one')
  streams.note(f'--seconds does not concern {", ".join(others)}')


def _with_progress(made: codec.Codec) -> codec.Codec:
  """Makes a codec that shows its progress while encoding."""

  def run(image: np.ndarray, **_) -> codec.Encoded:
    encoded, _ = encode.encode_with_progress(made, image)
    short = rate_control.explain_budget(encoded)
    if short:
      streams.note(f'{made.name}: {short}')
    return encoded

  return made._replace(encode=run)
