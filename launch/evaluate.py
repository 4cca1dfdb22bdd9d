"""Images x codecs -> a table, a JSON file, a rate-distortion plot and BD-rates.

  python launch/evaluate.py --images=DIR --codecs=vqvae:runs/vqvae_ba,jpeg,webp
  python launch/evaluate.py --photos --codecs=jpeg,jpeg420,webp,avif
  python launch/evaluate.py --probe=runs/rapid_kan --codecs=vae:runs/vae,jpeg,webp

`--codecs` names codecs, a trained one with its run directory or bundle after a colon.
Baselines are measured at `--qualities`, learned codecs at `--lmbdas` (one point, the
preset's own, if not given), and all of them at `--bpps`. Every number comes from the
file, which is decoded again from its bytes and compared with the original as 8 bits.
Seconds are wall time on this machine; the first call of a learned codec compiles.

`--probe` takes the held-out images of a classifier's run (`--count` of them), tiled
into mosaics of 16 x 16, and adds the share of the decoded tiles that it recognizes.

An image for which a `--bpps` target is out of reach of a codec (`codax.rate_control`)
is reported and left out; that point then has no mean, which would be of other images
than its neighbors'. A file that misses a target as the codec's scale is too coarse
stays in, and its row says so.

All images are read before the work. Bad ones refuse it, all named at once; `--skip-bad`
passes over them, and over an image that an encoder refuses, and names them at the end.
An image that is damaged while the work goes on is passed over by all codecs and named
at the end, with status 2. An interrupted run keeps its finished rows, marked in
results.json by `is_complete`: the same command takes them up, for images that are still
the same.

In `--out`: results.json, table.md (what is printed), rd.png and, with a probe,
accuracy.png.
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

from codax import signals

signals.guard_imports(__name__)

from codax import codec as codecs_
from codax import console, errors, families, files, provenance
from codax.baselines import codec as baselines
from codax.data import checks, sources
from codax.errors import CodaxError
from codax.reports import (
  comparisons,
  held_out,
  inputs,
  measure,
  plots,
  probing,
  resuming,
  store,
)
from codax.reports.comparisons import Measured, Point
from codax.reports.inputs import Input
from codax.training import progress

QUALITIES = (5, 10, 20, 35, 50, 65, 80, 90, 95)
PROBE_COUNT = 1024
SAVE_EVERY = 10.0  # seconds between two savings of the rows so far, at least


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
  which.add_argument(
    '--images',
    type=os.path.expanduser,
    metavar='DIR',
    help='directory of images, or one',
  )
  which.add_argument(
    '--photos', action='store_true', help='the embedded held-out photographs'
  )
  which.add_argument('--probe', metavar='RUN', help='run directory of a classifier')
  add = parser.add_argument
  add('--count', type=int, help=f'of images with --probe (default: {PROBE_COUNT})')
  add('--codecs', required=True, help='NAME[:MODEL],..., for example vqvae:RUN,jpeg')
  add('--out', default='out', metavar='DIR', help='where results go (default: out)')
  add('--qualities', type=numbers(int), help='of baselines, 1..100')
  add('--lmbdas', type=numbers(float), default=[], help='of learned codecs')
  add('--bpps', type=numbers(float), default=[], help='targets for every codec')
  add('--preset', default='medium', help='fast, medium or full (default: medium)')
  add('--seed', type=int, default=0)
  add('--reference', help='anchor of BD-rate, one of --codecs (default: jpeg)')
  text = 'pass over images that cannot be used, and name them at the end'
  add('--skip-bad', action='store_true', help=text)
  return parser.parse_args(argv)


def list_images(
  args: argparse.Namespace, bad: list[checks.BadImage] | None = None
) -> list[Input]:
  """Lists the images and reads each once; bad ones go to `bad` with `--skip-bad`."""
  if not args.photos:
    pass_over = bad.append if args.skip_bad and bad is not None else None
    return inputs.list_inputs([args.images], pass_over=pass_over)
  source = sources.get('photos', 'test')
  load = lambda i: checks.read_image(source, i)['image']
  return [Input(name, lambda i=i: load(i)) for i, name in enumerate(source.names)]


def make_probe(args: argparse.Namespace) -> probing.Probe | None:
  """Makes the classifier that judges, if one is asked for.

  Raises:
    CodaxError: no classifier, or `--count` without one.
  """
  if args.probe:
    return probing.make(args.probe, PROBE_COUNT if args.count is None else args.count)
  if args.count is not None:
    raise CodaxError('--count is for --probe: all images of a comparison are measured')
  return None


def list_specs(args: argparse.Namespace) -> list[str]:
  """Lists the names in `--codecs`, each once, with their models."""
  specs = list(dict.fromkeys(spec for spec in args.codecs.split(',') if spec))
  if not specs:
    raise CodaxError('--codecs names no codec')
  return specs


def check_settings(args: argparse.Namespace, owners: list[families.Family]) -> None:
  """Refuses settings that no codec of the list has."""
  are_baselines = [owner.kind == 'baseline' for owner in owners]
  if args.qualities and not any(are_baselines):
    raise CodaxError('no codec of --codecs has --qualities: they are for baselines')
  if args.lmbdas and all(are_baselines):
    raise CodaxError('no codec of --codecs has --lmbdas: they are for learned codecs')


def make_request(args: argparse.Namespace, probe: probing.Probe | None) -> dict:
  """Returns all that rows depend on, but for image and operating point."""
  from codax import bundle

  paths = [spec.partition(':')[2] for spec in list_specs(args)]
  models = {path: bundle.load(path).id.hex() for path in paths if path}
  made_by = {key: provenance.source()[key] for key in ('commit', 'versions')}
  judged_by = {'probe': probe.describe()} if probe else {}
  return {
    'preset': args.preset, 'seed': args.seed, 'models': models, **judged_by, **made_by
  }  # fmt: skip


def list_trainings(args: argparse.Namespace) -> dict[str, dict]:
  """Maps names in `--codecs` that give a run directory to how its model was trained."""
  found = {}
  for spec in list_specs(args):
    path = spec.partition(':')[2]
    training = held_out.load_training(path) if path else None
    if training is not None:
      found[spec] = training
  return found


def _make_points_of(spec: str, args: argparse.Namespace) -> list[Point]:
  """Makes one codec of `--codecs` at every one of its settings."""
  name, _, path = spec.partition(':')
  family = families.codec_family(name)
  families.start_devices(name)
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
  specs = list_specs(args)
  check_settings(args, [families.codec_family(spec.split(':')[0]) for spec in specs])
  found = [point for spec in specs for point in _make_points_of(spec, args)]
  if not found:
    raise CodaxError('no operating point: --qualities and --bpps are empty')
  if args.reference is None:
    args.reference = 'jpeg'
  elif args.reference not in specs:
    raise errors.unknown('reference codec', args.reference, specs)
  return found


def save(
  out: Path,
  head: dict,
  found: Measured,
  bad: list[checks.BadImage],
  averages: list | None = None,
) -> dict:
  """Writes results.json and returns the BD-rates.

  Without averages it is of a run that is not complete.
  """
  is_complete, averages = averages is not None, averages or []
  bd = comparisons.bd_rates(averages, head['reference'])
  content = {
    **head,
    **provenance.source(),
    'is_complete': is_complete,
    'bd_rate': bd,
    'means': [measure.to_json(mean) for mean in averages],
    'rows': [measure.to_json(row) for row in found.rows],
    'missed': found.missed,
    'passed_over': [*(one._asdict() for one in bad), *found.passed_over],
    **({'interrupted': found.interrupted} if found.interrupted else {}),
  }
  store.save(out / 'results.json', 'comparison', content)
  return bd


def write_table(
  out: Path, found: Measured, averages: list, bd: dict, reference: str
) -> None:
  """Writes table.md and prints it, with notes on what is not as it should be."""
  text = comparisons.markdown(found.rows, averages, bd, reference)
  files.write_text(out / 'table.md', text)
  console.say(text)
  for miss in found.missed:
    console.say(f'warning: not met: {miss["reason"]}', sys.stderr)
  for row in found.rows:
    for line in measure.list_notes(row):
      console.say(f'note: {line}', sys.stderr)
    if not row.decoded_as_encoded:
      console.say(
        f'warning: {row.image} with {row.codec}: decoding differs from what the '
        'encoder reported',
        sys.stderr,
      )


def write_plots(
  out: Path, averages: list, readable: int, probe: probing.Probe | None
) -> list[str]:
  """Draws the curves of PSNR and, with a probe, of accuracy; returns names."""
  curves = comparisons.mean_curves(averages)
  plot = plots.rate_distortion(curves, f'mean of {readable} images')
  files.write_bytes(out / 'rd.png', plot)
  if probe is None:
    return ['rd.png']
  console.say(f'accuracy without a codec: {probe.accuracy:.4f}')
  curves = comparisons.mean_curves(averages, 'accuracy')
  title = f'{probe.count} images, {probe.accuracy:.1%} without a codec'
  label = 'share of images that are recognized'
  plot = plots.rate_distortion(curves, title, label=label)
  files.write_bytes(out / 'accuracy.png', plot)
  return ['rd.png', 'accuracy.png']


def check_outputs(out: Path, images: list[Input]) -> None:
  """Checks that the files of `--out` can be written, and are none of anything else."""
  for name in ('results.json', 'table.md', 'rd.png', 'accuracy.png'):
    path = out / name
    files.try_writing(path)
    if path.exists() and any(x.path and x.path.samefile(path) for x in images):
      raise CodaxError(f'{path} is one of the images: choose another --out')
  try:
    store.load(out / 'results.json', 'comparison')
  except (FileNotFoundError, store.Damaged):
    pass  # made again
  except CodaxError as e:
    raise CodaxError(f'{e}: choose another --out') from e


def main(argv: list[str] | None = None) -> int:
  args = parse(argv)
  out = Path(args.out).expanduser()
  words = sys.argv[1:] if argv is None else argv
  command = shlex.join(['python', 'launch/evaluate.py', *words])

  # Everything that can be wrong with the request is found before any work.
  bad: list[checks.BadImage] = []
  points, probe = make_points(args), make_probe(args)
  images = probe.inputs if probe else list_images(args, bad)
  _owner = files.hold(out)  # until this function ends
  check_outputs(out, images)
  request = make_request(args, probe)
  head = {
    'command': command,
    'seed': args.seed,
    'reference': args.reference,
    'request': request,
    'trainings': list_trainings(args),
  }
  earlier = resuming.load_rows(out / 'results.json', request)
  if earlier:
    console.say(f'{len(earlier)} finished rows of {out} are taken up', sys.stderr)

  # -------------------------------------------------------------------- Measurements
  save_at = time.monotonic() + SAVE_EVERY

  def grow(so_far: Callable[[], Measured]) -> None:
    nonlocal save_at
    begin = time.monotonic()
    if begin >= save_at:
      save(out, head, so_far(), bad)
      end = time.monotonic()  # of many rows saving itself takes long
      save_at = end + max(SAVE_EVERY, 20 * (end - begin))

  with progress.track(
    len(images), unit='image', write=progress.print_line, is_warm=True
  ) as shown:
    # an error or a signal in the middle costs none of the rows that are finished
    kept = []

    def keep(found: Measured) -> None:
      if not found.rows:
        return  # results of an earlier run are worth more
      save(out, head, found, bad)
      kept.append(f'{len(found.rows)} finished rows are in {out / "results.json"}')

    with signals.explain(lambda: kept[0] if kept else 'nothing was measured'):
      found = comparisons.measure_all(
        images,
        points,
        lambda name, point: shown.describe(f'{name} {point.label} {point.setting}'),
        keep=keep,
        finish=lambda _: shown.advance(1),
        grow=grow,
        is_skipped=args.skip_bad,
        earlier=earlier,
        **({'judge': probe.judge} if probe else {}),
      )

  # -------------------------------------------------------------------------- Results
  readable = len(images) - len(found.unreadable)
  averages = comparisons.means(found.rows, points, readable)
  bd = save(out, head, found, bad, averages)
  write_table(out, found, averages, bd, args.reference)
  names = ['results.json', 'table.md', *write_plots(out, averages, readable, probe)]
  console.say(f'written: {", ".join(str(out / name) for name in names)}')
  for line in comparisons.list_passed_over(found, bad, args.skip_bad):
    console.say(f'note: {line}', sys.stderr)
  return 0


if __name__ == '__main__':
  signals.end_process(errors.exit_status(main))
