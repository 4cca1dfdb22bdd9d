"""Tables and a plot of means over Kodak: ours from files, others' as published.

Every function takes the contents of results/ (see ``launch/tables.py``).
"""

import hashlib
import json
import math
from pathlib import Path

from PIL import Image

from codax.errors import CodaxError
from codax.metrics import rate
from codax.reports.tables import KODAK, config_of, table
from codax.training import plots

_AXES = ('bpp', 'psnr')


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


def ours(results: list[dict]) -> list[tuple[dict, str, list[dict]]]:
  """(result, codec, means) of every run over whole Kodak that is kept as one."""
  found = [(r, means(r)) for r in results if r['name'].startswith('kodak')]
  return [(r, *mine) for r, mine in found if mine is not None]


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
  rows += [(f'codax, `{config_of(r)}`', 'file', curve) for r, _, curve in ours(results)]
  changes = [(saving(anchor, curve), name, kind) for name, kind, curve in rows]
  lines = ['| codec | size is | bits at equal PSNR against VTM |', '|---|---|--:|']
  for change, name, kind in sorted(changes):
    bold = '**' if name.startswith('codax') else ''
    lines.append(f'| {bold}{name}{bold} | {kind} | {bold}{change:+.1f} %{bold} |')
  return '\n'.join(lines) + '\n'


_BESIDE = ('JPEG', 'JPEG XL, effort 7', 'WebP', 'AVIF 4:4:4, speed 6')


def gaussians(results: list[dict]) -> str:
  """PSNR at the sizes that GaussianImage has published, of ours and of others."""
  known = {name: curve for name, _, curve in published_curves(results)}
  curve = next((c for _, codec, c in ours(results) if codec == 'splat'), None)
  if curve is None or 'GaussianImage' not in known:
    return ''
  at = lambda curve, bpp: rate.psnr_at(*([r[k] for r in curve] for k in _AXES), bpp)
  others = [name for name in _BESIDE if name in known]
  lines = []
  for point in known['GaussianImage']:
    mine = at(curve, point['bpp'])
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


def _points(results: list[dict]) -> dict[str, list[tuple[float, float]]]:
  """What there is to draw, ours first; nothing without any of ours."""
  found = {f'codax {codec}': curve for _, codec, curve in ours(results)}
  if found:
    found |= {n: c for n, _, c in published_curves(results) if n in _DRAWN}
  return {
    name: [(p['bpp'], p['psnr']) for p in curve if p['bpp'] <= _MOST]
    for name, curve in found.items()
  }


def _numbers_id(points: dict) -> str:
  """What tells these curves from others."""
  return hashlib.sha256(json.dumps(points).encode()).hexdigest()


def draw(results: list[dict]) -> bytes:
  """The plot of ours and others over Kodak, as a PNG that names its numbers."""
  points = _points(results)
  bold = [name for name in points if name.startswith('codax')]
  title = f'Kodak, means over the {KODAK} pictures'
  return plots.rate_distortion(points, title, bold, _numbers_id(points))


def stale(path: Path, results: list[dict]) -> bool:
  """Whether the plot is of other numbers, or not there."""
  points = _points(results)
  if not (points and path.exists()):
    return bool(points) or path.exists()
  return Image.open(path).text.get('Description') != _numbers_id(points)
