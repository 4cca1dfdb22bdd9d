"""Grids of training runs, and what a table says about their results.

A grid is a Python file whose ``get_grid()`` returns a `Grid`; ``launch/sweep.py`` runs
it and writes one JSON, `summarise` turns that into means over the seeds and into rates
at equal quality. All of it is arithmetic on numbers that were measured on files.
"""

import importlib.util
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from codax.errors import CodaxError, unknown
from codax.metrics import rate

METRICS = ('perplexity', 'usage', 'psnr')
_AVERAGED = ('psnr_float', 'gaussians', 'seconds', 'positions_bits', 'positions_raw')


def kept(path: Path, where: Path, wanted: dict, under: str | None = None):
  """What was measured already, or None if it was not, or not to its end.

  Args:
    path: of the JSON that it would be in.
    where: named in the error.
    wanted: what it is to have been made from; another request is another run.
    under: the key that has this in the file; None if it is at its top.

  Raises:
    CodaxError: it was made from something else.
  """
  try:
    content = json.loads(path.read_bytes())
    asked = content if under is None else content[under]
    found = {key: asked[key] for key in wanted}
  except (OSError, ValueError, KeyError, TypeError):
    return None
  for key, value in wanted.items():
    if found[key] != value:
      raise CodaxError(
        f'{where} holds a run with {key} = {found[key]}, not {value}: choose another '
        '--out, or remove it'
      )
  return content


class Setting(NamedTuple):
  """One line of a grid.

  Attributes:
    name: of the setting; letters, digits and ``._=-``.
    config: configuration file, with its argument if it takes one, from the
      repository's root: 'configs/vqvae_ba.py'.
    overrides: values of the configuration's keys: {'quantizer.balance': 0.5}.
  """

  name: str
  config: str
  overrides: Mapping[str, Any] = {}


class Grid(NamedTuple):
  """What is run, and what is compared with what.

  Attributes:
    settings: the lines.
    seeds: every setting is run with each of them.
    lmbdas: rate–distortion weights at which held-out pictures are written; the first
      is the smallest. None: no curves.
    preset: of the encoder for these files.
    nominal: the weight, one of `lmbdas`, that stands for a setting in the table.
    searched: settings whose whole curves the others are compared with.
    nearest: settings of which only the first point counts: at a `lmbdas[0]` next to 0
      codes are the nearest ones, whatever they cost.
    baseline: the setting that `switches` or `gains` compare the others with, or None.
      For codecs that train on each picture: their runs have files at several lambdas,
      or of several sizes, as it is.
  """

  settings: Sequence[Setting]
  seeds: Sequence[int] = (0, 1, 2)
  lmbdas: Sequence[float] = ()
  preset: str = 'fast'
  nominal: float | None = None
  searched: Sequence[str] = ()
  nearest: Sequence[str] = ()
  baseline: str | None = None


def load(path: str | Path) -> Grid:
  """The grid of a file; `CodaxError` for a file that has none, or a bad one."""
  path = Path(path)
  if not path.is_file():
    near = sorted(p.as_posix() for p in path.parent.glob('*.py'))
    raise unknown('grid', path, near) if near else CodaxError(f'no such grid: {path}')
  spec = importlib.util.spec_from_file_location(f'grid_{path.stem}', path)
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    grid = module.get_grid()
  except CodaxError:
    raise
  except Exception as e:
    raise CodaxError(f'{path}: {type(e).__name__}: {e}') from e
  if not isinstance(grid, Grid):
    raise CodaxError(f'{path}: get_grid() must return a codax.sweeps.Grid')
  try:
    check(grid)
  except CodaxError as e:
    raise CodaxError(f'{path}: {e}') from e
  return grid


def check(grid: Grid) -> None:
  """Raises `CodaxError` for a grid that cannot be run as it is meant."""
  names = [setting.name for setting in grid.settings]
  if not names or not grid.seeds:
    raise CodaxError('a grid needs a setting and a seed')
  for name in names:
    if not re.fullmatch(r'[\w.=-]+', name):
      raise CodaxError(f'the name {name!r} is not made of letters, digits and ._=-')
    if names.count(name) > 1:
      raise CodaxError(f'two settings are named {name!r}')
  if len(set(grid.seeds)) < len(grid.seeds):
    raise CodaxError('a seed is there twice')
  if list(grid.lmbdas) != sorted(set(grid.lmbdas)) or min(grid.lmbdas, default=1) <= 0:
    raise CodaxError('lmbdas must be positive and rise')
  if grid.nominal is not None and grid.nominal not in grid.lmbdas:
    raise CodaxError(f'nominal = {grid.nominal} is not one of lmbdas')
  of_base = () if grid.baseline is None else (grid.baseline,)
  for name in (*grid.nearest, *grid.searched, *of_base):
    if name not in names:
      raise unknown('setting', name, names)
  if (grid.searched or grid.nearest) and not grid.lmbdas:
    raise CodaxError('nothing can be compared without lmbdas')


