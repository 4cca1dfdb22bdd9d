"""One convention for targets of rate and quality: every codec, every command.

A file *meets* its target within 3 % of `bpp` or within 0.1 dB of `psnr`, on either
side; of the files that a search makes, the nearest to the target wins. Where the
nearest is farther away than that, the reason decides:

- `OUT_OF_REACH`: every file lies on one side of the target, and the setting that moves
  them is at the end of its range, or the search at the end of its tries. No file is
  returned: `errors.OutOfReach` names the nearest value and carries the nearest file.
- `STOPPED`: a signal, the time budget or a training that diverged ended the search.
  The nearest file is returned.
- `COARSE`: files lie on both sides, and none that was found is nearer (JPEG has 100
  qualities, and a file is a whole number of bytes). The nearest file is returned.

A file that is returned in spite of a miss has it in its details, as 'target_miss' (see
`get_miss`), and commands say it in a note.

The searches of all codecs move one setting (lambda, a number of Gaussians, a quality),
whose files are monotone in it but for noise: `propose` says which value to try next,
and `conclude` which file to return. NumPy and the standard library only.
"""

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from codax.codec import Encoded, ShouldStop, StopReason
from codax.errors import OutOfReach
from codax.metrics import distortion, rate

BPP_TOLERANCE = 0.03  # relative
PSNR_TOLERANCE = 0.1  # dB
# A search ends at this share of the tolerance: a file should not be on its very edge.
NEAR = 0.7

OUT_OF_REACH, STOPPED, COARSE = 'out of reach', 'stopped', 'coarse'
TIME = 'max_seconds'  # stop reason of a time budget
_ENOUGH = 0.5  # share of the usual steps below which a time budget is called short
_LATE = 1.2  # share of a time budget from which on it is said to be exceeded

_MAX_PSNR = 120.0  # counts as the quality of a lossless file, in dB
_RESOLUTION = 1e-3  # smallest change of log(setting) that is tried
_FIRST_MOVE = 0.05  # smallest first change outside of a bracket; doubles every time


class Target(NamedTuple):
  """A rate or a quality to meet; exactly one of them is given.

  Attributes:
    bpp: bits per pixel of the file, header and all, > 0.
    psnr: PSNR of the decoded image in dB, > 0.
  """

  bpp: float | None = None
  psnr: float | None = None

  @property
  def name(self) -> str:
    """Field that is set, 'bpp' or 'psnr'."""
    return 'bpp' if self.bpp is not None else 'psnr'

  @property
  def value(self) -> float:
    """Rate in bits per pixel, or quality in dB."""
    return self.bpp if self.bpp is not None else self.psnr


class TargetMiss(NamedTuple):
  """A target that the nearest file does not meet.

  Attributes:
    name: 'bpp' or 'psnr'.
    asked: target, in bits per pixel or dB.
    reached: value of the nearest file; 120 dB stands for a lossless one.
    reason: `OUT_OF_REACH`, `STOPPED` or `COARSE`.
  """

  name: str
  asked: float
  reached: float
  reason: str

  @property
  def side(self) -> str:
    """Side of the target on which the nearest file lies, 'above' or 'below'."""
    return 'above' if self.reached > self.asked else 'below'


class Trial(NamedTuple):
  """One file of a search.

  Attributes:
    setting: value of the setting that is searched for, > 0.
    measured: value of the file in the target's unit.
    gap: distance from the target, see `gap`.
    file: the file.
  """

  setting: float
  measured: float
  gap: float
  file: Encoded


def find_target(request: Any) -> Target | None:
  """Returns the target of a record with attributes `bpp` and `psnr`, or None."""
  if request.bpp is None and request.psnr is None:
    return None
  return Target(request.bpp, request.psnr)


def measure(target: Target, image: np.ndarray, encoded: Encoded) -> float:
  """Returns the value of a file in its target's unit.

  Args:
    target: decides between bits per pixel and dB.
    image: uint8 [H, W, C], the original.
    encoded: the file.
  """
  if target.bpp is not None:
    return rate.bpp(len(encoded.data), *image.shape[:2])
  return float(distortion.psnr(image, encoded.reconstruction))


def gap(target: Target, measured: float) -> float:
  """Returns the distance of a value above its target: log(bpp / target), or dB."""
  if target.bpp is not None:
    return math.log(measured / target.bpp)
  return min(measured, _MAX_PSNR) - target.psnr


def judge(target: Target, image: np.ndarray, setting: float, encoded: Encoded) -> Trial:
  """Returns a file with its distance from the target; arguments as of `measure`."""
  measured = measure(target, image, encoded)
  return Trial(setting, measured, gap(target, measured), encoded)


