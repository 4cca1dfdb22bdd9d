"""Ours among published codecs over Kodak: tables and a plot of means.

Ours are means over files of all 24 images. BD-rates of published means are of mean
curves. Where a published codec has figures of every image, ours are compared with it by
three conventions that differ by some percent: the mean of the images' PSNR, the PSNR of
the pooled MSE, and the mean over the images of their own BD-rates.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from PIL import Image

from codax.metrics import rate
from codax.reports import measure, plots, statistics, tables
from codax.reports.layout import Column, get, markdown_table
from codax.reports.measure import Row
from codax.reports.tables import Results

KODAK = 24  # images
_PIXELS = (512, 768, 3)  # of a Kodak image, or turned
ANCHOR = 'VTM'
NEAR_BPP = 0.28  # size at which the headline compares PSNR
# Of what others have published: the rest is near one of these.
_DRAWN = ('JPEG', 'JPEG XL, effort 7', 'WebP', 'AVIF 4:4:4, speed 6')
_PLOTTED = (ANCHOR, 'C3', *_DRAWN, 'GaussianImage')
_HEADLINE = ('Cool-Chic 5.0.1', *_PLOTTED)
_HEADLINE_ROWS = 10
_MOST = 1.6  # bits per pixel of the plot


class Point(NamedTuple):
  """One point of a mean curve.

  Attributes:
    bpp: bits per pixel.
    psnr: mean of the images' PSNR in dB.
    psnr_pooled: PSNR in dB of the pooled MSE; None of published means.
  """

  bpp: float
  psnr: float
  psnr_pooled: float | None = None


class Curve(NamedTuple):
  """One codec over Kodak.

  Attributes:
    name: codec, with its version or settings.
    kind: measure of the sizes: 'file', 'estimate', 'formula' or 'as published'.
    points: means over the 24 images.
    rows: figures of every image; empty of published means.
    config: configuration of our run; None of others' codecs.
  """

  name: str
  kind: str
  points: Sequence[Point]
  rows: Sequence[Row] = ()
  config: str | None = None


def ours(results: Results) -> list[Curve]:
  """Collects our curves over the whole of Kodak.

  They are those of held-out reports and, of comparisons, those of the codecs whose
  training is known, where the names of results begin with 'kodak'.
  """
  found = []
  for result in tables.select(results, 'held_out', ['kodak*']):
    config = tables.config_of(result)
    found.append((tables.codec_of(result), config, result['rows']))
  for result in tables.select(results, 'comparison', ['kodak*']):
    for codec, training in result.get('trainings', {}).items():
      config = tables.config_of(training) + tables.preset_of(result)
      found.append((codec, config, result['rows']))
  curves = []
  for codec, config, every in found:
    rows = [measure.from_json(row) for row in every if row['codec'] == codec]
    if len({row.image for row in rows}) == KODAK:
      name = codec.partition(':')[0]
      curves.append(Curve(name, 'file', _points(rows), rows, config))
  return curves


def others(results: Results) -> list[Curve]:
  """Collects the codecs that others have published."""
  found = []
  for result in tables.select(results, 'published'):
    for one in result['published']:
      rows = [_published_row(one['codec'], row) for row in one.get('rows', ())]
      points = _points(rows) if rows else [Point(*point) for point in one['points']]
      found.append(Curve(one['codec'], one['kind'], points, rows))
  return found


def table(results: Results) -> str:
  """Lays out bits at equal PSNR against the anchor, by each convention of averaging.

  Conventions other than that of mean curves need a codec with figures of every image.
  """
  curves = [*others(results), *ours(results)]
  anchor = next((curve for curve in curves if curve.name == ANCHOR), None)
  if anchor is None:
    return ''
  each = next((c for c in curves if c.rows and c.config is None), None)
  columns = [
    Column('codec', _title),
    Column('size is', lambda curve: curve.kind),
    Column(
      f'bits against {ANCHOR} (mean curves), %',
      lambda curve: _change(anchor, curve),
      '+.1f',
    ),
  ]
  if each is not None:
    columns += [
      Column(
        f'bits against {each.name} (mean curves), %',
        lambda curve: _change(each, curve),
        '+.1f',
      ),
      Column(
        'the same, curves of the PSNR of pooled MSE, %',
        lambda curve: _change(each, curve, 'psnr_pooled'),
        '+.1f',
      ),
      Column(
        'the same, mean of BD-rates of each image ± standard error, %',
        lambda curve: _change_of_images(each, curve),
        '+.1f',
      ),
    ]  # fmt: skip
  order = lambda curve: _or(_change(anchor, curve), math.inf)
  return markdown_table(columns, sorted(curves, key=order))


def headline(results: Results) -> str:
  """Lays out at most ten codecs: PSNR at one size, and bits against the anchor."""
  curves = [c for c in others(results) if c.name in _HEADLINE]
  anchor = next((curve for curve in curves if curve.name == ANCHOR), None)
  if anchor is None:
    return ''
  own = sorted(ours(results), key=lambda c: _or(_change(anchor, c), math.inf))
  order = {name: i for i, name in enumerate((ANCHOR, *_HEADLINE))}
  curves = [*own, *sorted(curves, key=lambda c: order[c.name])][:_HEADLINE_ROWS]
  columns = [
    Column('codec', _title),
    Column('size is', lambda curve: curve.kind),
    Column(f'PSNR at {NEAR_BPP:g} bpp', lambda curve: _psnr_at(curve, NEAR_BPP), '.2f'),
    Column(
      f'bits at equal PSNR against {ANCHOR}, %',
      lambda curve: _change(anchor, curve),
      '+.1f',
    ),
  ]
  return markdown_table(
    columns, sorted(curves, key=lambda c: _or(_change(anchor, c), math.inf))
  )


def published_sizes(results: Results) -> str:
  """Lays out PSNR at a rival's published sizes, for families that name one."""
  known = {curve.name: curve for curve in others(results)}
  out = []
  for curve in ours(results):
    rival = known.get(getattr(tables.family_of(curve.name), 'RIVAL', None))
    if rival is None:
      continue
    lines = [
      {'rival': point, 'psnr': _psnr_at(curve, point.bpp)} for point in rival.points
    ]
    columns = [
      Column('bpp', lambda x: x['rival'].bpp, 'g'),
      Column(f'{rival.name} ({rival.kind})', lambda x: x['rival'].psnr, '.2f'),
      Column('codax (files)', 'psnr', '.2f'),
      Column('dB more', lambda x: x['psnr'] - x['rival'].psnr, '+.2f'),
      *(
        Column(n, lambda x, n=n: _psnr_at(known[n], x['rival'].bpp), '.2f')
        for n in _DRAWN
        if n in known
      ),
    ]
    reached = [line for line in lines if math.isfinite(line['psnr'])]
    out.append(markdown_table(columns, reached))
  return '\n'.join(out)


