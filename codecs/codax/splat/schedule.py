"""The plan of a fit: before which call of `step.advance` something else happens."""

import math
from typing import NamedTuple

from codax.splat.fit_config import FitConfig


class Schedule(NamedTuple):
  """The calls of `step.advance` from the first to the last.

  Attributes:
    num_calls: number of calls, 1 or more.
    steps_per_call: steps of every call but the last (`FitConfig.rebin_every`).
    last_steps: steps of the last call.
    growth_calls: calls before which Gaussians are added, in order.
    qat_call: first call whose steps quantize; `num_calls` or more is never.
    lr_steps: steps over which the learning rates fall.
    is_whole: False for a fit that continues a finished one, which measures no PSNR
      before quantization.
  """

  num_calls: int
  steps_per_call: int
  last_steps: int
  growth_calls: tuple[int, ...]
  qat_call: int
  lr_steps: int
  is_whole: bool = True


def plan_calls(
  total: int, recipe: FitConfig, lr_steps: int | None = None, is_whole: bool = True
) -> Schedule:
  """Plans a fit of `total` steps, 1 or more, from its first step on.

  Args:
    total: steps.
    recipe: settings of the fit.
    lr_steps: see `Schedule`; None is `total`.
    is_whole: see `Schedule`.
  """
  calls = -(-total // recipe.rebin_every)
  growth = tuple(
    max(1, int(calls * recipe.growth_end * (k + 1) / recipe.num_growths))
    for k in range(recipe.num_growths)
  )
  return Schedule(
    num_calls=calls,
    steps_per_call=recipe.rebin_every,
    last_steps=total - (calls - 1) * recipe.rebin_every,
    growth_calls=growth,
    qat_call=math.ceil(recipe.qat_start * calls),
    lr_steps=total if lr_steps is None else lr_steps,
    is_whole=is_whole,
  )


def count_steps(schedule: Schedule, call: int) -> int:
  """Returns the number of steps of call `call`."""
  is_last = call == schedule.num_calls - 1
  return schedule.last_steps if is_last else schedule.steps_per_call


def find_growth_share(schedule: Schedule, call: int) -> float:
  """Returns the share of the missing Gaussians that are added before call `call`."""
  growths = schedule.growth_calls
  if call not in growths:
    return 0.0
  return growths.count(call) / sum(growth >= call for growth in growths)