def find_nearest(tried: Sequence[Trial]) -> Trial:
  """Returns the trial nearest to its target, the first of several."""
  return min(tried, key=lambda trial: abs(trial.gap))


def is_met(target: Target, measured: float, share: float = 1.0) -> bool:
  """Returns whether a value is within `share` of the tolerance, on either side."""
  distance = gap(target, measured)
  if target.bpp is not None:
    return abs(math.expm1(min(distance, 100.0))) <= share * BPP_TOLERANCE
  return abs(distance) <= share * PSNR_TOLERANCE


# --- Searching ------------------------------------------------------------------------


def propose(
  history: Sequence[tuple[float, float]],
  bounds: tuple[float, float],
  slope: float,
  *,
  is_integer: bool = False,
  max_move: float = math.inf,
) -> float | None:
  """Returns the setting to try next, for a gap of zero.

  A bracketing secant in log(setting): between the nearest tries of both sides the line
  through them, or the middle if the last two tries fell on one side; without tries on
  both sides a step from the nearest one, by the slope of the last two tries within
  reason, and at least by a length that doubles with every try.

  Args:
    history: (setting, gap) of one try or more, in their order.
    bounds: least and greatest setting, > 0.
    slope: usual change of the gap for a change of log(setting) by one; its sign says
      whether files rise or fall with the setting, which is not measured.
    is_integer: whether settings are whole numbers.
    max_move: largest change of log(setting) outside of a bracket.

  Returns:
    A setting within `bounds` that was not tried, or None if no other can be nearer: the
    bound on the target's side was tried, or there is none between the nearest two.
  """
  sign = math.copysign(1.0, slope)
  points = [(math.log(setting), sign * distance) for setting, distance in history]
  below = max(((y, x) for x, y in points if y < 0), default=None)
  above = min(((y, x) for x, y in points if y >= 0), default=None)
  if below is not None and above is not None and below[1] < above[1]:
    is_repeated = len(points) > 2 and (points[-1][1] < 0) == (points[-2][1] < 0)
    share = 0.5 if is_repeated else -below[0] / (above[0] - below[0])
    x = below[1] + min(max(share, 0.1), 0.9) * (above[1] - below[1])
    ends = below[1], above[1]
  else:
    start, move = _step(points, abs(slope), max_move)
    x = start + move
    low, high = (math.log(bound) for bound in bounds)
    ends = (start, high) if move > 0 else (low, start)
  pick = _pick_integer if is_integer else _pick_float
  return pick(x, ends, bounds, [setting for setting, _ in history])


def _step(points, slope: float, max_move: float) -> tuple[float, float]:
  """Returns a step without a bracket: its origin, log(setting), and its length."""
  last = points[-1]
  direction = -1.0 if min(points, key=lambda p: abs(p[1]))[1] >= 0 else 1.0
  # Of equally near ones (a plateau) the farthest on the way.
  x, y = min(points, key=lambda p: (abs(p[1]), -direction * p[0]))
  if len(points) > 1 and points[-2][0] != last[0]:
    seen = (last[1] - points[-2][1]) / (last[0] - points[-2][0])
    slope = min(max(seen, slope / 6), 2 * slope)
  least = min(_FIRST_MOVE * 2 ** min(len(points) - 1, 60), max_move)
  return x, direction * min(max(abs(y) / slope, least), max_move)


def _pick_integer(x: float, ends, bounds, tried) -> int | None:
  """Returns the untried whole number nearest to exp(x); None if there is none.

  It lies strictly between the ends or on a bound.
  """
  low, high = bounds
  # The ends are logarithms: of whole numbers that were tried, or of a bound.
  first = max(math.ceil(low), math.floor(math.exp(ends[0]) + 0.5))
  last = min(math.floor(high), math.floor(math.exp(ends[1]) + 0.5))
  wanted = min(max(math.exp(min(x, 700.0)), first), last)
  near = range(round(wanted) - len(tried) - 1, round(wanted) + len(tried) + 2)
  free = [n for n in near if first <= n <= last and n not in tried]
  return min(free, default=None, key=lambda n: abs(n - wanted))


def _pick_float(x: float, ends, bounds, tried) -> float | None:
  """Returns exp(x), drawn between the ends, or a bound; None if that is no news."""
  low, high = (math.log(bound) for bound in bounds)
  if ends[1] - ends[0] < _RESOLUTION:
    return None
  if x > high - _RESOLUTION or x < low + _RESOLUTION:
    value = bounds[1] if x > high - _RESOLUTION else bounds[0]
    return None if value in tried else value
  # A value can only come again if files are not monotone in it.
  while math.exp(x) in tried:
    x = (x + ends[1]) / 2
    if ends[1] - x < _RESOLUTION:
      return None
  return min(max(math.exp(x), bounds[0]), bounds[1])


