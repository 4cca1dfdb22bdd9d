"""Pictures x codecs -> a table, a JSON file, a rate-distortion plot and BD-rates.

  python launch/evaluate.py --images=DIR --codecs=vqvae:runs/vqvae_ba,jpeg,webp
  python launch/evaluate.py --photos --codecs=jpeg,jpeg420,webp,avif

`--codecs` names codecs, a trained one with its run directory or bundle after a colon.
Baselines are measured at `--qualities`, learned codecs at `--lmbdas` (one point, the
preset's own, if not given), and all of them at `--bpps`. Every number comes from the
file: it is written, decoded again from its bytes, and compared with the original as 8
bits. Seconds are wall time on this machine; the first call of a learned codec compiles.

An image for which a `--bpps` target is out of reach of a codec (`codax.rate_control`)
is reported and left out; that point then has no mean, which would be of other images
than its neighbors'. A file that misses a target as the codec's scale is too coarse
stays in, and its row says so.

In `--out`: results.json, table.md (what is printed) and rd.png.
"""

import argparse
import json
import math
import pathlib
import shlex
import sys
import time
from typing import NamedTuple

import numpy as np
import tqdm

from codax import codec as codecs_
from codax import errors, families, files, image_io, provenance, rate_control
from codax.baselines import codec as baselines
from codax.data import sources
from codax.errors import CodaxError
from codax.metrics import distortion, rate

QUALITIES = (5, 10, 20, 35, 50, 65, 80, 90, 95)
COLUMNS = ('picture', 'codec', 'point', 'bytes', 'bpp', 'psnr', 'ssim', 'ms_ssim')
COLUMNS += ('encode_s', 'decode_s')


class Point(NamedTuple):
  """One codec at one setting: a point of its curve."""

  label: str  # The codec's name, with its model if it has one.
  setting: str  # 'q50', 'lmbda 0.01', 'bpp 0.5' or 'default'.
  codec: codecs_.Codec


def parse(argv: list[str] | None = None) -> argparse.Namespace:
  """The command line; bad ones end here, with one line and status 2."""
  parser = errors.ArgumentParser(
    description=__doc__.splitlines()[0], allow_abbrev=False
  )

  def numbers(kind):
    def convert(text):
      return [kind(part) for part in text.split(',') if part]

    convert.__name__ = f'comma-separated {kind.__name__}'
    return convert

  which = parser.add_mutually_exclusive_group(required=True)
  which.add_argument('--images', metavar='DIR', help='directory of pictures, or one')
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


def pictures(args: argparse.Namespace) -> list[tuple[str, callable]]:
  """(name, load) of every picture; load gives uint8 [H, W, 1 or 3]."""
  if args.photos:
    source = sources.get('photos', 'test')
    return [(n, lambda i=i: source[i]['image']) for i, n in enumerate(source.names)]
  root = pathlib.Path(args.images)
  if root.is_file():
    return [(root.name, lambda: image_io.read(root).pixels)]
  if not root.is_dir():
    raise CodaxError(f'{root}: no such directory or picture')
  # Nothing is trained here, so nothing is held out: the folder's whole list.
  names = sources.get('folder', 'train', path=args.images, test_fraction=0).names
  return [(name, lambda p=root / name: image_io.read(p).pixels) for name in names]


def _points_of(spec: str, args: argparse.Namespace) -> list[Point]:
  """One codec of `--codecs` at every one of its settings."""
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
    asked = [('default', options)]
  asked += [(f'bpp {x:g}', options._replace(bpp=x)) for x in args.bpps]
  for setting, wanted in asked:
    found.append(Point(spec, setting, families.get(name, model=model, options=wanted)))
  return found


def points(args: argparse.Namespace) -> list[Point]:
  """Every codec at every one of its settings, made ready; bad names end here."""
  specs = dict.fromkeys(spec for spec in args.codecs.split(',') if spec)
  if not specs:
    raise CodaxError('--codecs names no codec')
  found = [point for spec in specs for point in _points_of(spec, args)]
  if not found:
    raise CodaxError('no operating point: --qualities and --bpps are empty')
  if args.reference is None:
    args.reference = 'jpeg'
  elif args.reference not in specs:
    raise errors.unknown('reference codec', args.reference, specs)
  return found


