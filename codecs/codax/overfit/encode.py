"""Encoding: train on the picture, quantise, write, and look at what the decoder makes.

A rate or quality target is met by moving lambda while training, and by going back a
part of the way with a corrected lambda if the file still misses it.
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
from codax.codec import Encoded, Options
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
from codax.training import stopping

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
# How much log(bpp), and PSNR in dB, fall for one unit of log(lambda); rough.
_BPP_SLOPE, _PSNR_SLOPE = 0.6, 2.6
_EVERY = 25  # steps between two looks at the metrics
_ROUNDING = 6.0  # seconds to compile what rounds the networks together
_WARM = 0.2  # of stage 1: from here on a constant picture must be beaten
_NETWORK_BITS = 7000.0  # before the networks are known
# Prices of the networks' bits that are tried to meet a target.
_FINER = (0.25, 0.5, 1.0, 2.0, 4.0)


class Plan(NamedTuple):
  """How to encode.

  Attributes:
    arch: shape of the networks.
    recipe: how to train.
    length: steps of the two stages.
    lmbda: to start from, and to end with where there is no target.
    bpp, psnr: target, or None.
    seconds: train about so long in place of `length`, or None.
    seed: of everything random.
    refine: whether weights are rounded together (slower, smaller), see `refine`.
    candidates, warm_steps: so many starts are trained for so many steps, and the best
      goes on, see `warm`.
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
  """What training made of a picture.

  Attributes:
    params: NumPy arrays, see `model`.
    lmbda: the last.
    steps: made, in all.
    seconds: taken by them, without compilation.
    stopped: None, or why it ended early.
  """

  params: Any
  lmbda: float
  steps: int
  seconds: float
  stopped: str | None


def plan(options: Options) -> Plan:
  """The plan of the command line's options.

  Raises:
    CodaxError: a lambda out of range.
  """
  lmbda = options.lmbda
  if lmbda is not None and not MIN_LMBDA <= lmbda <= MAX_LMBDA:
    raise CodaxError(f'lambda {lmbda:g} is out of range; valid: {MIN_LMBDA:g} to '
                     f'{MAX_LMBDA:g}')  # fmt: skip
  if lmbda is None:
    lmbda = DEFAULT_LMBDA
    if options.bpp is not None:  # Kodak-like pictures: 0.25 bpp at 4e-3, 1 at 5e-4
      lmbda = 6e-4 * options.bpp**-1.5
    if options.psnr is not None:
      lmbda = 10 ** (-3 - (options.psnr - 33) / 6)
  return Plan(
    arch=archs.of_preset(options.preset),
    length=LENGTHS[options.preset],
    lmbda=min(max(lmbda, MIN_LMBDA), MAX_LMBDA),
    bpp=options.bpp,
    psnr=options.psnr,
    seconds=options.seconds,
    seed=options.seed,
  )


def encode_image(image: np.ndarray, chosen: Plan, progress=None) -> Encoded:
  """Encodes a picture.

  Args:
    image: uint8 [H, W, C], C in {1, 3}.
    chosen: how.
    progress: called as ``progress(done, total)``.

  Raises:
    CodaxError: a target out of reach, or training that fails with every seed.
  """
  with stopping.watch(chosen.seconds or 0.0) as reason:
    for attempt in range(divergence.RESTARTS + 1):
      key = jax.random.fold_in(jax.random.key(chosen.seed), attempt)
      try:
        return _Session(image, chosen, key, progress, reason, attempt).encode()
      except _Diverged as e:
        left = divergence.RESTARTS - attempt
        after = 'beginning again with other random numbers' if left else 'given up'
        logging.warning('training diverged (%s): %s', e, after)
  raise CodaxError(
    f'training diverged {divergence.RESTARTS + 1} times; another --seed or a lambda '
    f'nearer to {DEFAULT_LMBDA:g} may help'
  )