# --- Ending a search ------------------------------------------------------------------


def conclude(
  target: Target, tried: Sequence[Trial], stop_reason: StopReason = None
) -> Encoded:
  """Returns the file nearest to its target, by the convention of this module.

  Args:
    target: rate or quality asked for.
    tried: one file or more.
    stop_reason: reason for ending the search early, see `codec.Encoded`, or None.

  Raises:
    OutOfReach: the search ran to its end, and every file misses the target on the same
      side.
  """
  _, measured, _, encoded = find_nearest(tried)
  if is_met(target, measured):
    return encoded
  has_both_sides = min(one.gap for one in tried) < 0 < max(one.gap for one in tried)
  reason = STOPPED if stop_reason else COARSE if has_both_sides else OUT_OF_REACH
  reached = min(measured, _MAX_PSNR) if target.psnr is not None else measured
  miss = TargetMiss(target.name, target.value, reached, reason)
  details = encoded.details | {'target_miss': miss._asdict() | {'side': miss.side}}
  if stop_reason:
    details['stopped'] = stop_reason
  encoded = encoded._replace(details=details, stop_reason=stop_reason)
  if reason == OUT_OF_REACH:
    raise OutOfReach(explain(miss), encoded)
  return encoded


def get_miss(encoded: Encoded) -> TargetMiss | None:
  """Returns the miss that a file's details hold, or None."""
  miss = encoded.details.get('target_miss')
  return miss and TargetMiss(**{name: miss[name] for name in TargetMiss._fields})


def explain(miss: TargetMiss, stop_reason: StopReason = None) -> str:
  """Returns one line about a miss, for the user."""
  asked, unit = f'{miss.name} {miss.asked:g}', ' dB' if miss.name == 'psnr' else ''
  reached = f'{miss.reached:.4g}{unit}'
  if miss.reason == OUT_OF_REACH:
    bound = 'least' if miss.side == 'above' else 'most'
    return f'{asked} is out of reach for this image: the {bound} is {reached}'
  if miss.reason == STOPPED:
    why = f' ({stop_reason})' if stop_reason else ''
    return f'{asked} was not met when encoding was stopped{why}: the file has {reached}'
  return f'{asked} is not met: the nearest file that was found has {reached}'


# --- Time -----------------------------------------------------------------------------


class TimeBudget(NamedTuple):
  """A limit on the time of an encoding.

  Attributes:
    seconds: length, or None for no limit.
    begin: reading of the clock at its begin, in seconds.
  """

  seconds: float | None
  begin: float

  @property
  def spent(self) -> float:
    """Seconds since its begin."""
    return time.monotonic() - self.begin

  @property
  def left(self) -> float:
    """Seconds until its end; inf without a limit."""
    return math.inf if self.seconds is None else self.seconds - self.spent

  def has_time_for(self, seconds: float) -> bool:
    """Returns whether another piece of work fits, by its estimated length."""
    return seconds <= self.left

  def stop(self, should_stop: ShouldStop | None = None) -> StopReason:
    """Returns the caller's reason to stop now, `TIME` if time is up, or None."""
    reason = should_stop() if should_stop is not None else None
    return reason or (TIME if self.left <= 0 else None)


def describe_budget(
  budget: TimeBudget, steps: int, usual: int, step_seconds: float, start: float
) -> dict[str, float]:
  """Returns what a time budget allowed, JSON-able, for the details of a file.

  Args:
    budget: the budget, at its end.
    steps: number of steps that fit into it.
    usual: number of steps without a budget.
    step_seconds: seconds of a step.
    start: seconds before the first step, compilation above all.
  """
  return {
    'seconds': budget.seconds,
    'spent': budget.spent,
    'steps': steps,
    'usual_steps': usual,
    'start_seconds': start,
    'usual_seconds': start + usual * step_seconds,
  }


def explain_budget(encoded: Encoded) -> str | None:
  """Returns a line about a time budget that was too short for a file; None if not."""
  facts = encoded.details.get('budget')
  if not facts or facts['steps'] >= _ENOUGH * facts['usual_steps']:
    return None
  text = (
    f'{facts["steps"]:,} of {facts["usual_steps"]:,} steps fit into '
    f'{facts["seconds"]:g} s, so the quality is lower; all of them take about '
    f'{facts["usual_seconds"]:.0f} s here'
  )
  if facts['spent'] > _LATE * facts['seconds']:
    text += (
      f'; it took {facts["spent"]:.0f} s, as compiling alone takes '
      f'{facts["start_seconds"]:.0f} s'
    )
  return text


def start_budget(seconds: float | None) -> TimeBudget:
  """Returns a budget that begins now."""
  return TimeBudget(seconds, time.monotonic())
