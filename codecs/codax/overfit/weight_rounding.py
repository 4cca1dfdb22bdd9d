"""Networks to integers with all that they cost in view: better than rounding each.

`search` rounds every weight to its nearest integer and tries all steps. Here, for all
steps at once, integers are chosen together by a quadratic model of the loss and the
price of their bits (see `curvature` and `rounding`). What the model says is never
believed: the best few are measured on the whole picture, those that are just rounded
among them, and the winner is changed as long as the measured loss falls.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from codax.bitstream import BitstreamError
from codax.overfit import curvature, q_step_search, rounding
from codax.overfit.format import arch as archs
from codax.overfit.format import integer, stream
from codax.overfit.format.arch import Arch

WEIGHT_FRACS = range(2, 12)
BIAS_FRACS = range(2, 12)
MAX_WEIGHTS = 3000  # of a network; H has their square
MAX_WEIGHT = 2.0**10  # magnitude; what is larger is no trained network
DAMPING = 0.01  # of H for the first choice, see `rounding.damped`
_CAREFUL = 0.3  # and for changes after it
_MEASURED = 3  # choices of steps that are measured
_ROUNDS = 3  # of changes


class Bend(NamedTuple):
  """A network about to be rounded.

  Attributes:
    name: 'synthesis' or 'entropy'.
    listed: its tensors.
    at: float64 [n], the weights.
    hessian: float64 [n, n] of its loss (see `curvature.loss`).
    fine: bool [n], whether a weight has a bias's step.
  """

  name: str
  listed: tuple[archs.Tensor, ...]
  at: np.ndarray
  hessian: np.ndarray
  fine: np.ndarray


class Picture(NamedTuple):
  """What losses are measured on: the shape, float32 grids, the target [H, W, C]."""

  arch: Arch
  grids: tuple[Any, ...]
  target: Any


def modules(
  arch: Arch, networks: Any, grids: Any, target: np.ndarray, prices: Sequence[float]
) -> list[dict[str, integer.Module]]:
  """Both networks in integers, for each price of a bit.

  Args:
    arch: the shape.
    networks: 'synthesis' and 'entropy', float arrays.
    grids: latents as integers, finest first.
    target: float [H, W, C] in [0, 1].
    prices: in MSE: lambda / pixels.

  Raises:
    CodaxError: a network has weights that no file can hold.
  """
  floats = tuple(jnp.asarray(g, jnp.float32) for g in grids)
  picture = Picture(arch, floats, jnp.asarray(target))
  out: list[dict[str, integer.Module]] = [{} for _ in prices]
  for name in archs.MODULES:
    bend = _bend(picture, name, networks[name])
    plain = None
    for price, made in zip(prices, out):
      measure = bend and _Measure(picture, bend, price)
      found = measure and _first(measure)
      if found:
        made[name] = measure.module(*_changed(measure, *found))
        continue
      if plain is None:
        plain = q_step_search.candidates(arch, networks, grids, target, (name,))
      made.update(q_step_search.choose(plain, price))
  return out


def _bend(picture: Picture, name: str, net: Any) -> Bend | None:
  """None for a network that is too large or too wild to be looked at so closely, or of
  splines, whose derivatives take minutes."""
  arch, grids, target = picture
  if archs.splines(arch, name, 0) is not None:
    return None
  channels = target.shape[2]
  tensors = archs.tensors(arch, len(grids), channels)
  listed = tuple(t for t in tensors if t.module == name)
  at = curvature.flatten(net, listed)
  if len(at) > MAX_WEIGHTS or not np.abs(at).max() < MAX_WEIGHT:
    return None
  latents = [np.asarray(g) for g in grids]
  hessian = curvature.hessian(name, arch, net, latents, channels, listed)
  if not np.isfinite(hessian).all():
    return None
  fine = np.array([t.bias for t in listed])[rounding.owners(listed)]
  return Bend(name, listed, at, hessian, fine)


class _Measure:
  """One network at one price: its problem and its true loss."""

  def __init__(self, picture: Picture, bend: Bend, price: float):
    self.picture, self.bend, self.price = picture, bend, price
    self.unit = 1.0 if bend.name == 'synthesis' else price
    self.owner = rounding.owners(bend.listed)

  def problem(self, at, gradient, damping: float) -> rounding.Problem:
    hessian = rounding.damped(self.unit * self.bend.hessian, damping)
    return rounding.Problem(at, gradient, hessian, self.owner, self.price)

  def steps(self, fracs: tuple[int, int]) -> np.ndarray:
    return 2.0 ** -np.where(self.bend.fine, fracs[1], fracs[0])

  def module(self, fracs: tuple[int, int], q: np.ndarray) -> integer.Module:
    return integer.Module(curvature.unflatten(q, self.bend.listed), *fracs)

  def net(self, module: integer.Module) -> dict:
    return q_step_search.dequantize(module, self.bend.listed)

  def loss(self, module: integer.Module) -> float:
    """Infinite for a module that no file may hold."""
    arch, grids, target = self.picture
    name = self.bend.name
    try:
      integer.prepare(module, arch, name, stream.MAX_LATENT)
    except BitstreamError:
      return np.inf
    value = q_step_search.measure(name, arch, self.net(module), grids, target)
    bits = q_step_search.bits(module, self.bend.listed)
    return self.unit * value + self.price * bits

  def gradient(self, module: integer.Module) -> np.ndarray:
    arch, grids, target = self.picture
    return self.unit * curvature.gradient(
      self.bend.name, arch, self.net(module), grids, target, self.bend.listed
    )


def _first(measure: _Measure) -> tuple[tuple[int, int], np.ndarray, float] | None:
  """The best of all steps: (fracs, integers, loss); None if no file may hold any."""
  at = measure.bend.at
  pairs = list(itertools.product(WEIGHT_FRACS, BIAS_FRACS))
  steps = np.array([measure.steps(pair) for pair in pairs])
  # A trained network is where its loss is least, so that its gradient is only noise.
  problem = measure.problem(at, np.zeros_like(at), DAMPING)
  nearest = np.rint(at / steps).astype(np.int64)
  together = rounding.settle(problem, steps, rounding.levels(nearest, measure.owner))
  found = []
  for q, count in ((nearest, 1), (together, _MEASURED)):
    best = np.argsort(rounding.model(problem, steps, q), kind='stable')[:count]
    rows = q[best] if q is nearest else rounding.descend(problem, steps[best], q[best])
    found += [(pairs[i], row) for i, row in zip(best, rows)]
  losses = [measure.loss(measure.module(*one)) for one in found]
  least = int(np.argmin(losses))
  return (*found[least], losses[least]) if np.isfinite(losses[least]) else None


def _changed(measure: _Measure, fracs: tuple[int, int], q: np.ndarray, loss: float):
  """(fracs, integers) with single integers changed by a model at where they are, as
  long as the loss falls."""
  steps, damping = measure.steps(fracs), _CAREFUL
  gradient = None
  for _ in range(_ROUNDS):
    if gradient is None:
      gradient = measure.gradient(measure.module(fracs, q))
    problem = measure.problem(q * steps, gradient, damping)
    changed = rounding.descend(problem, steps[None], q[None])[0]
    if np.array_equal(changed, q):
      break
    tried = measure.loss(measure.module(fracs, changed))
    if tried < loss:
      loss, q, gradient = tried, changed, None
    else:
      damping *= 8
  return fracs, q
