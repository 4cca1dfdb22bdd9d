r"""Measures how many steps the settings of codebook_switches make in equal time.

  taskset -c 0 python launch/studies/codebook_steps.py [--times=N] [--only=NAME,...]

For every setting of ``configs/grids/codebook_switches.py`` the compiled training step
is timed in turns with that of the baseline, and the table `STEPS` is printed, to be
pasted into the grid: numbers of steps that take the time of the baseline's. The machine
has to be idle.

A time is the least of several, of the processor, which on one core is what the step
takes alone. Of settings with a warm-up, steps before and after it are timed and
weighted by its share (its bound where the spectrum ends it).
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from codax import signals

signals.guard_imports(__name__)

from codax import console, errors, sweeps
from codax.training import flags

ROOT = Path(__file__).parents[2]
GRID = ROOT / 'configs/grids/codebook_switches.py'
BASELINE = 'ema'


def make_runner(setting: sweeps.Setting) -> Callable[[int], float]:
  """Returns a function from a step's number to the seconds of processor time it takes.

  Images are noise: times do not depend on them.
  """
  import jax
  import numpy as np

  from codax.vqvae import task as task_lib

  arguments = [f'--config={ROOT / setting.config}']
  arguments += [f'--config.{key}={value}' for key, value in setting.overrides.items()]
  config = flags.parse(['train.py', *arguments]).config
  task = task_lib.make(config)
  side = config.data.crop
  shape = (config.data.batch_size, side, side, 3)
  batch = {'image': np.random.default_rng(0).integers(0, 256, shape, np.uint8)}
  state = jax.jit(task.init)(jax.random.key(0), batch)
  step = jax.jit(task.train_step)

  def run(number: int) -> float:
    at = state.replace(step=jax.numpy.int32(number))
    begin = time.process_time()
    jax.block_until_ready(step(at, batch, jax.random.key(1)))
    return time.process_time() - begin

  return run


def time_setting(
  setting: sweeps.Setting, run: Callable[[int], float], times: int
) -> float:
  """Returns the seconds of a mean step of a setting, by its runner."""
  share = setting.overrides.get('quantize_from', 0.0)
  late = setting.overrides['total_steps'] - 1
  run(0), run(late)  # compiles, and touches all memory
  least = lambda number: min(run(number) for _ in range(times))
  after = least(late)
  return share * least(0) + (1 - share) * after if share else after


def count_steps(
  seconds: Mapping[str, float], baseline: str, base_steps: int
) -> dict[str, int]:
  """Returns the steps of equal time, multiples of 20, the baseline's as they are.

  Args:
    seconds: seconds of a step by setting.
    baseline: setting whose steps give the time.
    base_steps: their number.
  """
  total = base_steps * seconds[baseline]
  rounded = {
    name: max(round(total / each / 20) * 20, 20) for name, each in seconds.items()
  }
  return rounded | {baseline: base_steps}


def main(argv: list[str] | None = None) -> int:
  parser = errors.ArgumentParser(
    description=__doc__.splitlines()[0], allow_abbrev=False,
    formatter_class=argparse.ArgumentDefaultsHelpFormatter,
  )  # fmt: skip
  parser.add_argument('--times', type=int, default=20, help='steps that are timed')
  parser.add_argument('--only', default='', help='names of settings, by commas')
  args = parser.parse_args(sys.argv[1:] if argv is None else argv)
  if args.times < 1:
    raise errors.CodaxError(f'--times is {args.times}; valid: 1 or more')
  settings: dict[str, Any] = {one.name: one for one in sweeps.load(GRID).settings}
  names = [name for name in args.only.split(',') if name] or list(settings)
  for name in names:
    if name not in settings:
      raise errors.unknown('setting', name, settings)
  base_steps = settings[BASELINE].overrides['total_steps']
  run_base, seconds = make_runner(settings[BASELINE]), {BASELINE: 1.0}
  for name in names:
    # the baseline beside every setting: the machine's speed drifts
    base = each = time_setting(settings[BASELINE], run_base, args.times)
    if name != BASELINE:
      each = time_setting(settings[name], make_runner(settings[name]), args.times)
    seconds[name] = each / base
    console.say(f'{name}: {1e3 * each:.1f} ms a step, {BASELINE}: {1e3 * base:.1f} ms')
  found = count_steps(seconds, BASELINE, base_steps)
  console.say('STEPS: dict[str, int] = {')
  for name, steps in found.items():
    console.say(f'  {name!r}: {steps},')
  console.say('}')
  return 0


if __name__ == '__main__':
  signals.end_process(errors.exit_status(main))
