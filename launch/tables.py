"""Writes the tables of README.md from the measurements in results/.

  python launch/tables.py            # rewrites README.md
  python launch/tables.py --check    # status 1 if README.md is not up to date

A table stands between the comments ``<!-- table: NAME -->`` and ``<!-- end -->`` and is
made anew from ``results/*.json``: nobody types a number. A test runs the check.

  python launch/tables.py --add RUN --name=NAME [--picture=PICTURE]

keeps the results of a finished run as results/NAME.json, and a piece of one of its
comparison pictures as results/PICTURE.png;

  python launch/tables.py --add-sweep=DIR --name=NAME

the results of a finished sweep, with what they come to, and

  python launch/tables.py --add-claims=DIR --name=NAME

those of ``launch/splat_claims.py``. What ``launch/bench.py`` writes with
``--out=results/bench_NAME.json`` is there already. A table without results is empty.
"""

import io
import json
import re
import sys
from pathlib import Path

from codax import files, report, sweeps
from codax.errors import ArgumentParser, CodaxError, exit_status, unknown
from codax.kodak_tables import draw, gaussians, published, saving, stale
from codax.sweep_tables import (
  claims,
  config_of,
  decoding,
  gains,
  hardware,
  splat,
  steps,
  sweep,
  switches,
)

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r'(<!-- table: (\w+) -->\n).*?(<!-- end -->)', re.DOTALL)


def load_all(folder: Path) -> list[dict]:
  """Every results file, by name; each with its name under 'name'. What others have
  published is in a folder of its own."""
  found = []
  for path in sorted([*folder.glob('*.json'), *folder.glob('published/*.json')]):
    found.append({**json.loads(path.read_text(encoding='utf-8')), 'name': path.stem})
  return found


def runs(results: list[dict]) -> str:
  """Config, command, bpp, PSNR and hardware for every picture of every run."""
  lines = [
    '| config | command | picture | bytes | bpp from file | PSNR | SSIM '
    '| JPEG at that size | WebP at that size | hardware |',
    '|---|---|---|--:|--:|--:|--:|--:|--:|---|',
  ]
  for result in results:
    # sweeps and pictures encoded at several lambdas have tables of their own
    if 'rows' not in result or {'lmbda', 'gaussians'} & set(result['rows'][0]):
      continue
    rows = [{**r, **{k: float(r[k]) for k in ('psnr', 'ssim')}} for r in result['rows']]
    beside = {(r['picture'], r['codec']): r for r in rows}
    for row in rows:
      if row['codec'] in report.BESIDE:
        continue
      others = [
        f'{beside[row["picture"], o]["psnr"]:.2f} dB, '
        f'{beside[row["picture"], o]["bpp"]:.3f} bpp'
        for o in report.BESIDE
      ]
      config = config_of(result)
      cells = [
        f'`{config}`', f'`{result["command"]}`', row['picture'], str(row['bytes']),
        f'{row["bpp"]:.3f}', f'{row["psnr"]:.2f}', f'{row["ssim"]:.4f}', *others,
        hardware(result),
      ]  # fmt: skip
      lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


def curves(result: dict) -> dict[tuple[str, str], list[dict]]:
  """Rows of pictures encoded at several lambdas, by (image, codec), lambda falling."""
  out: dict[tuple[str, str], list[dict]] = {}
  for row in sorted(result['rows'], key=lambda r: -r['lmbda']):
    out.setdefault((row['image'], row['codec']), []).append(row)
  return out


def of_lambdas(results: list[dict], prefix: str) -> list[dict]:
  """The results of pictures at several lambdas whose names begin with `prefix`."""
  found = [r for r in results if 'rows' in r and 'lmbda' in r['rows'][0]]
  return [r for r in found if r['name'].startswith(prefix)]


def mean_text(values: list[float | None], form: str) -> str:
  """The mean of a column, or a dash where a picture has none."""
  if not values or any(v is None for v in values):
    return '–'
  return format(sum(values) / len(values), form)


def overfit(results: list[dict]) -> str:
  """For every run its command and hardware, and the means over its pictures at each
  lambda, beside JPEG and WebP of the same sizes."""
  out = []
  for result in of_lambdas(results, 'kodak'):
    config = config_of(result)
    lines = [
      f'`{result["command"]}` on {hardware(result)}:',
      '',
      '| config | lambda | bpp from file | of it networks | PSNR | JPEG near that size '
      '| WebP near that size |',
      '|---|--:|--:|--:|--:|--:|--:|',
    ]
    by_lambda: dict[float, dict[str, list[dict]]] = {}
    for row in result['rows']:
      by_lambda.setdefault(row['lmbda'], {}).setdefault(row['codec'], []).append(row)
    for lmbda, rows in sorted(by_lambda.items(), reverse=True):
      column = lambda codec, key, rows=rows: [r[key] for r in rows[codec]]
      cells = [
        f'`{config}`',
        f'{lmbda:g}',
        mean_text(column('overfit', 'bpp'), '.3f'),
        mean_text(column('overfit', 'network_bpp'), '.3f'),
        mean_text(column('overfit', 'psnr'), '.2f'),
        *(
          f'{mean_text(column(name, "psnr"), ".2f")} dB, '
          f'{mean_text(column(name, "bpp"), ".3f")} bpp'
          for name in report.BESIDE
        ),
      ]
      lines.append('| ' + ' | '.join(cells) + ' |')
    out.append('\n'.join(lines) + '\n')
  return '\n'.join(out)


def distinct_overrides(results: list[dict]) -> list[str]:
  """For every run what its command overrides and not all of the commands do."""
  given = [re.findall(r'--config\.(\S+=\S+)', r['command']) for r in results]
  shared = set.intersection(*map(set, given)) if given else set()
  return [' '.join(o for o in overrides if o not in shared) for overrides in given]


