"""What a run's logs tell of its training: gradient norms, speed, steps to a target.

A run that logs every step (`config.log_every` and `config.steps_per_call` of 1) has the
norm of each step's gradient, before clipping, in ``metrics.jsonl``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from codax import bundle, files
from codax.training import settings, writers

SPIKE = 10.0  # times the median
_SETTLED = 0.1  # share of the steps that is left out: norms fall steeply at first
_NORM = 'train/grad_norm'
_CLIPPED, _MOVED = 'train/clipped_share', 'train/moved_share'
_QUALITY = {'psnr': 'eval/psnr', 'accuracy': 'eval/accuracy'}
_SPEED, _MEMORY = 'steps_per_s', 'peak_mib'


def read(workdir: str | Path) -> dict[str, Any]:
  """Reads the history of a complete run.

  Returns:
    JSON-able; empty for a run whose task logs no norm of the gradient. 'grad_variation'
    and 'grad_spikes' (see `describe_norms`); 'clipped', share of clipped steps, of all;
    'moved', mean share of the inputs of KAN layers whose grid moved in a try, None
    where no grids do; 'step_ms', 10th percentile over the lines of ``timing.jsonl``
    (other load can only add to it); 'peak_mib', the most memory in use; 'parameters',
    numbers in the bundle's float arrays; 'total_steps' of the configuration; 'psnr' and
    'accuracy', pairs of step and value of the evaluations.
  """
  workdir = Path(workdir)
  lines = writers.read(workdir / writers.METRICS)
  norms = [line[_NORM] for line in lines if _NORM in line]
  if not norms:
    return {}
  last = lambda key: next((x[key] for x in reversed(lines) if key in x), None)
  timing = writers.read(workdir / writers.TIMING)
  times = [1e3 / line[_SPEED] for line in timing if _SPEED in line]
  arrays = bundle.load(workdir).arrays
  return {
    **describe_norms(norms),
    'clipped': last(_CLIPPED),
    'moved': last(_MOVED),
    'step_ms': float(np.percentile(times, 10)),
    'peak_mib': max(
      (line[_MEMORY] for line in timing if _MEMORY in line), default=None
    ),
    'parameters': count_learnt(arrays),
    'total_steps': files.read_json(workdir / settings.FILE_NAME)['total_steps'],
    **{
      key: [[line['step'], line[name]] for line in lines if name in line]
      for key, name in _QUALITY.items()
    },
  }


def count_learnt(arrays: Mapping[str, np.ndarray]) -> int:
  """Counts the numbers of a bundle's float arrays 'params/...', or of all of them."""
  floats = {k: x for k, x in arrays.items() if x.dtype.kind == 'f'}
  learnt = {k: x for k, x in floats.items() if k.startswith('params/')}
  return sum(int(x.size) for x in (learnt or floats).values())


def describe_norms(norms: Sequence[float]) -> dict[str, float]:
  """Describes the spread of the gradient's norm.

  Args:
    norms: norm at each step; the first tenth does not count.

  Returns:
    'grad_variation', standard deviation over mean, and 'grad_spikes', the share of
    steps whose norm is over `SPIKE` times the median.
  """
  values = np.asarray(norms, np.float64)
  values = values[int(_SETTLED * len(values)) :]
  return {
    'grad_variation': float(values.std() / values.mean()),
    'grad_spikes': float(np.mean(values > SPIKE * np.median(values))),
  }


def steps_to(target: float, curve: Sequence[Sequence[float]]) -> float | None:
  """Interpolates the step at which a curve first reaches a target.

  Args:
    target: value to reach, such as a PSNR in dB or an accuracy.
    curve: pairs of step and value, steps rising.

  Returns:
    Number of steps, linear between two evaluations; None if it is not reached.
  """
  for i, (step, value) in enumerate(curve):
    if value >= target:
      if not i:
        return float(step)
      before, low = curve[i - 1]
      return before + (step - before) * (target - low) / (value - low)
  return None


def find_accuracy(share: float, history: Mapping[str, Any]) -> float | None:
  """Interpolates the accuracy under way at a share of all steps.

  Args:
    share: share of the steps of the configuration, 0 to 1.
    history: history of a run, see `read`. Those of earlier versions do not have the
      number of steps; the last evaluation was at the end.

  Returns:
    Accuracy, linear between two evaluations; None before the first and after the last.
  """
  steps, values = zip(*history['accuracy'], strict=True)
  step = share * history.get('total_steps', steps[-1])
  if not steps[0] <= step <= steps[-1]:
    return None
  return float(np.interp(step, steps, values))
