r"""Finds widths of equal parameters and steps of equal seconds for the grid kan_vs_mlp.

  python launch/studies/kan_vs_mlp_sizes.py [--times=N]

For the baseline of ``configs/grids/kan_vs_mlp.py`` and each of its rivals it prints the
number of parameters, XLA's count of the FLOPs of a training step and its seconds; for
rivals also the last width at which parameters, and that at which FLOPs, are nearest to
the baseline's, and the steps that take as many seconds. They are written out in the
grid by hand. Times are medians; nothing else should run.
"""

import sys
from pathlib import Path
from typing import Any

from codax import signals

signals.guard_imports(__name__)

from codax import errors, sweeps
from codax.training import flags, step_times

ROOT = Path(__file__).parents[2]
GRID = ROOT / 'configs/grids/kan_vs_mlp.py'
CLASSES = 10
_KNOTS = 256, 512  # widths to count at


def make_task(setting: sweeps.Setting, width: int | None = None) -> tuple[Any, dict]:
  """Makes the task of a setting and a batch of random images.

  Args:
    setting: setting of the grid.
    width: replaces the last one of the model, or None.
  """
  import numpy as np

  from codax.classify import task as task_lib

  arguments = [f'--config={ROOT / setting.config}']
  arguments += [f'--config.{key}={value}' for key, value in setting.overrides.items()]
  config = flags.parse(['train.py', *arguments]).config
  if width is not None:
    config.model.widths = (*config.model.widths[:-1], width)
  rng = np.random.default_rng(0)
  shape = (config.data.batch_size, config.data.crop, config.data.crop, 3)
  batch = {
    'image': rng.integers(0, 256, shape, np.uint8),
    'label': rng.integers(0, CLASSES, shape[0], np.int32),
  }
  return task_lib.make(config), batch


def count(setting: sweeps.Setting, width: int | None = None) -> tuple[float, float]:
  """Counts parameters, and FLOPs of a step before XLA optimizes it."""
  import jax

  task, batch = make_task(setting, width)
  key = jax.random.key(0)
  state = jax.eval_shape(task.init, key, batch)
  step = lambda state: task.train_step(state, batch, key)[0]
  flops = jax.jit(step).lower(state).cost_analysis()['flops']
  return sum(leaf.size for leaf in jax.tree.leaves(state.params)), flops


def measure_seconds(setting: sweeps.Setting, times: int) -> float:
  """Measures a training step, see `step_times.time_step`."""
  from codax.data import pipeline

  task, batch = make_task(setting)
  pipe = pipeline.Pipeline(batch, lambda data, rng: data, None, None)
  return step_times.time_step(task, pipe, 0, times)['step_s']


def find_widths(setting: sweeps.Setting, targets: tuple[float, float]) -> list[int]:
  """Finds the last widths of the wanted parameters and FLOPs: both are linear in it."""
  low, high = _KNOTS
  costs = zip(count(setting, low), count(setting, high), targets)
  return [round(low + (to - a) / (b - a) * (high - low)) for a, b, to in costs]


def main(argv: list[str] | None = None) -> int:
  parser = errors.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--times', type=int, default=20, help='steps to time')
  args = parser.parse_args(argv)
  grid = sweeps.load(GRID)
  settings = {setting.name: setting for setting in grid.settings}
  base = settings[grid.baseline]
  targets, total = count(base), base.overrides['total_steps']
  reference = measure_seconds(base, args.times)
  for name, setting in settings.items():
    parameters, flops = count(setting)
    seconds = measure_seconds(setting, args.times)
    line = f'{name}: {parameters:,} parameters, {flops / 1e9:.2f} GFLOP and '
    line += f'{1e3 * seconds:.0f} ms a step'
    if name != grid.baseline:
      widths = find_widths(setting, targets)
      line += f'; equal parameters at width {widths[0]}, equal FLOPs at {widths[1]}, '
      line += f'equal seconds in {round(total * reference / seconds)} steps'
    print(line, flush=True)
  return 0


if __name__ == '__main__':
  signals.end_process(errors.exit_status(lambda: main(sys.argv[1:])))