def measure(name: str, image: np.ndarray, point: Point) -> dict:
  """One row: encodes, decodes the bytes, compares.

  Raises:
    OutOfReach: the point's target is out of reach for this image.
    CodaxError: the encoder refuses the picture, or the decoder gives one of another
      size.
  """
  start = time.perf_counter()
  try:
    encoded = point.codec.encode(image)
  except errors.OutOfReach as e:
    raise errors.OutOfReach(f'{name} with {point.label}: {e}', e.nearest) from e
  except CodaxError as e:
    raise type(e)(f'{name} with {point.label}: {e}') from e
  middle = time.perf_counter()
  decoded = point.codec.decode(encoded.data)
  end = time.perf_counter()
  decoded = baselines.match_channels(decoded, image.shape[-1])
  if decoded.shape != image.shape:
    raise CodaxError(
      f'{name}: {point.label} decodes to shape {decoded.shape}, not {image.shape}'
    )
  mse = distortion.mse(image, decoded)
  miss = rate_control.get_miss(encoded)
  return {
    'picture': name,
    'codec': point.label,
    'point': point.setting,
    'height': image.shape[0],
    'width': image.shape[1],
    'channels': image.shape[2],
    'bytes': len(encoded.data),
    'bpp': rate.bpp(len(encoded.data), *image.shape[:2]),
    'estimated_bits': float(encoded.estimated_bits),
    'mse': mse,
    'psnr': distortion.psnr_of_mse(mse),
    'ssim': distortion.ssim(image, decoded),
    'ms_ssim': distortion.ms_ssim(image, decoded),
    'encode_s': middle - start,
    'decode_s': end - middle,
    # False would mean that the encoder reports a picture nobody will see.
    'decoded_as_encoded': bool(np.array_equal(decoded, encoded.reconstruction)),
    'target_missed': miss and rate_control.explain(miss, encoded.stop_reason),
  }


def measure_all(
  images: list[tuple[str, callable]], chosen: list[Point]
) -> tuple[list[dict], list[dict]]:
  """Rows of every picture at every point, and the targets that were missed.

  Raises:
    CodaxError: as `measure`; or none of the targets was met.
  """
  rows, missed = [], []
  with tqdm.tqdm(total=len(images) * len(chosen), unit='file', disable=None) as bar:
    for name, load in images:
      image = load()
      for point in chosen:
        bar.set_postfix_str(f'{name} {point.label} {point.setting}', refresh=False)
        try:
          rows.append(measure(name, image, point))
        except errors.OutOfReach as e:
          where = {'picture': name, 'codec': point.label, 'point': point.setting}
          missed.append({**where, 'reason': str(e)})
        bar.update()
  if not rows:
    raise CodaxError(f'no target was met: {missed[0]["reason"]}')
  return rows, missed


def average(rows: list[dict]) -> dict:
  """The mean row of one codec at one point; SSIM over pictures large enough for it."""

  def mean(key, keep=lambda x: True):
    values = [row[key] for row in rows if keep(row[key])]
    return float(np.mean(values)) if values else math.nan

  out = {'picture': f'mean of {len(rows)}'}
  out |= {key: rows[0][key] for key in ('codec', 'point')}
  out |= {k: mean(k) for k in ('bytes', 'bpp', 'psnr', 'encode_s', 'decode_s')}
  out |= {k: mean(k, lambda x: not math.isnan(x)) for k in ('ssim', 'ms_ssim')}
  samples = [row['height'] * row['width'] * row['channels'] for row in rows]
  pooled = distortion.summarize([row['mse'] for row in rows], samples).pooled
  return out | {'psnr_pooled': pooled}


def bd_rates(means: list[dict], reference: str) -> dict[str, dict]:
  """BD-rate of every codec against `reference`, over the mean rows.

  Returns:
    Codec to {'percent', 'overlap'}, or to {'reason'} where it cannot be had.
  """
  curves = {}
  for row in means:
    if math.isfinite(row['psnr']):
      curves.setdefault(row['codec'], []).append((row['bpp'], row['psnr']))
  if reference not in curves:
    return {}
  anchor = list(zip(*curves[reference]))
  out = {}
  for name, curve in curves.items():
    if name == reference:
      continue
    test = list(zip(*curve))
    try:
      percent = rate.bd_rate(*anchor, *test)
    except CodaxError as e:
      out[name] = {'reason': str(e)}
      continue
    out[name] = {'percent': percent, 'overlap': rate.overlap(anchor[1], test[1])}
  return out


