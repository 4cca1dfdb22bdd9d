"""Encodes an image: trains on it, and writes a file of the result (`finalize`).

A rate or quality target (`rate_control`) is met by moving lambda while training, and by
going back a part of the way with a corrected lambda if the file still misses it.
"""

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from absl import logging

from codax import rate_control
from codax.codec import Encoded, Options, ShouldStop
from codax.errors import CodaxError
from codax.overfit import divergence, network_init, presets, train, warm_up
from codax.overfit.finalize import FitResult, write
from codax.overfit.format.arch import Arch
from codax.overfit.presets import Steps, TrainConfig
from codax.signals import SIGNAL

DEFAULT_LMBDA = 1e-3
MIN_LMBDA, MAX_LMBDA = 1e-6, 1.0
_CORRECTIONS = 8  # corrections at most, to meet a target
_GO_BACK = 0.6  # share of stage 1 that a correction keeps
_CORRECTION_SHARE = 0.5  # largest share of all steps that a correction repeats
_ROUNDING_STEPS = 40  # steps that take as long as rounding the networks
_QUICK_STEPS, _QUICK_SECONDS = 8, 4.0  # the same of rounding them quickly
_MIN_STEPS, _OVERRUN = 10, 0.25  # least work, whatever the time: steps, share of it
# Rough changes of log(bpp), and of PSNR in dB, for one unit of log(lambda).
_BPP_SLOPE, _PSNR_SLOPE = -0.6, -2.6
_MAX_MOVE = 2.0  # largest change of log(lambda), at once
_GAIN = 0.25  # share of a gap that the controller closes at each look at the metrics
_CONTROL_EVERY = 25  # steps between two looks at the metrics
_PIECE_SECONDS = 0.5  # steps that are made without asking for a reason to stop
_ROUNDING_SECONDS = 6.0  # compilation of the programs that round the networks
_WARM = 0.2  # share of stage 1 after which a constant image must be beaten
_NETWORK_BITS = 7000.0  # estimate before the first file
# Divisors of the weight of the networks' rate that are tried to meet a target.
_WEIGHT_RATE_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


class EncodeConfig(NamedTuple):
  """Settings of an encoding.

  Attributes:
    arch: architecture.
    recipe: settings of training.
    stage_steps: numbers of steps of the two stages.
    lmbda: initial weight of the rate, and the final one where there is no target.
    bpp, psnr: target, see `rate_control`, or None.
    seconds: time budget that replaces `stage_steps`, or None.
    seed: seed of all random numbers.
    weight_rounding: whether weights are rounded together (slower, smaller), see
      `weight_rounding`.
    candidates, warm_steps: number of initializations, and number of steps that each
      trains before the best goes on, see `warm_up`.
  """

  arch: Arch = presets.PRESETS['medium'].arch
  recipe: TrainConfig = TrainConfig()
  stage_steps: Steps = presets.PRESETS['medium'].steps
  lmbda: float = DEFAULT_LMBDA
  bpp: float | None = None
  psnr: float | None = None
  seconds: float | None = None
  seed: int = 0
  weight_rounding: bool = True
  candidates: int = 1
  warm_steps: int = 50


class _Diverged(Exception):
  """Signals a training that diverged; another seed may do better."""


def make_config(options: Options) -> EncodeConfig:
  """Returns the configuration for the command line's options.

  Raises:
    CodaxError: a lambda out of range, or unknown networks.
  """
  lmbda = options.lmbda
  if lmbda is not None and not MIN_LMBDA <= lmbda <= MAX_LMBDA:
    raise CodaxError(f'lambda {lmbda:g} is out of range; valid: {MIN_LMBDA:g} to '
                     f'{MAX_LMBDA:g}')  # fmt: skip
  if lmbda is None:
    lmbda = DEFAULT_LMBDA
    if options.bpp is not None:  # Kodak-like images: 0.25 bpp at 4e-3, 1 at 5e-4
      lmbda = 6e-4 * options.bpp**-1.5
    if options.psnr is not None:
      lmbda = 10 ** (-3 - (options.psnr - 33) / 6)
  preset = presets.find_preset(options.preset)
  return EncodeConfig(
    arch=presets.with_networks(preset.arch, options.extra.get('networks', 'mlp')),
    stage_steps=preset.steps,
    lmbda=min(max(lmbda, MIN_LMBDA), MAX_LMBDA),
    bpp=options.bpp,
    psnr=options.psnr,
    seconds=options.seconds,
    seed=options.seed,
  )


