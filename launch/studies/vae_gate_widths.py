r"""Finds the widths at which activations cost as much as the gate's reference.

  taskset -c 0 python launch/studies/vae_gate_widths.py [--times=N]

For every activation of ``configs/grids/vae_gate.py`` it prints the width at which the
number of parameters is nearest to the reference's, and the width at which the measured
time of a training step is. The widths are then written out in the grid by hand.

A time is the least of several of the compiled step, taken in turns with the reference.
It is processor time, which on one core is what the step would take alone. The first
width is that of equal FLOPs; the second follows from its time, which goes as a power of
the width; the result lies between the two, or beyond, on the line through both in
logarithms, and is measured once more.
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


def count_flops(setting: sweeps.Setting, width: int) -> float:
  """Counts the FLOPs of a step, of the program before it is compiled."""
  import jax

  step, _, state, _ = make_step(setting, width)
  return jax.jit(step).lower(state).cost_analysis()['flops']


def find_nearest(cost: Callable[[int], float], target: float) -> int:
  """Finds the width whose cost, a polynomial of degree 2 in it, is nearest a target."""
  import numpy as np

  widths = np.arange(1, MAX_WIDTH + 1)
  known = [cost(width) for width in _KNOTS]
  costs = np.polyval(np.polyfit(_KNOTS, known, 2), widths)
  return int(widths[np.abs(np.log(np.maximum(costs, 1) / target)).argmin()])


class Program:
  """A compiled step and its state."""

  def __init__(self, setting: sweeps.Setting, width: int):
    import jax

    step, init, _, _ = make_step(setting, width)
    self.state = jax.jit(init)()
    self.step = jax.jit(step, donate_argnums=0)

  def time(self) -> float:
    """Makes a step; returns its seconds of processor time."""
    import jax

    begin = time.process_time()
    self.state = jax.block_until_ready(self.step(self.state))
    return time.process_time() - begin


def compare(program: Program, reference: Program, times: int) -> float:
  """Returns the time of a step as a multiple of the reference's."""
  for _ in range(2):  # the first one compiles
    program.time(), reference.time()
  pairs = [(program.time(), reference.time()) for _ in range(times)]
  ours, theirs = (min(column) for column in zip(*pairs))
  return ours / theirs


def measure_near_equal_time(
  setting: sweeps.Setting, base: Program, width: int, times: int
) -> dict[int, float]:
  """Measures the step at widths near that of equal time.

  Returns:
    Multiples of the reference's time, by width.
  """
  measured = {}

  def measure(width: int) -> None:
    if width not in measured:
      measured[width] = compare(Program(setting, width), base, times)

  measure(width)
  second = max(1, round(width * measured[width] ** (-1 / POWER)))
  measure(second if second != width else width + 1)
  (a, at_a), (b, at_b) = sorted(measured.items())
  power = math.log(at_b / at_a) / math.log(b / a)
  power = min(max(power, 0.5), 2.5)
  nearest = min(measured, key=lambda w: abs(math.log(measured[w])))
  measure(max(1, round(nearest * measured[nearest] ** (-1 / power))))
  return measured


def main(argv: list[str] | None = None) -> int:
  parser = errors.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--times', type=int, default=30, help='steps to time')
  args = parser.parse_args(argv)
  grid = sweeps.load(GRID)
  settings = {setting.name: setting for setting in grid.settings}
  reference = settings[grid.baseline]
  width = reference.overrides['model.width']
  parameters, flops = count_parameters(reference, width), count_flops(reference, width)
  base = Program(reference, width)
  base.time()
  step_ms = 1e3 * min(base.time() for _ in range(args.times))
  print(f'{reference.name}: width {width}, {parameters} parameters, {step_ms:.1f} ms')
  for name, setting in settings.items():
    if not name.startswith('time.'):
      continue
    cost = lambda width, setting=setting: count_parameters(setting, width)
    of_parameters = find_nearest(cost, parameters)
    flop_cost = lambda width, setting=setting: count_flops(setting, width)
    start = find_nearest(flop_cost, flops)
    measured = measure_near_equal_time(setting, base, start, args.times)
    of_time = min(measured, key=lambda width: abs(math.log(measured[width])))
    times = ', '.join(f'{x:.2f} at {width}' for width, x in measured.items())
    name, counts = name.removeprefix('time.'), (cost(of_time), cost(of_parameters))
    print(f'{name}: ({of_time}, {of_parameters})  # step time {times}; parameters '
          f'{counts[0]}, {counts[1]}', flush=True)  # fmt: skip
  return 0


if __name__ == '__main__':
  signals.end_process(errors.exit_status(lambda: main(sys.argv[1:])))
