"""Rate-distortion-optimal rounding of network weights (Gauss-Newton, Babai).

`q_step_search` rounds every weight to its nearest integer and tries all quantization
steps. Here, for all steps at once, integers are chosen together by a quadratic model of
the loss and the weighted bits (see `curvature` and `rounding`). The model alone decides
nothing: the best few choices are measured on the whole image, beside plain rounding,
and the winner is changed as long as the measured loss falls.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from codax.bitstream import BitstreamError
from codax.overfit import curvature, measure, q_step_search, rounding
from codax.overfit.format import arch as archs
from codax.overfit.format import integer, stream
from codax.overfit.format.arch import Arch

WEIGHT_FRACS = range(2, 12)
BIAS_FRACS = range(2, 12)
MAX_WEIGHTS = 3000  # number in a network; H has its square
MAX_WEIGHT = 2.0**10  # magnitude; trained networks have no larger ones
DAMPING = 0.01  # of H for the first choice, see `rounding.damp`
_CHANGE_DAMPING = 0.3  # of H for changes after it
_NUM_MEASURED = 3  # choices of quantization steps that are measured
_ROUNDS = 3  # rounds of changes


class NetworkQuadratic(NamedTuple):
  """The quadratic model of a network that is to be rounded.

  Attributes:
    name: 'synthesis' or 'entropy'.
    listed: tensors of the network.
    at: float64 [n], weights before rounding.
    hessian: float64 [n, n] of the loss, see `curvature`.
    is_bias: bool [n], whether a weight has the quantization step of biases.
  """

  name: str
  listed: tuple[archs.Tensor, ...]
  at: np.ndarray
  hessian: np.ndarray
  is_bias: np.ndarray


class LossInputs(NamedTuple):
  """The inputs of the loss beside the networks.

  Attributes:
    arch: architecture.
    latents: latents of the image.
    target: float32 [H, W, C] in [0, 1].
  """

  arch: Arch
  latents: measure.FixedLatents
  target: np.ndarray


def round_networks(
  arch: Arch,
  networks: Any,
  latents: measure.FixedLatents,
  target: np.ndarray,
  rate_weights: Sequence[float],
) -> list[dict[str, integer.Module]]:
  """Rounds both networks, for each weight of the rate.

  Args:
    arch: architecture.
    networks: float arrays of 'synthesis' and 'entropy'.
    latents: latents of the image.
    target: float32 [H, W, C] in [0, 1].
    rate_weights: weights of a bit in MSE, lambda / pixels.

  Returns:
    Modules by name, for each of the weights.

  Raises:
    CodaxError: a network has weights that no file can hold.
  """
  inputs = LossInputs(arch, latents, target)
  out: list[dict[str, integer.Module]] = [{} for _ in rate_weights]
  for name in archs.MODULES:
    quadratic = _make_quadratic(inputs, name, networks[name])
    plain = None
    for rate_weight, made in zip(rate_weights, out):
      objective = quadratic and _Objective(inputs, quadratic, rate_weight)
      found = objective and _find_best_steps(objective)
      if found:
        made[name] = objective.module(*_improve(objective, *found))
        continue
      if plain is None:
        plain = q_step_search.candidates(arch, networks, latents, target, (name,))
      made.update(q_step_search.choose(plain, rate_weight))
  return out


def _make_quadratic(inputs: LossInputs, name: str, net: Any) -> NetworkQuadratic | None:
  """Makes the quadratic model of a network.

  Returns:
    None for a network that is too large, that has huge weights, or of splines, whose
    derivatives take minutes.
  """
  arch, latents, target = inputs
  if archs.splines(arch, name, 0) is not None:
    return None
  channels = target.shape[2]
  tensors = archs.tensors(arch, len(latents.grids), channels)
  listed = tuple(t for t in tensors if t.module == name)
  at = curvature.flatten(net, listed)
  if len(at) > MAX_WEIGHTS or not np.abs(at).max() < MAX_WEIGHT:
    return None
  hessian = curvature.hessian(name, arch, net, latents.grids, channels, listed)
  if not np.isfinite(hessian).all():
    return None
  is_bias = np.array([t.bias for t in listed])[rounding.owners(listed)]
  return NetworkQuadratic(name, listed, at, hessian, is_bias)


class _Objective:
  """One network at one weight of the rate: its modelled and its measured loss."""

  def __init__(
    self, inputs: LossInputs, quadratic: NetworkQuadratic, rate_weight: float
  ):
    self.inputs, self.quadratic, self.rate_weight = inputs, quadratic, rate_weight
    self.unit = 1.0 if quadratic.name == 'synthesis' else rate_weight
    self.owner = rounding.owners(quadratic.listed)

  def problem(self, at, gradient, damping: float) -> rounding.Problem:
    hessian = rounding.damp(self.unit * self.quadratic.hessian, damping)
    return rounding.Problem(at, gradient, hessian, self.owner, self.rate_weight)

  def q_steps(self, fracs: tuple[int, int]) -> np.ndarray:
    return 2.0 ** -np.where(self.quadratic.is_bias, fracs[1], fracs[0])

  def module(self, fracs: tuple[int, int], q: np.ndarray) -> integer.Module:
    return integer.Module(curvature.unflatten(q, self.quadratic.listed), *fracs)

  def net(self, module: integer.Module) -> dict:
    return q_step_search.dequantize(module, self.quadratic.listed)

  def loss(self, module: integer.Module) -> float:
    """Measures the loss; infinite for a module that no file may hold."""
    arch, latents, target = self.inputs
    name = self.quadratic.name
    try:
      integer.prepare(module, arch, name, stream.MAX_LATENT)
    except BitstreamError:
      return np.inf
    value = measure.measure(name, arch, self.net(module), latents, target)
    bits = q_step_search.bits(module, self.quadratic.listed)
    return self.unit * value + self.rate_weight * bits

  def gradient(self, module: integer.Module) -> np.ndarray:
    name, listed = self.quadratic.name, self.quadratic.listed
    arch, latents, target = self.inputs
    found = measure.gradient(name, arch, self.net(module), latents, target)
    return self.unit * curvature.flatten(found, listed)


def _find_best_steps(
  objective: _Objective,
) -> tuple[tuple[int, int], np.ndarray, float] | None:
  """Chooses quantization steps and integers.

  Returns:
    (fractional bits of weights and biases, integers, loss); None if no file may hold
    any choice.
  """
  at = objective.quadratic.at
  pairs = list(itertools.product(WEIGHT_FRACS, BIAS_FRACS))
  steps = np.array([objective.q_steps(pair) for pair in pairs])
  # A trained network is at the minimum of its loss, so that its gradient is noise.
  problem = objective.problem(at, np.zeros_like(at), DAMPING)
  nearest = np.rint(at / steps).astype(np.int64)
  together = rounding.babai_round(
    problem, steps, rounding.levels(nearest, objective.owner)
  )
  found = []
  for q, count in ((nearest, 1), (together, _NUM_MEASURED)):
    order = np.argsort(rounding.evaluate(problem, steps, q), kind='stable')[:count]
    rows = q[order]
    if q is together:
      rows = rounding.coordinate_descent(problem, steps[order], rows)
    found += [(pairs[i], row) for i, row in zip(order, rows)]
  losses = [objective.loss(objective.module(*choice)) for choice in found]
  least = int(np.argmin(losses))
  return (*found[least], losses[least]) if np.isfinite(losses[least]) else None


def _improve(objective: _Objective, fracs: tuple[int, int], q: np.ndarray, loss: float):
  """Changes single integers by a model around them, as long as the loss falls.

  Returns:
    (fracs, integers).
  """
  steps, damping = objective.q_steps(fracs), _CHANGE_DAMPING
  gradient = None
  for _ in range(_ROUNDS):
    if gradient is None:
      gradient = objective.gradient(objective.module(fracs, q))
    problem = objective.problem(q * steps, gradient, damping)
    changed = rounding.coordinate_descent(problem, steps[None], q[None])[0]
    if np.array_equal(changed, q):
      break
    tried = objective.loss(objective.module(fracs, changed))
    if tried < loss:
      loss, q, gradient = tried, changed, None
    else:
      damping *= 8
  return fracs, q
