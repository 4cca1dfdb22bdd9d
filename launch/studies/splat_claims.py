"""Measures claims about Gaussian codecs: rendering, and quantized training.

  python launch/studies/splat_claims.py --photos --crop=256 --out=runs/splat_claims
  python launch/studies/splat_claims.py --images=DIR [--crop=N] [--count=N] [--seed=N]
      [--preset=fast|medium|full] [--steps=N] --out=DIR
  python launch/tables.py --add=DIR --name=splat_claims

Every image (with --crop its middle) is fitted once for each variant of
`codax.splat.variants`, with the same number of Gaussians: --count, or what the
image's detail asks for. Fits that are done are not made again: after an interruption
the same command goes on. DIR ends with study.json and table.md.
"""

import argparse
import json
import math
import os
import shlex
import sys
import zlib
from pathlib import Path

from tqdm import tqdm

from codax import errors, files, provenance
from codax.errors import CodaxError
from codax.reports import statistics, store, sweep_tables

NAME = 'splat_claims'
RESULT, TABLE = 'study.json', 'table.md'


def parse(argv: list[str]) -> argparse.Namespace:
  """Parses the command line; bad ones end here, with one line and status 2."""
  parser = errors.ArgumentParser(
    description=__doc__.splitlines()[0], allow_abbrev=False
  )
  which = parser.add_mutually_exclusive_group(required=True)
  which.add_argument(
    '--images', type=os.path.expanduser, metavar='DIR', help='directory of images'
  )
  which.add_argument('--photos', action='store_true', help='the held-out photographs')
  add = parser.add_argument
  add('--out', required=True, metavar='DIR', help='directory of results')
  add('--crop', type=int, default=0, help='side of a central crop in pixels')
  add('--count', type=int, help="number of Gaussians (default: by the image's detail)")
  add('--preset', default='fast', choices=('fast', 'medium', 'full'))
  add('--steps', type=int, help="number of steps in place of the preset's")
  add('--seed', type=int, default=0)
  args = parser.parse_args(argv)
  if any(x is not None and x < 1 for x in (args.count, args.steps)):
    raise CodaxError('--count and --steps are numbers of 1 or more')
  return args


def main(argv: list[str] | None = None) -> int:
  argv = sys.argv[1:] if argv is None else argv
  args = parse(argv)

  # JAX is imported this late so that a wrong command line is answered at once.
  from codax.data.images import load_images
  from codax.splat import counts, encode, variants
  from codax.training import stopping

  data = {'name': 'photos', 'split': 'test', 'crop': args.crop}
  if args.images:
    # nothing is trained here, so nothing is held out: the folder's whole list
    data |= {'name': 'folder', 'split': 'train', 'path': args.images}
    data |= {'test_fraction': 0.0}
  steps = args.steps or encode.TOTAL_STEPS[args.preset]
  out = Path(args.out).expanduser()
  jobs = {}
  for name, image in load_images(data):
    count = counts.choose_count(image, encode.EncodeConfig(count=args.count))
    for variant in variants.VARIANTS:
      jobs[name, variant] = variants.Job(variant, image, count, steps, args.seed)

  # ------------------------------------------------ Earlier fits, before any work
  _owner = files.hold(out)  # until this function ends
  files.try_writing(out / RESULT)
  asked = {key: _make_request(job) for key, job in jobs.items()}
  path = lambda name, variant: out / 'fits' / f'{name}_{variant}.json'
  found = {
    key: store.load_if_same_request(path(*key), path(*key), asked[key], 'asked')
    for key in jobs
  }

  # ---------------------------------------------------------------------------- Fits
  with (
    stopping.watch(0.0) as reason,
    tqdm(total=len(jobs), unit='fit', disable=None) as bar,
  ):
    for key, job in jobs.items():
      say = lambda done, total, key=key: bar.set_postfix_str(
        f'{" ".join(key)}, {done / total:.0%}'
      )
      if found[key] is None:
        made = variants.measure(job, say, reason)
        if made['stopped']:
          print(f'stopped ({made["stopped"]}); the same command continues')
          return 0  # after a signal its status is 128 and its number
        found[key] = {'asked': asked[key], **made, **provenance.source()}
        store.write_sealed(path(*key), found[key])
      bar.update()

  # -------------------------------------------------------------------------- Result
  content = _make_result(args, argv, steps, jobs, found)
  text = sweep_tables.study([{**content, 'kind': 'study', 'name': NAME}])
  files.write_text(out / TABLE, text)
  store.save(out / RESULT, 'study', content)
  print(f'{text}\nwritten: {out / RESULT}')
  return 0


def _make_result(args, argv, steps: int, jobs: dict, found: dict) -> dict:
  """Compares the variants of each image and averages over images."""
  from codax.splat import variants

  source, rows = provenance.factor_out_source(list(found.values())), []
  for name in dict.fromkeys(name for name, _ in jobs):
    fits = {variant: found[name, variant] for variant in variants.VARIANTS}
    for fit in fits.values():
      del fit['asked']  # said once, below
    job = jobs[name, 'qat']
    numbers = {'count': job.count, **variants.compare(fits)}
    rows.append({'image': name, 'numbers': numbers, 'fits': fits})
  return {
    'command': 'python launch/studies/splat_claims.py ' + shlex.join(argv),
    'study': NAME,
    'seed': args.seed,
    'steps': steps,
    **source,
    'variants': {name: r._asdict() for name, r in variants.VARIANTS.items()},
    'columns': {'count': 'Gaussians', **variants.COLUMNS},
    'means': {
      key: statistics.mean_and_error(
        [row['numbers'].get(key, math.nan) for row in rows]
      )
      for key in variants.COLUMNS
    },
    'images': rows,
  }


def _make_request(job) -> dict:
  """Returns the request of a fit, as JSON has it; another request is another fit."""
  from codax.splat import variants

  return {
    'recipe': json.loads(json.dumps(variants.VARIANTS[job.variant]._asdict())),
    'pixels': f'{job.image.shape} {zlib.crc32(job.image.tobytes()):08x}',
    **{key: getattr(job, key) for key in ('count', 'steps', 'seed')},
  }


if __name__ == '__main__':
  sys.exit(errors.exit_status(main))
