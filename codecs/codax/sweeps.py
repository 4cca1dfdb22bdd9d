"""Sweeps: grids of training runs.

A grid is a Python file whose ``get_grid()`` returns a `Grid`; ``launch/sweep.py`` runs
it and writes one JSON; `codax.reports.statistics` compares its runs.
"""

import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from codax.config import blame_file, check_range
from codax.errors import CodaxError, unknown


class Setting(NamedTuple):
  """One line of a grid.

  Attributes:
    name: letters, digits and ``._=-``.
    config: configuration file, with its argument if it takes one, from the
      repository's root: 'configs/vqvae_ba.py'.
    overrides: values of the configuration's keys: {'quantizer.balance': 0.5}.
  """

  name: str
  config: str
  overrides: Mapping[str, Any] = {}


class Grid(NamedTuple):
  """Settings and seeds to run, and the comparison to make of them.

  Attributes:
    settings: lines of the grid.
    seeds: seeds of the runs of every setting.
    lmbdas: rate–distortion weights at which held-out images are written; the first
      is the smallest. None: no curves.
    preset: encoder's preset for these files.
    nominal: weight, one of `lmbdas`, that stands for a setting in the table.
    searched: settings whose whole curves the others are compared with.
    nearest: settings of which only the first point counts: at a `lmbdas[0]` next to 0
      codes are the nearest ones, at any cost.
    baseline: setting that `statistics.ablation` or `statistics.gains` compare the
      others with, or None. For codecs that train on each image: their runs have files
      at several lambdas, or of several sizes, anyway.
    target: PSNR in dB to reach in few steps, or None. With it `statistics.trainings`
      compares the settings' trainings, seed by seed with those of `baseline`.
    accuracy_targets: accuracies of classifiers to reach in few steps, or none. With
      them `statistics.accuracies` compares the settings.
  """

  settings: Sequence[Setting]
  seeds: Sequence[int] = (0, 1, 2)
  lmbdas: Sequence[float] = ()
  preset: str = 'fast'
  nominal: float | None = None
  searched: Sequence[str] = ()
  nearest: Sequence[str] = ()
  baseline: str | None = None
  target: float | None = None
  accuracy_targets: Sequence[float] = ()


def load(path: str | Path) -> Grid:
  """Loads the grid of a file.

  Raises:
    CodaxError: the file has no grid, or a bad one.
  """
  path = Path(path).expanduser()
  if not path.is_file():
    near = sorted(p.as_posix() for p in path.parent.glob('*.py'))
    raise unknown('grid', path, near) if near else CodaxError(f'no such grid: {path}')
  spec = importlib.util.spec_from_file_location(f'grid_{path.stem}', path)
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
    grid = module.get_grid()
  except (Exception, SystemExit) as e:
    raise blame_file(path, e, 'get_grid') from e
  if not isinstance(grid, Grid):
    raise CodaxError(f'{path}: get_grid() must return a codax.sweeps.Grid')
  try:
    check(grid)
  except CodaxError as e:
    raise CodaxError(f'{path}: {e}') from e
  return grid


def check(grid: Grid) -> None:
  """Checks a grid.

  Raises:
    CodaxError: it cannot be run as it is meant.
  """
  names = [setting.name for setting in grid.settings]
  if not names or not grid.seeds:
    raise CodaxError('a grid needs a setting and a seed')
  for name in names:
    if not re.fullmatch(r'[\w.=-]+', name):
      raise CodaxError(f'the name {name!r} is not made of letters, digits and ._=-')
    if names.count(name) > 1:
      raise CodaxError(f'two settings are named {name!r}')
  for seed in grid.seeds:
    check_range('a seed', seed, 0, 2**32 - 1, is_integer=True)
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
  if grid.target is not None:
    check_range('target', grid.target, 0)
    if grid.baseline is None:
      raise CodaxError('a target needs a baseline to compare with')
  for target in grid.accuracy_targets:
    check_range('an accuracy of accuracy_targets', target, 0, 1)
  if grid.accuracy_targets and grid.baseline is None:
    raise CodaxError('accuracy_targets need a baseline to compare with')
  if (grid.searched or grid.nearest) and not grid.lmbdas:
    raise CodaxError('nothing can be compared without lmbdas')
