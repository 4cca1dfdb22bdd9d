"""Images x codecs -> a table, a JSON file, a rate-distortion plot and BD-rates.

  python launch/evaluate.py --images=DIR --codecs=vqvae:runs/vqvae_ba,jpeg,webp
  python launch/evaluate.py --photos --codecs=jpeg,jpeg420,webp,avif

`--codecs` names codecs, a trained one with its run directory or bundle after a colon.
Baselines are measured at `--qualities`, learned codecs at `--lmbdas` (one point, the
preset's own, if not given), and all of them at `--bpps`. Every number comes from the
file, which is decoded again from its bytes and compared with the original as 8 bits.
Seconds are wall time on this machine; the first call of a learned codec compiles.

An image for which a `--bpps` target is out of reach of a codec (`codax.rate_control`)
is reported and left out; that point then has no mean, which would be of other images
than its neighbors'. A file that misses a target as the codec's scale is too coarse
stays in, and its row says so. An image that turns out to be damaged is passed over by
all codecs and named at the end, with status 2; the rows of the others are kept.

In `--out`: results.json, table.md (what is printed) and rd.png.
"""

import argparse
import pathlib
import shlex
import sys

from codax import signals

signals.guard_imports(__name__)

from codax import codec as codecs_
from codax import errors, families, files, provenance
from codax.baselines import codec as baselines
from codax.data import sources
from codax.errors import CodaxError
from codax.reports import comparisons, measure, plots, store
from codax.reports.comparisons import Input, Measured, Point
from codax.training import progress

QUALITIES = (5, 10, 20, 35, 50, 65, 80, 90, 95)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
  """Parses the command line; bad ones end here, with one line and status 2."""
  parser = errors.ArgumentParser(
    description=__doc__.splitlines()[0], allow_abbrev=False
  )

  def numbers(kind):
    def convert(text):
      return [kind(part) for part in text.split(',') if part]

    convert.__name__ = f'comma-separated {kind.__name__}'
    return convert

  which = parser.add_mutually_exclusive_group(required=True)
  which.add_argument('--images', metavar='DIR', help='directory of images, or one')
  which.add_argument(
    '--photos', action='store_true', help='the embedded held-out photographs'
  )
  add = parser.add_argument
  add('--codecs', required=True, help='NAME[:MODEL],..., for example vqvae:RUN,jpeg')
  add('--out', default='out', metavar='DIR', help='where results go (default: out)')
  add('--qualities', type=numbers(int), help='of baselines, 1..100')
  add('--lmbdas', type=numbers(float), default=[], help='of learned codecs')
  add('--bpps', type=numbers(float), default=[], help='targets for every codec')
  add('--preset', default='medium', help='fast, medium or full (default: medium)')
  add('--seed', type=int, default=0)
  add('--reference', help='anchor of BD-rate, one of --codecs (default: jpeg)')
  return parser.parse_args(argv)


def list_images(args: argparse.Namespace) -> list[Input]:
  """Lists the images, and looks at their headers."""
  if not args.photos:
    return comparisons.inputs([args.images])
  source = sources.get('photos', 'test')
  return [
    Input(name, lambda i=i: source[i]['image']) for i, name in enumerate(source.names)
  ]


def _make_points_of(spec: str, args: argparse.Namespace) -> list[Point]:
  """Makes one codec of `--codecs` at every one of its settings."""
  name, _, path = spec.partition(':')
  family = families.codec_family(name)
  options = codecs_.Options(preset=args.preset, seed=args.seed)
  codecs_.check_options(options)
  model = path or None
  if family.needs_bundle and path:
    from codax import bundle

    model = bundle.load(path)  # Once, not for every point.
  asked = [(f'lmbda {x:g}', options._replace(lmbda=x)) for x in args.lmbdas]
  found = []
  if family.kind == 'baseline':
    if path:
      raise CodaxError(f'codec {name!r} takes no model, but {spec!r} gives one')
    default = () if args.bpps else QUALITIES
    for q in args.qualities if args.qualities is not None else default:
      made = baselines.at_quality(name, q, preset=args.preset)
      found.append(Point(spec, f'q{q}', made))
    asked = []
  elif not asked and not args.bpps:
    asked = [(measure.DEFAULT, options)]
  asked += [(f'bpp {x:g}', options._replace(bpp=x)) for x in args.bpps]
  for setting, wanted in asked:
    found.append(Point(spec, setting, families.get(name, model=model, options=wanted)))
  return found


