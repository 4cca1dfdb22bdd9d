"""Tables and a plot of means over Kodak: ours from files, others' as published.

Every function takes the contents of results/ (see ``launch/tables.py``).
"""

import hashlib
import io
import json
import math
import re
from pathlib import Path

from PIL import Image

from codax.errors import CodaxError
from codax.metrics import rate
from codax.sweep_tables import KODAK, table
from codax.training import plots

_AXES = ('bpp', 'psnr')


def config_of(result: dict) -> str:
  """The configuration that a run was started with, from its command."""
  return re.search(r'--config=(\S+)', result['command'])[1]


def saving(anchor: list[dict], test: list[dict]) -> float | None:
  """BD-rate of one curve against another, in %; None where they do not overlap."""
  points = [[[r[k] for r in c] for k in _AXES] for c in (anchor, test)]
  try:
    return rate.bd_rate(*points[0], *points[1])
  except CodaxError:
    return None


def means(result: dict) -> tuple[str, list[dict]] | None:
  """(codec, its means over the pictures) of a run over whole Kodak, at each lambda or
  number of Gaussians; None of any other run."""
  for codec, key in {'overfit': 'lmbda', 'splat': 'gaussians'}.items():
    mine = [r for r in result.get('rows', ()) if r['codec'] == codec and key in r]
    if len({r['image'] for r in mine}) != KODAK:
      continue
    found = []
    for value in sorted({r[key] for r in mine}):
      here = [r for r in mine if r[key] == value]
      found.append({k: sum(r[k] for r in here) / len(here) for k in _AXES})
    return codec, found
  return None


def published_curves(results: list[dict]) -> list[tuple[str, str, list[dict]]]:
  """(codec, what its sizes are, points) of everything that others have published."""
  return [
    (one['codec'], one['kind'], [dict(zip(_AXES, p)) for p in one['points']])
    for result in results
    for one in result.get('published', ())
  ]


def published(results: list[dict]) -> str:
  """Bits at equal PSNR against VTM, of the mean curves over Kodak: ours, from files of
  all 24 pictures, among published ones."""
  rows = published_curves(results)
  anchor = next((curve for name, _, curve in rows if name == 'VTM'), None)
  if anchor is None:
    return ''
  for result in results:
    if result['name'].startswith('kodak') and means(result):
      rows.append((f'codax, `{config_of(result)}`', 'file', means(result)[1]))
  changes = [(saving(anchor, curve), name, kind) for name, kind, curve in rows]
  lines = []
  for change, name, kind in sorted(changes):
    bold = '**' if name.startswith('codax') else ''
    lines.append([name, kind, f'{change:+.1f} %'])
    lines[-1] = [bold + lines[-1][0] + bold, kind, bold + lines[-1][2] + bold]
  lines = [f'| {" | ".join(line)} |' for line in lines]
  heads = ['| codec | size is | bits at equal PSNR against VTM |', '|---|---|--:|']
  return '\n'.join([*heads, *lines]) + '\n'


_BESIDE = ('JPEG', 'JPEG XL, effort 7', 'WebP', 'AVIF 4:4:4, speed 6')


def gaussians(results: list[dict]) -> str:
  """PSNR at the sizes that GaussianImage has published, of ours and of others."""
  known = {name: curve for name, _, curve in published_curves(results)}
  ours = next((m[1] for m in map(means, results) if m and m[0] == 'splat'), None)
  if ours is None or 'GaussianImage' not in known:
    return ''
  at = lambda curve, bpp: rate.psnr_at(*([r[k] for r in curve] for k in _AXES), bpp)
  others = [name for name in _BESIDE if name in known]
  lines = []
  for point in known['GaussianImage']:
    mine = at(ours, point['bpp'])
    if math.isfinite(mine):
      found = [at(known[name], point['bpp']) for name in others]
      cells = ['–' if math.isnan(x) else f'{x:.2f}' for x in found]
      gain = f'{mine - point["psnr"]:+.2f}'
      first = [f'{point["bpp"]:g}', f'{point["psnr"]:.2f}', f'{mine:.2f}', gain]
      lines.append([*first, *cells])
  heads = ['bpp', 'GaussianImage (formula)', 'codax (files)', 'dB more', *others]
  return table(heads, lines)


# Of what others have published: the rest is near one of these.
_DRAWN = ('VTM', 'C3', *_BESIDE, 'GaussianImage')
_MOST = 1.6  # bits per pixel


def draw(results: list[dict]) -> bytes | None:
  """The plot of ours and others over Kodak, as a PNG that names its numbers."""
  curves_of, ours = {}, []
  for result in results:
    found = means(result)
    if found and result['name'].startswith('kodak'):
      ours.append(f'codax {found[0]}')
      curves_of[ours[-1]] = found[1]
  curves_of |= {n: c for n, _, c in published_curves(results) if n in _DRAWN}
  if not ours:
    return None
  points = {
    name: [(p['bpp'], p['psnr']) for p in curve if p['bpp'] <= _MOST]
    for name, curve in curves_of.items()
  }
  title = 'Kodak, means over the 24 pictures'
  return plots.rate_distortion(points, title, ours, numbers_id(points))


def numbers_id(points: dict) -> str:
  """What tells these curves from others."""
  return hashlib.sha256(json.dumps(points).encode()).hexdigest()


def stale(path: Path, results: list[dict]) -> bool:
  """Whether the plot is of other numbers, or not there."""
  drawn = draw(results)
  if drawn is None:
    return path.exists()
  text = lambda file: Image.open(file).text.get('Description')
  return not path.exists() or text(path) != text(io.BytesIO(drawn))