def values(results: Results, name: str) -> dict[str, tuple[Any, str]]:
  """Computes figures of one of our Kodak runs for prose: key -> (number, format)."""
  result = next((r for r in results if r['name'] == name), None)
  curve = next(iter(ours([result])), None) if result else None
  anchor = next((c for c in others(results) if c.name == ANCHOR), None)
  if curve is None or anchor is None:
    return {}
  found = {
    'bd_rate_vtm': (_change(anchor, curve), '+.1f'),
    'psnr_near': (_psnr_at(curve, NEAR_BPP), '.2f'),
  }
  each = next((c for c in others(results) if c.rows), None)
  if each is not None:
    found['bd_rate_per_image'] = (_change_of_images(each, curve), '+.1f')
  return found


# --- plot ---------------------------------------------------------------------------


def draw(results: Results) -> bytes:
  """Draws ours and others over Kodak, as a PNG that names its numbers."""
  points = _plotted(results)
  bold = [name for name in points if name.startswith('codax')]
  title = f'Kodak, means over the {KODAK} pictures'
  return plots.rate_distortion(points, title, bold, _numbers_id(points))


def is_stale(path: Path, results: Results) -> bool:
  """Tells whether the plot is of other numbers, or missing."""
  points = _plotted(results)
  if not (points and path.exists()):
    return bool(points) or path.exists()
  return Image.open(path).text.get('Description') != _numbers_id(points)


def _plotted(results: Results) -> dict[str, list[tuple[float, float]]]:
  """Collects points by name, ours first; nothing without any of ours."""
  found = {f'codax {curve.name}': curve.points for curve in ours(results)}
  if found:
    found |= {c.name: c.points for c in others(results) if c.name in _PLOTTED}
  return {
    name: [(p.bpp, p.psnr) for p in points if p.bpp <= _MOST]
    for name, points in found.items()
  }


def _numbers_id(points: Mapping[str, Sequence[tuple[float, float]]]) -> str:
  """Hashes curves, to tell them from others."""
  return hashlib.sha256(json.dumps(points).encode()).hexdigest()


# --- arithmetic ---------------------------------------------------------------------


def _points(rows: Sequence[Row]) -> list[Point]:
  """Averages the images at each operating point, sizes rising."""
  means = [measure.mean(group) for group in measure.by_point(rows).values()]
  return sorted(Point(m.bpp, m.psnr, m.psnr_pooled) for m in means)


def _published_row(codec: str, row: Mapping[str, Any]) -> Row:
  height, width, channels = _PIXELS
  return Row(
    image=row['image'],
    codec=codec,
    point=row['point'],
    bytes=round(row['bpp'] * height * width / 8),
    bpp=row['bpp'],
    psnr=row['psnr'],
    height=height,
    width=width,
    channels=channels,
  )


def _title(curve: Curve) -> str:
  if curve.config is None:
    return curve.name
  return f'**codax, `{curve.config}`**'


def _change(anchor: Curve, curve: Curve, key: str = 'psnr') -> float | None:
  """Computes the BD-rate of mean curves, in %."""
  both = [
    [Point(p.bpp, get(p, key)) for p in c.points if get(p, key) is not None]
    for c in (anchor, curve)
  ]
  return tables.bd_rate(*both) if all(both) else None


def _change_of_images(anchor: Curve, curve: Curve) -> dict[str, float | None] | None:
  """Averages the images' own BD-rates, in %, with a standard error."""
  if not curve.rows:
    return None
  by_stem = [
    {
      PurePath(image).stem: rows
      for (_, image), rows in measure.by_image(c.rows).items()
    }
    for c in (anchor, curve)
  ]
  changes = [
    tables.bd_rate(by_stem[0][image], rows) for image, rows in by_stem[1].items()
  ]
  return statistics.mean_and_error([_or(change, math.nan) for change in changes])


def _psnr_at(curve: Curve, bpp: float) -> float:
  """Interpolates the PSNR of a mean curve at a size; NaN outside of it."""
  return rate.psnr_at(
    [p.bpp for p in curve.points], [p.psnr for p in curve.points], bpp
  )


def _or(value: float | None, otherwise: float) -> float:
  return otherwise if value is None or math.isnan(value) else value