def make_points(args: argparse.Namespace) -> list[Point]:
  """Makes every codec at every one of its settings; bad names end here."""
  specs = dict.fromkeys(spec for spec in args.codecs.split(',') if spec)
  if not specs:
    raise CodaxError('--codecs names no codec')
  found = [point for spec in specs for point in _make_points_of(spec, args)]
  if not found:
    raise CodaxError('no operating point: --qualities and --bpps are empty')
  if args.reference is None:
    args.reference = 'jpeg'
  elif args.reference not in specs:
    raise errors.unknown('reference codec', args.reference, specs)
  return found


def save(
  out: pathlib.Path,
  command: str,
  reference: str,
  found: Measured,
  averages: list | None = None,
) -> dict:
  """Writes results.json and returns the BD-rates.

  Without averages it is of a run that an error ended.
  """
  is_complete, averages = averages is not None, averages or []
  bd = comparisons.bd_rates(averages, reference)
  content = {
    'command': command,
    **provenance.source(),
    'reference': reference,
    'is_complete': is_complete,
    'bd_rate': bd,
    'means': [measure.to_json(mean) for mean in averages],
    'rows': [measure.to_json(row) for row in found.rows],
    'missed': found.missed,
    'unreadable': found.unreadable,
    **({'interrupted': found.interrupted} if found.interrupted else {}),
  }
  store.save(out / 'results.json', 'comparison', content)
  return bd


def main(argv: list[str] | None = None) -> int:
  args = parse(argv)
  out = pathlib.Path(args.out).expanduser()
  words = sys.argv[1:] if argv is None else argv
  command = shlex.join(['python', 'launch/evaluate.py', *words])

  # Everything that can be wrong with the request is found before any work.
  points, images = make_points(args), list_images(args)
  out.mkdir(parents=True, exist_ok=True)

  # -------------------------------------------------------------------- Measurements
  with progress.track(
    len(images), unit='image', write=progress.print_line, is_warm=True
  ) as shown:
    # an error or a signal in the middle costs none of the rows that are finished
    kept = []

    def keep(found: Measured) -> None:
      if not found.rows:
        return  # results of an earlier run are worth more
      save(out, command, args.reference, found)
      kept.append(f'{len(found.rows)} finished rows are in {out / "results.json"}')

    with signals.explain(lambda: kept[0] if kept else 'nothing was measured'):
      found = comparisons.measure_all(
        images,
        points,
        lambda name, point: shown.describe(f'{name} {point.label} {point.setting}'),
        keep=keep,
        finish=lambda _: shown.advance(1),
      )

  # -------------------------------------------------------------------------- Results
  readable = len(images) - len(found.unreadable)
  averages = comparisons.means(found.rows, points, readable)
  bd = save(out, command, args.reference, found, averages)
  text = comparisons.markdown(found.rows, averages, bd, args.reference)
  files.write_text(out / 'table.md', text)
  curves = comparisons.mean_curves(averages)
  plot = plots.rate_distortion(curves, f'mean of {readable} images')
  files.write_bytes(out / 'rd.png', plot)
  print(text)
  for miss in found.missed:
    print(f'warning: not met: {miss["reason"]}', file=sys.stderr)
  for row in found.rows:
    where = f'{row.image} with {row.codec}'
    if row.target_missed:
      print(f'note: {where}: {row.target_missed}', file=sys.stderr)
    if not row.decoded_as_encoded:
      print(
        f'warning: {where}: decoding differs from what the encoder reported',
        file=sys.stderr,
      )
  print(f'written: {out / "results.json"}, {out / "table.md"}, {out / "rd.png"}')
  if found.unreadable:
    reasons = '; '.join(one['reason'] for one in found.unreadable)
    raise CodaxError(f'passed over: {reasons}')
  return 0


if __name__ == '__main__':
  signals.end_process(errors.exit_status(main))
