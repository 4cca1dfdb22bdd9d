"""Sweeps over a number: settings named NAME.KEY=NUMBER make a series for each NAME.

The first series is the one that the others are compared with, run by run of the same
number and seed.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from codax.reports import layout, plots, statistics
from codax.reports.layout import Column, markdown_table
from codax.reports.tables import Results, hardware, select

_NAME = re.compile(r'(.+)\.(\w+)=(\d+(?:\.\d+)?)')
_SURE = 2.0  # standard errors from 0 at which a difference counts
_FIGURES = {'perplexity': 'hard perplexity', 'psnr': 'PSNR of crops, dB'}


class Point(NamedTuple):
  """One setting of a series.

  Attributes:
    series: name of the series.
    key: name of the number.
    at: the number.
    setting: name of the setting.
  """

  series: str
  key: str
  at: float
  setting: str


def find(result: Mapping[str, Any]) -> list[Point]:
  """Lists the settings of a sweep as points of series; none if any is no point."""
  names = [row['setting'] for row in result.get('settings', ())]
  found = [_NAME.fullmatch(name) for name in names]
  if result.get('comparison') != 'curves' or not found or not all(found):
    return []
  points = [Point(m[1], m[2], float(m[3]), m[0]) for m in found]
  has_one_key = len({point.key for point in points}) == 1
  return points if has_one_key and len({point.at for point in points}) > 1 else []


def table(results: Results, *patterns: str) -> str:
  """Lays out series: figures by number and name, and differences from the first."""
  out = []
  for result in select(results, 'sweep', patterns):
    points = find(result)
    if not points:
      continue
    first = points[0].series
    means = {row['setting']: row for row in result['settings']}
    rows = [
      {'point': point, **means[point.setting], **_differences(result, points, point)}
      for point in sorted(points, key=lambda p: p.at)  # stable: series keep their order
    ]
    columns = [
      Column(points[0].key, lambda row: f'{row["point"].at:g}', 's'),
      Column('setting', lambda row: f'`{row["point"].series}`'),
      Column('hard perplexity', 'perplexity', '.1f'),
      Column('usage, %', 'usage', '.0f', 100),
      Column('PSNR of crops', 'psnr', '.2f'),
      Column(f'perplexity against `{first}`', 'perplexity_gain', '+.1f'),
      Column(f'PSNR against `{first}`', 'psnr_gain', '+.2f'),
      Column('higher perplexity, PSNR not lower?', 'verdict', 's'),
    ]
    head = (
      f'Means over {result["settings"][0]["seeds"]} seeds ± standard error, '
      f'{hardware(result)}; a difference counts from {_SURE:g} standard errors on:'
    )
    out.append(f'{head}\n\n{markdown_table(layout.filled(columns, rows), rows)}')
  return '\n'.join(out)


def _differences(
  result: Mapping[str, Any], points: Sequence[Point], point: Point
) -> dict[str, Any]:
  """Compares a point with that of the first series at the same number."""
  base = next((p for p in points if p.at == point.at), point)
  if base == point or base.series != points[0].series:
    return {'perplexity_gain': '', 'psnr_gain': '', 'verdict': ''}
  runs = {(run['setting'], run['seed']): run['metrics'] for run in result['runs']}
  seeds = [seed for name, seed in runs if name == point.setting]
  gains = {}
  for key in ('perplexity', 'psnr'):
    values = [
      _number(runs[point.setting, seed], key)
      - _number(runs.get((base.setting, seed), {}), key)
      for seed in seeds
    ]
    gains[key] = statistics.mean_and_error(values)
  return {
    'perplexity_gain': gains['perplexity'],
    'psnr_gain': gains['psnr'],
    'verdict': judge(gains['perplexity'], gains['psnr']),
  }


def _number(metrics: Mapping[str, Any], key: str) -> float:
  value = metrics.get(key)
  return math.nan if value is None else value


def judge(perplexity: Mapping[str, Any], psnr: Mapping[str, Any]) -> str:
  """Answers whether the perplexity is higher and the PSNR not lower.

  Args:
    perplexity: {'mean', 'error'} of the differences.
    psnr: the same of the PSNR.

  Returns:
    'yes', 'no', or 'unclear' where errors are unknown or too large.
  """
  if None in (*perplexity.values(), *psnr.values()):
    return 'unclear'
  low, high = _bounds(perplexity)
  if high < 0 or _bounds(psnr)[1] < 0:
    return 'no'
  return 'yes' if low > 0 else 'unclear'


def _bounds(gain: Mapping[str, float]) -> tuple[float, float]:
  margin = _SURE * gain['error']
  return gain['mean'] - margin, gain['mean'] + margin


# --- plots --------------------------------------------------------------------------


def find_stale_plots(folder: Path, results: Results) -> dict[Path, Callable[[], bytes]]:
  """Finds plots that are missing or of other numbers, and how to draw them.

  Args:
    folder: folder of the plots, NAME.png for the sweep NAME.
    results: all results.
  """
  stale = {}
  for result in select(results, 'sweep'):
    curves = {key: _curves(result, key) for key in _FIGURES}
    if not all(curves.values()):
      continue
    path = folder / f'{result["name"]}.png'
    number = hashlib.sha256(json.dumps(curves, sort_keys=True).encode()).hexdigest()
    if path.exists() and Image.open(path).text.get('Description') == number:
      continue
    key = find(result)[0].key
    panels = {label: curves[figure] for figure, label in _FIGURES.items()}
    stale[path] = lambda p=panels, k=key, n=number: plots.series(p, k, n)
  return stale


def _curves(result: Mapping[str, Any], key: str) -> dict[str, list[list[float]]]:
  """Collects [number, mean, error] of a figure by series; unknown ones are left out."""
  means = {row['setting']: row[key] for row in result.get('settings', ()) if key in row}
  found: dict[str, list[list[float]]] = {}
  for point in find(result):
    value = means.get(point.setting) or {'mean': None}
    if value['mean'] is not None:
      row = [point.at, value['mean'], value['error'] or 0.0]
      found.setdefault(point.series, []).append(row)
  return found
