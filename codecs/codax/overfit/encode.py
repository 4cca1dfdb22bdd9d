"""Encodes an image: trains on it, quantizes, writes, and decodes the file again.

A rate or quality target (`rate_control`) is met by moving lambda while training, and by
going back a part of the way with a corrected lambda if the file still misses it.
"""

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from codax import rate_control
from codax.codec import Encoded, Options, ShouldStop
from codax.errors import CodaxError
from codax.overfit import (
  divergence,
  model,
  network_init,
  q_step_search,
  report,
  train,
  warm_up,
  weight_rounding,
)
from codax.overfit.format import arch as archs
from codax.overfit.format import container, stream
from codax.overfit.format.arch import Arch

LENGTHS = {
  'fast': train.Length(900, 100),
  'medium': train.Length(9_500, 500),
  'full': train.Length(100_000, 10_000),
}
DEFAULT_LMBDA = 1e-3
MIN_LMBDA, MAX_LMBDA = 1e-6, 1.0
_CORRECTIONS = 8
_GO_BACK = 0.6  # of stage 1: where a correction starts again
_AGAIN = 0.5  # of all steps: what a correction makes, at most
_ROUNDED = 40  # steps that rounding the networks takes the time of
# How much log(bpp), and PSNR in dB, change for one unit of log(lambda); rough.
_BPP_SLOPE, _PSNR_SLOPE = -0.6, -2.6
_MAX_MOVE = 2.0  # of log(lambda), at once
_GAIN = 0.25  # of a gap: what the controller closes at each look at the metrics
_EVERY = 25  # steps between two looks at the metrics
_ROUNDING = 6.0  # seconds to compile what rounds the networks together
_WARM = 0.2  # of stage 1: from here on a constant image must be beaten
_NETWORK_BITS = 7000.0  # before the networks are known
# Weights of the networks' rate, relative to lambda's, that are tried to meet a target.
_WEIGHT_RATE_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


class EncodeConfig(NamedTuple):
  """How to encode.

  Attributes:
    arch: architecture of the networks.
    recipe: training settings.
    length: steps of the two stages.
    lmbda: initial weight of the rate, and the final one where there is no target.
    bpp, psnr: target, see `rate_control`, or None.
    seconds: time budget that sets the number of steps in place of `length`, or None.
    seed: seed of everything random.
    refine: whether weights are rounded together (slower, smaller), see
      `weight_rounding`.
    candidates, warm_steps: number of initializations, and steps that each is trained
      for before the best goes on, see `warm_up`.
  """

  arch: Arch = archs.of_preset('medium')
  recipe: train.Recipe = train.Recipe()
  length: train.Length = LENGTHS['medium']
  lmbda: float = DEFAULT_LMBDA
  bpp: float | None = None
  psnr: float | None = None
  seconds: float | None = None
  seed: int = 0
  refine: bool = True
  candidates: int = 1
  warm_steps: int = 50


class _Diverged(Exception):
  """Training is lost: another seed may do better."""


class Trained(NamedTuple):
  """Parameters that training fitted to an image.

  Attributes:
    params: NumPy arrays, see `model`.
    lmbda: final weight of the rate.
    steps: number of steps, corrections included.
    seconds: time of the steps, without compilation.
    stop_reason: None, or the reason for an early end, see `codec.Encoded`.
  """

  params: Any
  lmbda: float
  steps: int
  seconds: float
  stop_reason: str | None


