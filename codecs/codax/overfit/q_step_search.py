"""Search of the quantization steps of the networks' weights.

Weights are rounded to multiples of a power of two. The powers of each
network's weights and of its biases minimize the loss of the file: MSE + lambda * (bits
of latents and networks) / pixels. The distortion depends on the synthesis alone
and the latents' bits on the entropy network alone, so each is searched by itself.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from codax.bitstream import BitstreamError
from codax.errors import CodaxError
from codax.overfit import measure
from codax.overfit.format import arch as archs
from codax.overfit.format import integer, stream, weights
from codax.overfit.format.arch import Arch

# All pairs are tried: the loss has local minima, most of all in small images.
WEIGHT_FRACS = range(3, 12)
BIAS_FRACS = range(4, 12)
PAIRS = tuple(itertools.product(WEIGHT_FRACS, BIAS_FRACS))
# Pairs for someone who waits: biases are few, and cost little when they are finer.
QUICK_PAIRS = tuple((frac, min(frac + 2, BIAS_FRACS[-1])) for frac in range(4, 12))
_COLOR_FRAC = 9  # fractional bits of a constant image's color


def bits(module: integer.Module, listed: Sequence[archs.Tensor]) -> float:
  """Computes the bits of a network's weights in a file."""
  return sum(weights.cost(module.weights[t.name])[1] for t in listed)


def make_constant(arch: Arch, image: np.ndarray) -> stream.Payload:
  """Makes the payload of the mean color, a few bytes that always suffice."""
  shapes = archs.grid_shapes(arch, *image.shape[:2])
  listed = archs.tensors(arch, len(shapes), image.shape[2])
  modules = {}
  for name in archs.MODULES:
    zeros = {t.name: np.zeros(t.shape, np.int64) for t in listed if t.module == name}
    modules[name] = integer.Module(zeros, 0, 0)
  color = image.reshape(-1, image.shape[2]).mean(0) / 255
  last = f'b{archs.layers(arch, "synthesis") - 1}'
  rounded = np.rint(color * 2.0**_COLOR_FRAC).astype(np.int64)
  weights_of = {**modules['synthesis'].weights, last: rounded}
  modules['synthesis'] = integer.Module(weights_of, 0, _COLOR_FRAC)
  grids = tuple(np.zeros(s, np.int32) for s in shapes)
  return stream.Payload(arch, image.shape, modules, grids)


def quantize(net: Any, listed: list[archs.Tensor], weight_frac: int, bias_frac: int):
  """Rounds a network's arrays to an `integer.Module`."""
  rounded = {}
  for t in listed:
    frac = bias_frac if t.bias else weight_frac
    q = np.rint(np.asarray(net[t.name], np.float64) * 2.0**frac)
    rounded[t.name] = np.clip(q, -weights.MAX_WEIGHT, weights.MAX_WEIGHT).astype(
      np.int64
    )
  return integer.Module(rounded, weight_frac, bias_frac)


def dequantize(module: integer.Module, listed: list[archs.Tensor]) -> dict:
  """Computes the float arrays of an `integer.Module`."""
  frac = lambda t: module.bias_frac if t.bias else module.weight_frac
  return {
    t.name: (module.weights[t.name] * 2.0 ** -frac(t)).astype(np.float32)
    for t in listed
  }


class Candidate(NamedTuple):
  """A network with one pair of quantization steps.

  Attributes:
    module: rounded weights.
    bits: bits of the weights.
    error: MSE of the image, for a synthesis network.
    latent_bits: bits of the latents, for an entropy network.
  """

  module: integer.Module
  bits: float
  error: float = 0.0
  latent_bits: float = 0.0


def candidates(
  arch: Arch,
  networks: Any,
  latents: measure.FixedLatents,
  target: np.ndarray,
  names: Sequence[str] = archs.MODULES,
  pairs: Sequence[tuple[int, int]] = PAIRS,
) -> dict[str, list[Candidate]]:
  """Rounds networks with every pair of steps that a file may hold.

  Args:
    arch: architecture.
    networks: float arrays of 'synthesis' and 'entropy'.
    latents: latents of the image.
    target: float [H, W, C] in [0, 1].
    names: names of the networks to round.
    pairs: fractional bits of weights and of biases to try.

  Returns:
    Candidates by name.
  """
  listed = archs.tensors(arch, len(latents.grids), target.shape[2])
  found: dict[str, list[Candidate]] = {}
  for name in names:
    tensors = [t for t in listed if t.module == name]
    found[name] = []
    for weight_frac, bias_frac in pairs:
      module = quantize(networks[name], tensors, weight_frac, bias_frac)
      try:
        integer.prepare(module, arch, name, stream.MAX_LATENT)
      except BitstreamError:  # too fine for its sums: no file may hold it
        continue
      net = dequantize(module, tensors)
      value = measure.measure(name, arch, net, latents, target)
      field = 'error' if name == 'synthesis' else 'latent_bits'
      found[name].append(Candidate(module, bits(module, tensors), **{field: value}))
  return found


def choose(
  found: dict[str, list[Candidate]], rate_weight: float
) -> dict[str, integer.Module]:
  """Chooses the candidate of least loss for each network.

  Args:
    found: candidates by name, from `candidates`.
    rate_weight: weight of a bit in MSE, lambda / pixels.

  Raises:
    CodaxError: a network has no candidate (its weights are huge).
  """
  if not all(found.values()):
    raise CodaxError('the networks have weights that no file can hold')
  loss = lambda c: c.error + rate_weight * (c.latent_bits + c.bits)
  return {name: min(listed, key=loss).module for name, listed in found.items()}