def encode_image(
  image: np.ndarray,
  config: EncodeConfig,
  progress=None,
  reason: ShouldStop | None = None,
) -> Encoded:
  """Encodes an image.

  Args:
    image: uint8 [H, W, C], C in {1, 3}.
    config: settings.
    progress: called as ``progress(done, total)``.
    reason: asked from time to time for a reason to stop, see `codec.ShouldStop`. None
      leaves the time budget alone; Ctrl-C then raises KeyboardInterrupt.

  Raises:
    OutOfReach: the target is, see `rate_control`.
    CodaxError: training fails with every seed.
  """
  budget = rate_control.start_budget(config.seconds)
  for attempt in range(divergence.RESTARTS + 1):
    key = jax.random.fold_in(jax.random.key(config.seed), attempt)
    try:
      search = RateSearch(image, config, key, progress, reason, budget, attempt)
      return search.encode()
    except _Diverged as e:
      left = divergence.RESTARTS - attempt
      after = 'beginning again with other random numbers' if left else 'given up'
      logging.warning('training diverged (%s): %s', e, after)
  raise CodaxError(
    f'training diverged {divergence.RESTARTS + 1} times; another --seed or a lambda '
    f'nearer to {DEFAULT_LMBDA:g} may help'
  )


class RateSearch:
  """One attempt at a file, with its changing state: parameters, lambda, counts."""

  def __init__(
    self, image, config: EncodeConfig, key, progress, reason, budget, attempt: int
  ):
    self.image, self.config, self.progress = image, config, progress
    self.target = rate_control.find_target(config)
    self.float_image = np.asarray(image, np.float32) / 255
    self.batch = jax.device_put(self.float_image[None])
    self.pixels = image.shape[0] * image.shape[1]
    self.key, self.reason, self.budget = key, reason, budget
    self.lmbda, self.stage_steps = config.lmbda, config.stage_steps
    self.network_bits = _NETWORK_BITS
    self.num_steps, self.seconds, self.stop_reason = 0, 0.0, None
    self.tried: list[rate_control.Trial] = []  # the nearest file of each training
    self.files: list[rate_control.Trial] = []  # all files
    # after a divergence networks begin at random
    networks = None if attempt else network_init.for_image(config.arch, image.shape)
    self.nearest_state, self.step_seconds = None, 0.0
    self.piece = 1  # steps of the next dispatch: the first one compiles
    self.is_quick = False  # whether there is no time to round networks together
    self.compile_seconds, self.min_steps = 0.0, 1
    self.state = warm_up.init(
      config.arch, config.recipe, self.float_image[None], np.array([self.lmbda]), key,
      networks, config.candidates, config.warm_steps,
    )  # fmt: skip

  def encode(self) -> Encoded:
    """Trains until the target is met, and returns the nearest file."""
    if self.config.seconds:
      self.stage_steps = self.fit_stage_steps()
    found = self.search()
    if self.config.seconds:
      found.details['budget'] = rate_control.describe_budget(
        self.budget, self.stage_steps.total, self.config.stage_steps.total,
        self.step_seconds, self.compile_seconds,
      )  # fmt: skip
    return found

  def search(self) -> Encoded:
    """Trains and corrects; returns the nearest file."""
    self.train()
    if self.target is None:
      return self.write()[0]
    found = self.write_nearest()
    for _ in range(_CORRECTIONS):
      is_near = rate_control.is_met(self.target, found.measured, rate_control.NEAR)
      self.stop_reason = self.stop_reason or self.budget.stop(self.reason)
      if self.stop_reason or is_near or not self.go_back():
        break
      if not self.has_time_for_correction():
        self.stop_reason = rate_control.TIME
        break
      try:
        self.train(is_correction=True)
      except _Diverged as e:
        logging.warning('a correction diverged (%s)', e)
        self.stop_reason = 'diverged'
        break
      if self.stop_reason == SIGNAL:  # the files of whole trainings are better
        break
      found = self.write_nearest()
    return rate_control.conclude(self.target, self.files, self.stop_reason)

  def dispatch(self, count: int) -> dict:
    """Makes some steps, and returns the metrics of the last."""
    start = time.monotonic()
    self.state, metrics = train.dispatch(
      self.config.arch, self.config.recipe, self.stage_steps, self.state, self.batch,
      np.array([self.lmbda]), self.key, count,
    )  # fmt: skip
    if self.num_steps:  # the first call compiles
      self.seconds += time.monotonic() - start
    self.num_steps += count
    return {k: float(v[0]) for k, v in metrics.items()}

  def fit_stage_steps(self) -> Steps:
    """Returns the steps that the time allows, by timing a few, which are undone."""
    start = time.monotonic()
    before = jax.tree.map(np.array, self.state)
    self.dispatch(1)
    compiled, count = time.monotonic() - start, 5 if self.budget.left > 0 else 1
    self.dispatch(count)
    self.step_seconds = max(time.monotonic() - start - compiled, 1e-4) / count
    self.compile_seconds = compiled - self.step_seconds
    self.state, self.num_steps, self.seconds = before, 0, 0.0
    compilation = _ROUNDING_SECONDS if self.config.weight_rounding else 0.0
    left, each = self.budget.left, self.step_seconds
    self.is_quick = left < 2 * (compilation + _ROUNDING_STEPS * each)
    if self.is_quick:
      compilation = _QUICK_SECONDS
    total = int((left - compilation) / each) - self.rounding_steps
    if self.target is not None:  # there will be something to correct
      total = int((total - self.rounding_steps) / (1 + _CORRECTION_SHARE))
    least = max(_MIN_STEPS, int(_OVERRUN * self.budget.seconds / each))
    if total < least:
      total = self.min_steps = min(least, self.config.stage_steps.total)
    return Steps(total - total // 10, total // 10)

  @property
  def rounding_steps(self) -> int:
    """Number of steps that take as long as rounding the networks."""
    return _QUICK_STEPS if self.is_quick else _ROUNDING_STEPS

  def has_time_for_correction(self) -> bool:
    """Returns whether the time budget allows to go back once more."""
    steps = _CORRECTION_SHARE * self.stage_steps.total + self.rounding_steps
    return self.budget.has_time_for(self.step_seconds * steps)

  def train(self, is_correction: bool = False) -> None:
    """Goes on to the end of the schedule, from wherever the state is."""
    done, stage1 = int(self.state.step), self.stage_steps.noise
    while done < self.stage_steps.total:
      count = min(_CONTROL_EVERY, self.stage_steps.total - done)
      done, metrics = self.make_steps(done, done + count)
      if not math.isfinite(metrics['loss']):
        raise _Diverged(f'the loss is {metrics["loss"]} at step {done}')
      is_warm = done >= _WARM * stage1
      if is_warm and divergence.is_diverging(metrics['mse'], self.float_image):
        raise _Diverged(f'worse than a constant image at step {done}')
      is_early = not is_correction and 0.3 * stage1 < done < 0.8 * stage1
      if is_early and self.target is not None:
        self.control_rate(metrics)
      if self.stop_reason:
        return

  def make_steps(self, done: int, end: int) -> tuple[int, dict]:
    """Makes the steps to the next look at the metrics, if nothing stops it.

    Returns:
      The number of steps made so far, and the metrics of the last one.
    """
    while True:
      start, count = time.monotonic(), min(self.piece, end - done)
      metrics = self.dispatch(count)
      done += count
      each = (time.monotonic() - start) / count
      self.piece = max(1, int(_PIECE_SECONDS / max(each, 1e-3)))
      if self.progress is not None:
        self.progress(done, self.stage_steps.total)
      self.stop_reason = self.budget.stop(self.reason)
      is_planned = done < self.min_steps or done == self.stage_steps.total
      if self.stop_reason == rate_control.TIME and is_planned:
        self.stop_reason = None
      if done == end or self.stop_reason:
        return done, metrics

  def control_rate(self, metrics: dict) -> None:
    """Moves lambda a little towards the target while training."""
    if self.target.bpp is not None:
      # The guess at the networks must leave a small image's target to its latents.
      bits = min(self.network_bits, 0.5 * self.target.bpp * self.pixels)
      value = metrics['bpp'] + (bits + 160) / self.pixels
    else:
      value = -10 * math.log10(max(metrics['mse'], 1e-9))
    move = -_GAIN * rate_control.gap(self.target, value) / self.slope
    lmbda = self.lmbda * math.exp(min(max(move, -_MAX_MOVE), _MAX_MOVE))
    self.lmbda = min(max(lmbda, MIN_LMBDA), MAX_LMBDA)

  @property
  def slope(self) -> float:
    """Rough change of the gap for a change of log(lambda) by one."""
    return _BPP_SLOPE if self.target.bpp is not None else _PSNR_SLOPE

  def go_back(self) -> bool:
    """Goes back in the schedule, with the nearest file's state and another lambda.

    A state that lost its latents to too large a lambda would not find them again. Only
    the last tries count: files get better with every step, so older ones say little.

    Returns:
      False if no other lambda promises a nearer file.
    """
    history = [(trial.setting, trial.gap) for trial in self.tried[-3:]]
    lmbda = rate_control.propose(
      history, (MIN_LMBDA, MAX_LMBDA), self.slope, max_move=_MAX_MOVE
    )
    if lmbda is None:
      return False
    step = np.int32(_GO_BACK * self.stage_steps.noise)
    self.state = self.nearest_state.replace(step=step)
    self.lmbda = lmbda
    return True

  def write(self, factors: Sequence[float] = (1.0,)) -> list[Encoded]:
    """Writes files of the state, see `finalize.write`."""
    params = jax.tree.map(lambda x: x[0], jax.device_get(self.state.params))
    trained = FitResult(
      params, self.lmbda, self.num_steps, self.seconds, self.stop_reason
    )
    is_quick = self.is_quick or self.stop_reason == SIGNAL
    is_joint = self.config.weight_rounding
    return write(self.image, self.config.arch, trained, factors, is_joint, is_quick)

  def write_nearest(self) -> rate_control.Trial:
    """Writes files of the state, with coarser and finer networks.

    Adds the file nearest to the target to `tried`, and returns it.
    """
    files = [
      rate_control.judge(self.target, self.image, self.lmbda, file)
      for file in self.write(_WEIGHT_RATE_FACTORS)
    ]
    # A file of the mean color counts only if it meets the target.
    count = len(_WEIGHT_RATE_FACTORS)
    is_met = lambda trial: rate_control.is_met(self.target, trial.measured)
    files = files[:count] + list(filter(is_met, files[count:]))
    found = rate_control.find_nearest(files)
    self.files += files
    bits = found.file.details['bits']
    self.network_bits = bits['synthesis'] + bits['entropy']
    self.tried.append(found)
    if found is rate_control.find_nearest(self.tried):
      self.nearest_state = jax.tree.map(np.array, self.state)
    return found
