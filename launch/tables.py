"""Writes tables and numbers of README.md and docs/ from the measurements in results/.

  python launch/tables.py            # rewrites what is not up to date
  python launch/tables.py --check    # changes nothing; status 1 if anything is not

Markers say what stands where (see `codax.reports.markers`): ``<!-- table: NAME -->``
and ``<!-- value: RESULT.KEY -->``, each to the next ``<!-- end -->``. Nobody types a
number. A test runs the check.

  python launch/tables.py --add=DIR --name=NAME [--image=IMAGE]

keeps the results of a finished run, sweep or study as results/NAME.json, and a piece
of one of a run's comparison images as results/IMAGE.png. A sweep over a number (see
`codax.reports.series`) is also drawn, as results/NAME.png. ``launch/bench.py`` writes
to ``--out=results/bench_NAME.json`` by itself. A table without results is empty.

  python launch/tables.py --upgrade

rewrites results of an older schema in the present one.
"""

import io
import os
import sys
from pathlib import Path

from codax import signals

signals.guard_imports(__name__)

from codax import files
from codax.errors import ArgumentParser, CodaxError, exit_status
from codax.reports import held_out, markers, published, series, statistics, store

ROOT = Path(__file__).parents[1]
PLOT = 'kodak.png'
# Files that runs, sweeps and studies end with; the last is of older studies.
ENDS = (held_out.RESULTS, 'sweep.json', 'study.json', 'claims.json')
# Tables under the names that README.md has for them.
ALIASES = {
  'runs': 'runs vqvae_*',
  'sweep': 'curves',
  'overfit': 'points kodak_overfit',
  'networks': 'against networks_mlp networks_*',
  'switches': 'ablation',
  'splat': 'points kodak_splat splat_layers splat_targets',
  'gaussians': 'published_sizes',
  'splat_switches': 'gains',
  'splat_claims': 'study splat_claims',
  'steps': 'step_times',
  'decoding': 'decode_times',
}


def fill(text: str, results: list[dict]) -> str:
  """Makes every table and value of a text anew."""
  return markers.fill(text, results, ALIASES)


def find_stale_files(root: Path, results: list[dict]) -> dict[Path, str]:
  """Finds the Markdown files that results contradict, and their new text."""
  stale = {}
  for path in markers.files_with_markers(root):
    old = path.read_text(encoding='utf-8')
    try:
      new = fill(old, results)
    except CodaxError as e:
      raise CodaxError(f'{path.relative_to(root)}: {e}') from e
    if new != old:
      stale[path] = new
  return stale


def add(folder: str, name: str, results: Path) -> None:
  """Keeps the results of a finished run, study or sweep, this with its statistics."""
  path = next((p for end in ENDS if (p := Path(folder) / end).is_file()), None)
  if path is None:
    raise CodaxError(f'{folder} has no results ({", ".join(ENDS)}): is it complete?')
  content = store.load(path)
  if content.get('is_complete') is False:
    raise CodaxError(f'{path} is not complete: give its command again')
  if content['kind'] == 'sweep':
    content |= statistics.compare(content)
  store.save(results / f'{name}.json', content['kind'], content)


def add_image(run: str, image: str, results: Path, side: int = 240) -> None:
  """Keeps the upper middle of each panel of a run's comparison image."""
  from PIL import Image

  strip = Image.open(Path(run) / 'images' / f'{image}.png')
  panels = 2 + len(held_out.BASELINES)  # the original, ours and the others
  width = strip.width // panels
  out = Image.new('RGB', (panels * (side + 6) - 6, side), 'white')
  for i in range(panels):
    left = i * width + (width - side) // 2
    out.paste(strip.crop((left, 0, left + side, side)), (i * (side + 6), 0))
  buffer = io.BytesIO()
  out.save(buffer, 'png', optimize=True)
  files.write_bytes(results / f'{image}.png', buffer.getvalue())


def upgrade(folder: Path) -> None:
  """Rewrites results of an older schema in the present one."""
  for path in sorted([*folder.glob('*.json'), *folder.glob('published/*.json')]):
    content = store.load(path)
    if '"schema":' not in path.read_text(encoding='utf-8'):
      store.save(path, content['kind'], content)
      print(f'{path}: of schema {store.SCHEMA} now')


def main(argv: list[str] | None = None) -> int:
  parser = ArgumentParser(description=__doc__.split('\n')[0], allow_abbrev=False)
  parser.add_argument('--check', action='store_true', help='change nothing')
  parser.add_argument(
    '--add',
    type=os.path.expanduser,
    metavar='DIR',
    help='keep results of a run or sweep',
  )
  parser.add_argument('--name', help='under this name')
  parser.add_argument(
    '--image',
    type=os.path.expanduser,
    metavar='IMAGE',
    help='keep a piece of this image',
  )
  parser.add_argument('--upgrade', action='store_true', help='rewrite old results')
  words = sys.argv[1:] if argv is None else argv
  if any(word.startswith('--picture') for word in words):
    raise CodaxError('--picture was renamed to --image')
  args = parser.parse_args(words)
  if args.add and not args.name:
    raise CodaxError('--add needs --name=NAME')
  for flag, name in {'--name': args.name, '--image': args.image}.items():
    if name and '..' in Path(name).parts or Path(name or '').is_absolute():
      raise CodaxError(f'{flag}={name} is not a name in results/')
  folder = ROOT / 'results'
  if args.add:
    add(args.add, args.name, folder)
    if args.image:
      add_image(args.add, args.image, folder)
  if args.upgrade:
    upgrade(folder)
  results = store.load_all(folder)
  stale = find_stale_files(ROOT, results)
  plots = series.find_stale_plots(folder, results)
  if published.is_stale(folder / PLOT, results):
    plots[folder / PLOT] = lambda: published.draw(results)
  if args.check:
    for path in [*stale, *plots]:
      name = path.relative_to(ROOT)
      print(f'{name} is not what results/ says: run launch/tables.py')
    return int(bool(stale or plots))
  for path, text in stale.items():
    files.write_text(path, text)
  for path, draw in plots.items():
    files.write_bytes(path, draw())
  return 0


if __name__ == '__main__':
  signals.end_process(exit_status(main))