def networks(results: list[dict]) -> str:
  """Each kind of networks against the perceptrons, on the same pictures."""
  found = of_lambdas(results, 'networks')
  settings = distinct_overrides(found)
  lines = [
    '| config | MAC/pixel | mean bpp from file | of it networks | mean PSNR | bits at '
    'equal PSNR against the perceptrons |',
    '|---|--:|--:|--:|--:|--:|',
  ]
  anchor = next((r for r in found if r['name'] == 'networks_mlp'), None)
  for result, setting in zip(found, settings, strict=True):
    config = f'{config_of(result)} {setting}'.strip()
    ours = {k: v for k, v in curves(result).items() if k[1] == 'overfit'}
    rows = [row for curve in ours.values() for row in curve]
    changes = []
    if result is not anchor and anchor is not None:
      base = curves(anchor)
      changes = [saving(base[key], curve) for key, curve in ours.items()]
    text = mean_text(changes, '+.1f')
    cells = [
      f'`{config}`',
      mean_text([r['macs_per_pixel'] for r in rows], '.0f'),
      mean_text([r['bpp'] for r in rows], '.3f'),
      mean_text([r['network_bpp'] for r in rows], '.3f'),
      mean_text([r['psnr'] for r in rows], '.2f'),
      '0' if result is anchor else text + ' %',
    ]
    lines.append('| ' + ' | '.join(cells) + ' |')
  return '\n'.join(lines) + '\n'


TABLES = {
  'runs': runs,
  'sweep': sweep,
  'overfit': overfit,
  'networks': networks,
  'published': published,
  'switches': switches,
  'splat': splat,
  'gaussians': gaussians,
  'splat_switches': gains,
  'splat_claims': claims,
  'steps': steps,
  'decoding': decoding,
}


def fill(text: str, results: list[dict]) -> str:
  """`text` with every table block made anew."""

  def one(match: re.Match) -> str:
    if match[2] not in TABLES:
      raise unknown('table', match[2], TABLES)
    return match[1] + TABLES[match[2]](results) + match[3]

  return BLOCK.sub(one, text)


def add(run: str, name: str, folder: Path) -> None:
  """Keeps a finished run's results."""
  content = report.load(run)
  if content is None:
    raise CodaxError(f'{run} has no {report.RESULTS}: is the run complete?')
  files.write_text(folder / f'{name}.json', json.dumps(content, indent=1) + '\n')


def add_sweep(out: str, name: str, folder: Path) -> None:
  """Keeps a finished sweep's results and what they come to."""
  content = finished(Path(out) / 'sweep.json')
  kept = json.dumps({**content, **sweeps.compared(content)}, indent=1)
  files.write_text(folder / f'{name}.json', kept + '\n')


def add_claims(out: str, name: str, folder: Path) -> None:
  """Keeps what ``launch/splat_claims.py`` measured."""
  content = finished(Path(out) / 'claims.json')
  files.write_text(folder / f'{name}.json', json.dumps(content, indent=1) + '\n')


def finished(path: Path) -> dict:
  """The JSON that a command writes last."""
  try:
    return json.loads(path.read_bytes())
  except (OSError, ValueError) as e:
    raise CodaxError(f'{path} cannot be read: is the run complete?') from e


def add_picture(run: str, picture: str, folder: Path, side: int = 240) -> None:
  """Keeps the upper middle of each panel of a run's comparison picture."""
  from PIL import Image

  strip = Image.open(Path(run) / 'images' / f'{picture}.png')
  panels = 2 + len(report.BESIDE)  # the original, ours and the others
  width = strip.width // panels
  out = Image.new('RGB', (panels * (side + 6) - 6, side), 'white')
  for i in range(panels):
    left = i * width + (width - side) // 2
    out.paste(strip.crop((left, 0, left + side, side)), (i * (side + 6), 0))
  buffer = io.BytesIO()
  out.save(buffer, 'png', optimize=True)
  files.write_bytes(folder / f'{picture}.png', buffer.getvalue())


def main() -> int:
  parser = ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--check', action='store_true', help='change nothing')
  parser.add_argument('--add', metavar='RUN', help='keep the results of this run')
  parser.add_argument('--add-sweep', metavar='DIR', help='keep those of this sweep')
  parser.add_argument('--add-claims', metavar='DIR', help='of launch/splat_claims.py')
  parser.add_argument('--name', help='under this name')
  parser.add_argument('--picture', help='keep a piece of this one')
  args = parser.parse_args()
  if (args.add or args.add_sweep or args.add_claims) and not args.name:
    raise CodaxError('--add, --add-sweep and --add-claims need --name=NAME')
  if args.add_claims:
    add_claims(args.add_claims, args.name, ROOT / 'results')
  if args.add_sweep:
    add_sweep(args.add_sweep, args.name, ROOT / 'results')
  if args.add:
    add(args.add, args.name, ROOT / 'results')
    if args.picture:
      add_picture(args.add, args.picture, ROOT / 'results')
  readme = ROOT / 'README.md'
  old = readme.read_text(encoding='utf-8')
  found = load_all(ROOT / 'results')
  new = fill(old, found)
  plot = ROOT / 'results' / 'kodak.png'
  changed = new != old or stale(plot, found)
  if args.check:
    if changed:
      print('README.md or its plot is not what results/ says: run launch/tables.py')
    return int(changed)
  files.write_text(readme, new)
  if stale(plot, found):
    files.write_bytes(plot, draw(found))
  return 0


if __name__ == '__main__':
  sys.exit(exit_status(main))