def make_config(options: Options) -> EncodeConfig:
  """Returns the configuration for the command line's options.

  Raises:
    CodaxError: a lambda out of range.
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
  return EncodeConfig(
    arch=archs.of_preset(options.preset or 'fast'),
    length=LENGTHS[options.preset or 'fast'],
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
  """One attempt at a file. It holds what changes on the way: state, lambda, counts."""

  def __init__(
    self, image, config: EncodeConfig, key, progress, reason, budget, attempt: int
  ):
    self.image, self.config, self.progress = image, config, progress
    self.target = rate_control.find_target(config)
    self.float_image = np.asarray(image, np.float32) / 255
    self.batch = jnp.asarray(self.float_image)[None]
    self.pixels = image.shape[0] * image.shape[1]
    self.key, self.reason, self.budget = key, reason, budget
    self.lmbda, self.length = config.lmbda, config.length
    self.network_bits = _NETWORK_BITS
    self.steps, self.seconds, self.stop_reason = 0, 0.0, None
    self.tried: list[rate_control.Trial] = []  # of each training the nearest file
    self.files: list[rate_control.Trial] = []  # all of them
    # what a training diverged from is not begun with again
    nets = None if attempt else network_init.for_image(config.arch, image.shape)
    self.nearest_state, self.step_seconds = None, 0.0
    self.state = warm_up.begin(
      config.arch, config.recipe, self.batch, np.array([self.lmbda]), key, nets,
      *warm_up.check(config.candidates, config.warm_steps),
    )  # fmt: skip

  def encode(self) -> Encoded:
    """Trains until the target is met, and returns the nearest file."""
    if self.config.seconds:
      self.length = self.fit_length()
    self.train()
    if self.target is None:
      return self.write()[0]
    found = self.write_nearest()
    for _ in range(_CORRECTIONS):
      is_near = rate_control.is_met(self.target, found.measured, rate_control.NEAR)
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
      found = self.write_nearest()
    return rate_control.conclude(self.target, self.files, self.stop_reason)

  def dispatch(self, count: int) -> dict:
    """Makes some steps, and returns the metrics of the last."""
    begin = time.monotonic()
    self.state, metrics = train.dispatch(
      self.config.arch, self.config.recipe, self.length, self.state, self.batch,
      np.array([self.lmbda]), self.key, count,
    )  # fmt: skip
    if self.steps:  # the first call compiles
      self.seconds += time.monotonic() - begin
    self.steps += count
    return {k: float(v[0]) for k, v in metrics.items()}

  def fit_length(self) -> train.Length:
    """Returns the steps that the time allows, by timing a few, which are undone."""
    begin = time.monotonic()
    kept = jax.tree.map(jnp.copy, self.state)
    self.dispatch(1)
    compiled = time.monotonic() - begin
    self.dispatch(5)
    self.step_seconds = (time.monotonic() - begin - compiled) / 5
    self.state, self.steps, self.seconds = kept, 0, 0.0
    # Rounding the networks takes as long as some 40 steps, and to be compiled.
    left = self.budget.left - (_ROUNDING if self.config.refine else 0.0)
    total = int(left / self.step_seconds) - _ROUNDED
    if self.target is not None:  # there will be something to correct
      total = int((total - _ROUNDED) / (1 + _AGAIN))
    total = max(20, total)
    return train.Length(total - total // 10, total // 10)

  def has_time_for_correction(self) -> bool:
    """Returns whether the time budget allows to go back once more."""
    steps = _AGAIN * self.length.total + _ROUNDED
    return self.budget.has_time_for(self.step_seconds * steps)

  def train(self, is_correction: bool = False) -> None:
    """Goes on to the end of the schedule, from wherever the state is."""
    done, first = int(self.state.step), self.length.first
    while done < self.length.total:
      count = min(_EVERY, self.length.total - done)
      metrics = self.dispatch(count)
      done += count
      if not math.isfinite(metrics['loss']):
        raise _Diverged(f'the loss is {metrics["loss"]} at step {done}')
      is_warm = done >= _WARM * first
      if is_warm and divergence.astray(metrics['mse'], self.float_image):
        raise _Diverged(f'worse than a constant image at step {done}')
      is_early = not is_correction and 0.3 * first < done < 0.8 * first
      if is_early and self.target is not None:
        self.control_rate(metrics)
      if self.progress is not None:
        self.progress(done, self.length.total)
      self.stop_reason = self.stop_reason or self.budget.stop(self.reason)
      if self.stop_reason:
        return

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
    history = [(one.setting, one.gap) for one in self.tried[-3:]]
    lmbda = rate_control.propose(
      history, (MIN_LMBDA, MAX_LMBDA), self.slope, max_move=_MAX_MOVE
    )
    if lmbda is None:
      return False
    step = jnp.asarray(int(_GO_BACK * self.length.first), jnp.int32)
    self.state = jax.tree.map(jnp.copy, self.nearest_state).replace(step=step)
    self.lmbda = lmbda
    return True

  def write(self, factors: Sequence[float] = (1.0,)) -> list[Encoded]:
    params = jax.device_get(jax.tree.map(lambda x: x[0], self.state.params))
    trained = Trained(params, self.lmbda, self.steps, self.seconds, self.stop_reason)
    return write(self.image, self.config.arch, trained, factors, self.config.refine)

  def write_nearest(self) -> rate_control.Trial:
    """Writes files of the state, with coarser and finer networks, and adds the one
    nearest to the target to `tried`."""
    files = [
      rate_control.judge(self.target, self.image, self.lmbda, file)
      for file in self.write(_WEIGHT_RATE_FACTORS)
    ]
    # One of the mean color counts only if it is what was asked for.
    count = len(_WEIGHT_RATE_FACTORS)
    is_met = lambda one: rate_control.is_met(self.target, one.measured)
    files = files[:count] + list(filter(is_met, files[count:]))
    found = rate_control.find_nearest(files)
    self.files += files
    bits = found.file.details['bits']
    self.network_bits = bits['synthesis'] + bits['entropy']
    self.tried.append(found)
    if found is rate_control.find_nearest(self.tried):
      self.nearest_state = self.state
    return found


def write(
  image: np.ndarray,
  arch: Arch,
  trained: Trained,
  weight_rate_factors: Sequence[float] = (1.0,),
  refined: bool = True,
) -> list[Encoded]:
  """Writes files of trained parameters, and decodes them again.

  Args:
    image: uint8 [H, W, C].
    arch: architecture of the networks.
    trained: result of training.
    weight_rate_factors: divisors of the weight of the networks' rate, one a file: more
      is finer weights and a larger file.
    refined: whether weights are rounded together (`weight_rounding`), or each alone.

  Returns:
    A file for each factor. One of the mean color takes the place of a single one that
    is worse, and follows several of which any is worse.
  """
  params = trained.params
  target = np.asarray(image, np.float32) / 255
  shapes = archs.grid_shapes(arch, *image.shape[:2])
  grids = model.split(np.asarray(train.hard(params['latents']), np.int32), shapes)
  price = trained.lmbda / (image.shape[0] * image.shape[1])
  prices = [price / factor for factor in weight_rate_factors]
  try:
    if refined:
      made = weight_rounding.modules(arch, params, grids, target, prices)
    else:
      found = q_step_search.candidates(arch, params, grids, target)
      made = [q_step_search.choose(found, each) for each in prices]
  except CodaxError as e:  # training that diverged leaves such weights
    logging.warning('%s: the file is of one colour', e)
    colour = q_step_search.constant(arch, image)
    made, grids = [colour.modules] * len(prices), colour.grids
  out, flat = [], None
  # The mean colour alone, in a few bytes, is what a file can always fall back on. No
  # constant is nearer to the image than its spread: mostly there is no need to try.
  spread = divergence.spread(target)
  for modules in made:
    found = _file(image, stream.Picture(arch, image.shape, modules, grids), trained)
    if _loss(found) >= 0.999 * spread:
      flat = flat or _file(image, q_step_search.constant(arch, image), trained)
      # By a target, and not by the loss, the caller chooses among several.
      found = found if len(prices) > 1 else min(found, flat, key=_loss)
    out.append(found)
  return out + [flat] if flat is not None and len(prices) > 1 else out


def _file(image: np.ndarray, picture: stream.Picture, trained: Trained) -> Encoded:
  data, bits = container.pack(picture)
  pixels = container.decode(data)
  details = report.make(image, picture, data, bits, pixels, trained)
  bits = details['estimated_bits']
  return Encoded(data, pixels, bits, details, trained.stop_reason)


def _loss(found: Encoded) -> float:
  facts = found.details
  return facts['distortion'] + facts['lmbda'] * facts['file_bpp']