class _Session:
  """One attempt. It holds what changes on the way: state, lambda and counts."""

  def __init__(self, image, chosen: Plan, key, progress, reason, attempt: int):
    self.image, self.chosen, self.progress = image, chosen, progress
    self.target = np.asarray(image, np.float32) / 255
    self.targets = jnp.asarray(self.target)[None]
    self.pixels = image.shape[0] * image.shape[1]
    self.key, self.reason = key, reason
    self.lmbda, self.length = chosen.lmbda, chosen.length
    self.network_bits = _NETWORK_BITS
    self.steps, self.seconds, self.stopped = 0, 0.0, None
    self.tried: list[tuple[float, float]] = []  # (log(lambda), gap) of files
    # what a training diverged from is not begun with again
    nets = None if attempt else network_init.for_image(chosen.arch, image.shape)
    self.begin = time.monotonic()
    self.each = 0.0  # seconds of a step, where they count
    self.state = warm_up.begin(
      chosen.arch, chosen.recipe, self.targets, np.array([self.lmbda]), key, nets,
      *warm_up.check(chosen.candidates, chosen.warm_steps),
    )  # fmt: skip

  def encode(self) -> Encoded:
    """Trains until the target is met, and returns the best file."""
    if self.chosen.seconds:
      self.length = self.fit_length()
    best, best_gap = None, math.inf
    for attempt in range(_CORRECTIONS + 1):
      try:
        self.train(servo=attempt == 0)
      except _Diverged as e:
        if best is None:
          raise
        logging.warning('a correction diverged (%s)', e)
        self.stopped = 'diverged'
        break
      found = self.finish()
      gap = rate_control.gap(self.chosen, found)
      if best is None or abs(gap) < abs(best_gap):
        best, best_gap = found, gap
      # Nearer than promised: what is measured of a file must not be on the edge.
      if (
        self.stopped
        or rate_control.within(self.chosen, gap, 0.7)
        or not self.correct(gap)
      ):
        break
      if not self.time_for_a_correction():
        self.stopped = stopping.TIME
        break
    if rate_control.within(self.chosen, best_gap):
      return best
    if not self.stopped:
      rate_control.refuse(self.chosen, best)
    return best._replace(details={**best.details, 'stopped': self.stopped})

  def dispatch(self, count: int) -> dict:
    """Some steps; the metrics of the last."""
    begin = time.monotonic()
    self.state, metrics = train.dispatch(
      self.chosen.arch, self.chosen.recipe, self.length, self.state, self.targets,
      np.array([self.lmbda]), self.key, count,
    )  # fmt: skip
    if self.steps:  # the first call compiles
      self.seconds += time.monotonic() - begin
    self.steps += count
    return {k: float(v[0]) for k, v in metrics.items()}

  def fit_length(self) -> train.Length:
    """As many steps as the time allows, by timing a few, which are then undone."""
    begin = time.monotonic()
    kept = jax.tree.map(jnp.copy, self.state)
    self.dispatch(1)
    compiled = time.monotonic() - begin
    self.dispatch(5)
    self.each = (time.monotonic() - begin - compiled) / 5
    self.state, self.steps, self.seconds = kept, 0, 0.0
    spent = time.monotonic() - self.begin
    # Rounding the networks takes as long as some 40 steps, and to be compiled.
    spent += _ROUNDING if self.chosen.refine else 0.0
    total = int((self.chosen.seconds - spent) / self.each) - _ROUNDED
    if self.chosen.bpp or self.chosen.psnr:  # there will be something to correct
      total = int((total - _ROUNDED) / (1 + _AGAIN))
    total = max(20, total)
    return train.Length(total - total // 10, total // 10)

  def time_for_a_correction(self) -> bool:
    """Whether `seconds` allow to go back once more."""
    if not self.chosen.seconds:
      return True
    needed = self.each * (_AGAIN * self.length.total + _ROUNDED)
    return time.monotonic() - self.begin + needed <= self.chosen.seconds

  def train(self, servo: bool) -> None:
    """To the end of the recipe, from wherever the state is."""
    done = int(self.state.step)
    while done < self.length.total:
      count = min(_EVERY, self.length.total - done)
      metrics = self.dispatch(count)
      done += count
      is_warm = done >= _WARM * self.length.first
      if not math.isfinite(metrics['loss']):
        raise _Diverged(f'the loss is {metrics["loss"]} at step {done}')
      if is_warm and divergence.astray(metrics['mse'], self.target):
        raise _Diverged(f'worse than a constant picture at step {done}')
      if servo and 0.3 * self.length.first < done < 0.8 * self.length.first:
        self.servo(metrics)
      if self.progress is not None:
        self.progress(done, self.length.total)
      self.stopped = self.stopped or self.reason()
      if self.stopped:
        return

  def move(self, log_change: float) -> bool:
    """Multiplies lambda; False if it is at the end of its range already."""
    before = self.lmbda
    wanted = self.lmbda * math.exp(min(max(log_change, -2.0), 2.0))
    self.lmbda = min(max(wanted, MIN_LMBDA), MAX_LMBDA)
    return self.lmbda != before

  def servo(self, metrics: dict) -> None:
    """Moves lambda a little towards the target."""
    if self.chosen.bpp is not None:
      bpp = metrics['bpp'] + (self.network_bits + 160) / self.pixels
      self.move(0.25 * math.log(bpp / self.chosen.bpp) / _BPP_SLOPE)
    if self.chosen.psnr is not None:
      psnr = -10 * math.log10(max(metrics['mse'], 1e-9))
      self.move(0.25 * (psnr - self.chosen.psnr) / _PSNR_SLOPE)

  def correct(self, gap: float) -> bool:
    """Sets lambda and the step back to close a gap; False if lambda cannot move.

    The slope is that of the last two files, within reason: a short training answers
    less to lambda than a whole one, and files get better with every step, so older
    ones say little.
    """
    slope = usual = _BPP_SLOPE if self.chosen.bpp is not None else _PSNR_SLOPE
    self.tried.append((math.log(self.lmbda), gap))
    if len(self.tried) > 1:
      (x0, y0), (x1, y1) = self.tried[-2:]
      slope = min(max(-(y1 - y0) / (x1 - x0), usual / 6), 2 * usual)
    back = jnp.asarray(int(_GO_BACK * self.length.first), jnp.int32)
    self.state = self.state.replace(step=back)
    return self.move(gap / slope)

  def finish(self) -> Encoded:
    """The file of the state; of several with coarser or finer networks that which is
    nearest to the target, if there is one."""
    params = jax.device_get(jax.tree.map(lambda x: x[0], self.state.params))
    trained = Trained(params, self.lmbda, self.steps, self.seconds, self.stopped)
    finer = _FINER if (self.chosen.bpp or self.chosen.psnr) else (1.0,)
    made = write(self.image, self.chosen.arch, trained, finer, self.chosen.refine)
    found = min(made, key=lambda one: abs(rate_control.gap(self.chosen, one)))
    bits = found.details['bits']
    self.network_bits = bits['synthesis'] + bits['entropy']
    return found


def write(
  image: np.ndarray,
  arch: Arch,
  trained: Trained,
  finer: Sequence[float] = (1.0,),
  refined: bool = True,
) -> list[Encoded]:
  """Files of trained parameters, decoded again for their reconstructions.

  Args:
    image: uint8 [H, W, C].
    arch: the shape.
    trained: what training made of it.
    finer: for each file, by how much less than lambda says a bit of the networks costs.
    refined: whether weights are rounded together (`refine`), or each by itself.
  """
  params = trained.params
  target = np.asarray(image, np.float32) / 255
  shapes = archs.grid_shapes(arch, *image.shape[:2])
  grids = model.split(np.asarray(train.hard(params['latents']), np.int32), shapes)
  price = trained.lmbda / (image.shape[0] * image.shape[1])
  prices = [price / factor for factor in finer]
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
  out = []
  # The mean colour alone, in a few bytes, is what a file can always fall back on. No
  # constant is nearer to the picture than its spread: mostly there is no need to try.
  spread = divergence.spread(target)
  for modules in made:
    found = _file(image, stream.Picture(arch, image.shape, modules, grids), trained)
    if _loss(found) >= 0.999 * spread:
      flat = _file(image, q_step_search.constant(arch, image), trained)
      found = min(found, flat, key=_loss)
    out.append(found)
  return out


def _file(image: np.ndarray, picture: stream.Picture, trained: Trained) -> Encoded:
  data, bits = container.pack(picture)
  pixels = container.decode(data)
  details = report.make(image, picture, data, bits, pixels, trained)
  return Encoded(data, pixels, details['estimated_bits'], details)


def _loss(found: Encoded) -> float:
  facts = found.details
  return facts['distortion'] + facts['lmbda'] * facts['file_bpp']