def markdown(rows: list[dict], means: list[dict], bd: dict, reference: str) -> str:
  """The tables: every picture, the means, BD-rates."""
  form = {'bytes': '.0f', 'bpp': '.4f', 'psnr': '.2f', 'ssim': '.4f', 'ms_ssim': '.4f'}
  form |= {'encode_s': '.3f', 'decode_s': '.3f'}

  def cell(row, key):
    return format(row[key], form[key]) if key in form else str(row[key])

  def table(rows):
    cells = [list(COLUMNS)] + [[cell(row, key) for key in COLUMNS] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(COLUMNS))]
    lines = []
    for k, line in enumerate(cells):
      # Words to the left, numbers to the right.
      padded = [
        c.ljust(w) if i < 3 else c.rjust(w)
        for i, (c, w) in enumerate(zip(line, widths))
      ]
      lines.append(f'| {" | ".join(padded)} |')
      if k == 0:
        rule = [
          ('-' * w) if i < 3 else '-' * (w - 1) + ':' for i, w in enumerate(widths)
        ]
        lines.append(f'| {" | ".join(rule)} |')
    return '\n'.join(lines)

  parts = [table(rows), *([table(means)] if means else [])]
  for name, value in bd.items():
    if 'reason' in value:
      parts.append(f'BD-rate of {name} against {reference}: none ({value["reason"]})')
      continue
    note = f', over {value["overlap"]:.0%} of the PSNR range'
    note += ' only' if value['overlap'] < 0.75 else ''
    parts.append(
      f'BD-rate of {name} against {reference}: {value["percent"]:+.2f} %{note}'
    )
  return '\n\n'.join(parts) + '\n'


def plot(means: list[dict], title: str) -> bytes:
  """The rate-distortion plot of the mean rows, as a PNG."""
  from codax.training import plots

  curves = {
    name: [
      (r['bpp'], r['psnr'])
      for r in means
      if r['codec'] == name and math.isfinite(r['psnr'])
    ]
    for name in dict.fromkeys(row['codec'] for row in means)
  }
  return plots.rate_distortion({k: v for k, v in curves.items() if v}, title)


def _finite(value):
  """JSON has no inf and NaN: 'inf' and null instead."""
  if isinstance(value, dict):
    return {key: _finite(v) for key, v in value.items()}
  if isinstance(value, list):
    return [_finite(v) for v in value]
  if isinstance(value, float) and not math.isfinite(value):
    return None if math.isnan(value) else str(value)
  return value


def main(argv: list[str] | None = None) -> int:
  args = parse(argv)
  out = pathlib.Path(args.out)

  # Everything that can be wrong with the request is found before any work.
  chosen = points(args)
  images = pictures(args)
  out.mkdir(parents=True, exist_ok=True)

  rows, missed = measure_all(images, chosen)
  means = []
  for point in chosen:
    key = (point.label, point.setting)
    mine = [r for r in rows if (r['codec'], r['point']) == key]
    if len(mine) == len(images):
      means.append(average(mine))
  bd = bd_rates(means, args.reference)
  text = markdown(rows, means, bd, args.reference)
  results = {
    'command': shlex.join(
      ['python', 'launch/evaluate.py', *(sys.argv[1:] if argv is None else argv)]
    ),
    **provenance.source(),
    'reference': args.reference,
    'bd_rate': bd,
    'means': means,
    'rows': rows,
    'missed': missed,
  }
  files.write_text(
    out / 'results.json', json.dumps(_finite(results), indent=1, allow_nan=False) + '\n'
  )
  files.write_text(out / 'table.md', text)
  files.write_bytes(out / 'rd.png', plot(means, f'mean of {len(images)} pictures'))
  print(text)
  for miss in missed:
    print(f'warning: not met: {miss["reason"]}', file=sys.stderr)
  for row in rows:
    if row['target_missed']:
      where = f'{row["picture"]} with {row["codec"]}'
      print(f'note: {where}: {row["target_missed"]}', file=sys.stderr)
  wrong = [r for r in rows if not r['decoded_as_encoded']]
  for row in wrong:
    print(
      f'warning: {row["picture"]}: what {row["codec"]} decodes differs from what its'
      ' encoder reported',
      file=sys.stderr,
    )
  print(f'written: {out / "results.json"}, {out / "table.md"}, {out / "rd.png"}')
  return 0


if __name__ == '__main__':
  sys.exit(errors.exit_status(main))