def mean_and_error(values: Sequence[float]) -> dict[str, float | None]:
  """Mean and its standard error; None where there is none (one value, or a NaN)."""
  values = np.asarray(values, np.float64)
  if not len(values) or not np.isfinite(values).all():
    return {'mean': None, 'error': None}
  error = None
  if len(values) > 1:
    error = float(values.std(ddof=1) / math.sqrt(len(values)))
  return {'mean': float(values.mean()), 'error': error}


def saving_at(curve: Any, point: Mapping[str, float]) -> float:
  """Percent of a point's rate that a curve saves at the point's PSNR.

  Args:
    curve: rows with 'bpp' and 'psnr'.
    point: one such row.

  Returns:
    Percent, negative where the curve needs more; NaN where it does not reach.
  """
  rates = [row['bpp'] for row in curve]
  found = rate.rate_at(rates, [row['psnr'] for row in curve], point['psnr'])
  return 100 * (1 - found / point['bpp'])


def _saving_over(curve: Any, anchor: Any) -> tuple[float, float]:
  """(percent saved against the anchor over the PSNR that both cover, that share)."""
  columns = lambda rows: ([r['bpp'] for r in rows], [r['psnr'] for r in rows])
  shared = rate.overlap(columns(anchor)[1], columns(curve)[1])
  try:
    return -rate.bd_rate(*columns(anchor), *columns(curve)), shared
  except CodaxError:  # too few points that rise
    return math.nan, shared


def _nominal(content: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, float]:
  for row in run['curve']:
    if row['lmbda'] == content['nominal']:
      return row
  return {}


def summarise(content: Mapping[str, Any]) -> list[dict[str, Any]]:
  """One row a setting, in the grid's order: means over seeds with standard errors.

  Args:
    content: what ``launch/sweep.py`` writes: 'runs', each with 'setting', 'seed',
      'metrics' (of the last evaluation) and 'curve' (rows of lmbda, bpp and psnr, means
      over pictures), and the grid's 'nominal', 'searched' and 'nearest'.

  Returns:
    Dicts of 'setting', 'seeds' (how many) and numbers {'mean', 'error'}: `METRICS`;
    'file_bpp' and 'file_psnr' at the nominal lmbda; and by the other setting
    'saving_nearest' and 'saving_searched', percent at equal PSNR, seed by seed. The
    latter also have 'overlap', the mean share of the PSNR range that they are about.
  """
  runs = {(run['setting'], run['seed']): run for run in content['runs']}
  out = []
  for name in dict.fromkeys(run['setting'] for run in content['runs']):
    mine = [run for run in content['runs'] if run['setting'] == name]
    row = {'setting': name, 'seeds': len(mine)}
    for key in METRICS:
      row[key] = mean_and_error([run['metrics'].get(key, math.nan) for run in mine])
    if content.get('nominal') is not None:
      points = [_nominal(content, run) for run in mine]
      for key in ('bpp', 'psnr'):
        row[f'file_{key}'] = mean_and_error([p.get(key, math.nan) for p in points])
    row['saving_nearest'], row['saving_searched'] = {}, {}
    for other in content.get('nearest', ()):
      savings = [
        saving_at(run['curve'], runs[other, run['seed']]['curve'][0])
        for run in mine
        if (other, run['seed']) in runs
      ]
      row['saving_nearest'][other] = mean_and_error(savings)
    for other in content.get('searched', ()):
      pairs = [
        _saving_over(run['curve'], runs[other, run['seed']]['curve'])
        for run in mine
        if (other, run['seed']) in runs
      ]
      found = mean_and_error([saving for saving, _ in pairs])
      shared = float(np.mean([o for _, o in pairs])) if pairs else 0.0
      row['saving_searched'][other] = {**found, 'overlap': shared}
    out.append(row)
  return out


def costs(run: Mapping[str, Any]) -> dict[tuple[str, float], float]:
  """J = MSE (of values in [0, 1]) + lambda * bpp of every file of a run, by picture and
  lambda."""
  found = {}
  for row in run['files']:
    mse = 10 ** (-float(row['psnr']) / 10)
    found[row['image'], row['lmbda']] = mse + row['lmbda'] * row['bpp']
  return found


