r"""Finds the widths at which activations cost as much as the gate's reference.

  taskset -c 0 python launch/studies/vae_gate_widths.py [--times=N] [--check]

For every activation of ``configs/grids/vae_gate.py`` it prints the width at which the
number of parameters is nearest to the reference's, and the width at which the measured
time of a training step is. The widths are then written out in the grid by hand.

A time is the least of several of the compiled step, taken in turns with the reference.
It is processor time, which on one core is what the step would take alone. The first
width is that of equal parameters; the second follows from its time, which goes about as
a power of the width; the result lies on the line through both in logarithms.
"""

import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from codax import signals

signals.guard_imports(__name__)

from codax import errors, sweeps
from codax.training import flags

ROOT = Path(__file__).parents[2]
GRID = ROOT / 'configs/grids/vae_gate.py'
POWER = 1.6  # of the width, in a step's time: between convolutions and all else
MAX_WIDTH = 160
_KNOTS = (8, 32, 64)


def make_step(setting: sweeps.Setting, width: int) -> tuple[Any, Any, Any, int]:
  """Returns the training step, a state, a batch and the number of parameters."""
  import jax
  import numpy as np

  from codax.vae import task as task_lib

  overrides = {**setting.overrides, 'model.width': width}
  arguments = [f'--config={ROOT / setting.config}']
  arguments += [f'--config.{key}={value}' for key, value in overrides.items()]
  config = flags.parse(['train.py', *arguments]).config
  task = task_lib.make(config)
  shape = (config.data.batch_size, config.data.crop, config.data.crop, 3)
  batch = {'image': np.random.default_rng(0).integers(0, 256, shape, np.uint8)}
  init = lambda: task.init(jax.random.key(0), batch)
  state = jax.eval_shape(init)
  count = sum(x.size for x in jax.tree.leaves(state.params))
  step = lambda state: task.train_step(state, batch, jax.random.key(1))[0]
  return step, init, state, count


def count_parameters(setting: sweeps.Setting, width: int) -> int:
  """Counts the parameters without running anything."""
  return make_step(setting, width)[3]


def find_nearest(cost: Callable[[int], float], target: float) -> int:
  """Finds the width whose cost, a polynomial of degree 2 in it, is nearest a target."""
  import numpy as np

  widths = np.arange(1, MAX_WIDTH + 1)
  known = [cost(width) for width in _KNOTS]
  costs = np.polyval(np.polyfit(_KNOTS, known, 2), widths)
  return int(widths[np.abs(np.log(np.maximum(costs, 1) / target)).argmin()])


def make_timer(setting: sweeps.Setting, width: int) -> Callable[[], float]:
  """Returns a function that makes a step and returns its seconds of processor time."""
  import jax

  step, init, _, _ = make_step(setting, width)
  jitted = jax.jit(step, donate_argnums=0)
  state = jax.jit(init)()

  def time_step() -> float:
    nonlocal state
    begin = time.process_time()
    state = jax.block_until_ready(jitted(state))
    return time.process_time() - begin

  return time_step


def compare(timer: Callable[[], float], base: Callable[[], float], times: int) -> float:
  """Returns the time of a step as a multiple of the reference's."""
  for _ in range(2):  # the first one compiles
    timer(), base()
  pairs = [(timer(), base()) for _ in range(times)]
  ours, theirs = (min(column) for column in zip(*pairs))
  return ours / theirs


def find_equal_time(
  setting: sweeps.Setting, base: Callable[[], float], width: int, times: int
) -> tuple[int, dict[int, float]]:
  """Finds the width of equal step time, from two measurements near it.

  Args:
    setting: activation to measure.
    base: timer of the reference.
    width: width to measure first.
    times: steps to time.

  Returns:
    The width, and multiples of the reference's time by measured width.
  """
  first = compare(make_timer(setting, width), base, times)
  second = round(width * first ** (-1 / POWER))
  second = max(1, second if second != width else width + 1)
  measured = {width: first, second: compare(make_timer(setting, second), base, times)}
  (a, at_a), (b, at_b) = ((math.log(w), math.log(x)) for w, x in measured.items())
  power = min(max((at_b - at_a) / (b - a), 0.5), 2.5)
  return round(math.exp(b - at_b / power)), measured


def check(grid: sweeps.Grid, base: Callable[[], float], times: int) -> None:
  """Prints the step time of every setting but the baseline at its own width."""
  for setting in grid.settings:
    if setting.name != grid.baseline:
      width = setting.overrides['model.width']
      ratio = compare(make_timer(setting, width), base, times)
      print(f'{setting.name}: width {width}, step time {ratio:.2f}', flush=True)


def main(argv: list[str] | None = None) -> int:
  parser = errors.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--times', type=int, default=30, help='steps to time')
  parser.add_argument('--check', action='store_true', help='measure widths in the grid')
  args = parser.parse_args(argv)
  grid = sweeps.load(GRID)
  settings = {setting.name: setting for setting in grid.settings}
  reference = settings[grid.baseline]
  width = reference.overrides['model.width']
  parameters = count_parameters(reference, width)
  base = make_timer(reference, width)
  base()
  step_ms = 1e3 * min(base() for _ in range(args.times))
  print(f'{reference.name}: width {width}, {parameters} parameters, {step_ms:.1f} ms')
  if args.check:
    check(grid, base, args.times)
    return 0
  for name, setting in settings.items():
    if not name.startswith('time.'):
      continue
    cost = lambda width, setting=setting: count_parameters(setting, width)
    of_parameters = find_nearest(cost, parameters)
    of_time, measured = find_equal_time(setting, base, of_parameters, args.times)
    times = ', '.join(f'{x:.2f} at {width}' for width, x in measured.items())
    name, counts = name.removeprefix('time.'), (cost(of_time), cost(of_parameters))
    print(f'{name}: ({of_time}, {of_parameters})  # step time {times}; parameters '
          f'{counts[0]}, {counts[1]}', flush=True)  # fmt: skip
  return 0


if __name__ == '__main__':
  signals.end_process(errors.exit_status(lambda: main(sys.argv[1:])))