def switches(content: Mapping[str, Any]) -> list[dict[str, Any]]:
  """One row a setting, in the grid's order: what it changes against the baseline.

  Args:
    content: what ``launch/sweep.py`` writes for a grid with a baseline. Runs have
      'files' with 'image', 'lmbda', 'bpp', 'psnr' and 'macs_per_pixel'.

  Returns:
    Dicts of 'setting'; 'problems', how many (picture, lambda, seed) are compared;
    'log_j' and 'log_bytes', each {'mean', 'error'} over them of log(value / that of the
    baseline), of J (see `costs`) and of the file's size; 'macs_per_pixel', the mean;
    and 'step_ms', of a picture, the mean over seeds (None where nobody measured it).
  """
  runs = {(run['setting'], run['seed']): run for run in content['runs']}
  out = []
  for name in dict.fromkeys(run['setting'] for run in content['runs']):
    mine = [run for run in content['runs'] if run['setting'] == name]
    ratios, sizes = [], []
    for run in mine:
      base = runs[content['baseline'], run['seed']]
      theirs = costs(base)
      ratios += [math.log(j / theirs[key]) for key, j in costs(run).items()]
      sizes += [math.log(a['bytes'] / b['bytes']) for a, b in _pairs(run, base)]
    macs = [row['macs_per_pixel'] for run in mine for row in run['files']]
    times = [run['metrics'].get('step_ms_a_picture', math.nan) for run in mine]
    out.append(
      {
        'setting': name,
        'problems': len(ratios),
        'log_j': mean_and_error(ratios),
        'log_bytes': mean_and_error(sizes),
        'macs_per_pixel': float(np.mean(macs)),
        'step_ms': mean_and_error(times)['mean'],
      }
    )
  return out


def _pairs(run: Mapping[str, Any], base: Mapping[str, Any]) -> list[tuple[Any, Any]]:
  """The files of two runs, those of one picture and lambda together."""
  key = lambda row: (row['image'], row['lmbda'])
  theirs = {key(row): row for row in base['files']}
  return [(row, theirs[key(row)]) for row in run['files']]


def compared(content: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
  """What a finished sweep comes to, by the name under which results/ has it.

  Args:
    content: what ``launch/sweep.py`` writes.

  Returns:
    'summary', see `summarise`; for a grid with a baseline 'switches' (of the same name)
    if its files were made with lambdas, or else 'gains'.
  """
  if content.get('baseline') is None:
    return {'summary': summarise(content)}
  if all('lmbda' in row for run in content['runs'] for row in run['files']):
    return {'switches': switches(content)}
  return {'gains': gains(content)}


def psnr_at(curve: Sequence[Mapping[str, float]], size: float) -> float:
  """The PSNR of a curve at a file size: linear in log(bytes).

  Args:
    curve: rows with 'bytes' and 'psnr', two or more sizes.
    size: bytes. Beyond the curve its last two points go on in a line.

  Raises:
    CodaxError: fewer than two sizes.
  """
  points = sorted({row['bytes']: row['psnr'] for row in curve}.items())
  if len(points) < 2:
    raise CodaxError('a curve needs files of two sizes')
  logs = np.log([p[0] for p in points])
  values = [p[1] for p in points]
  left = int(np.clip(np.searchsorted(logs, math.log(size)) - 1, 0, len(points) - 2))
  share = (math.log(size) - logs[left]) / (logs[left + 1] - logs[left])
  return float(values[left] + share * (values[left + 1] - values[left]))


def gains(content: Mapping[str, Any]) -> list[dict[str, Any]]:
  """One row a setting, in the grid's order: its files against the baseline's curves.

  Args:
    content: what ``launch/sweep.py`` writes for a grid with a baseline. Runs have
      'files' with 'image', 'picture' (the image and the setting of its size: the same
      in all runs), 'bytes', 'psnr' and numbers that are only averaged.

  Returns:
    Dicts of 'setting'; 'files', how many are compared; {'mean', 'error'} over them of
    'gain', dB above the baseline's curve of the same image (see `psnr_at`) at the
    file's own size, and of 'log_bytes', log(size / that of the baseline's file); and
    means of 'bytes', 'psnr' and, where all files have them, of 'psnr_float', before
    rounding, 'gaussians', 'seconds', 'positions_bits' and 'positions_raw'.
  """
  runs = {(run['setting'], run['seed']): run for run in content['runs']}
  out = []
  for name in dict.fromkeys(run['setting'] for run in content['runs']):
    mine = [run for run in content['runs'] if run['setting'] == name]
    found, sizes = [], []
    for run in mine:
      theirs = runs[content['baseline'], run['seed']]['files']
      same = {row['picture']: row for row in theirs}
      for row in run['files']:
        curve = [other for other in theirs if other['image'] == row['image']]
        found.append(float(row['psnr']) - psnr_at(curve, row['bytes']))
        sizes.append(math.log(row['bytes'] / same[row['picture']]['bytes']))
    rows = [row for run in mine for row in run['files']]
    means = {
      key: float(np.mean([float(row[key]) for row in rows]))
      for key in ('bytes', 'psnr', *_AVERAGED)
      if all(row.get(key) is not None for row in rows)
    }
    scores = {'gain': mean_and_error(found), 'log_bytes': mean_and_error(sizes)}
    out.append({'setting': name, 'files': len(found), **scores, **means})
  return out
