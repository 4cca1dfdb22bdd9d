"""From trained floats to what a file holds: integers, with the steps that pay.

Weights are rounded to multiples of a power of two. Which power is searched, for each
network's weights and biases apart, by the loss that the file will have: MSE + lambda *
(bits of latents and networks) / pixels. The distortion depends on the synthesis alone
and the latents' bits on the entropy network alone, so each is searched by itself.
"""

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codax.bitstream import BitstreamError
from codax.errors import CodaxError
from codax.overfit import model
from codax.overfit.format import arch as archs
from codax.overfit.format import integer, stream, weights
from codax.overfit.format.arch import Arch

# All pairs are tried: the loss has local minima, most of all in small pictures.
WEIGHT_FRACS = range(3, 12)
BIAS_FRACS = range(4, 12)
_COLOUR_FRAC = 9  # of a constant picture's colour


@functools.partial(jax.jit, static_argnums=0)
def _image(arch: Arch, net: Any, grids: Any) -> jax.Array:
  image = jnp.clip(model.synthesise(net, arch, grids), 0, 1)
  return jnp.round(image * 255).astype(jnp.uint8)


@functools.partial(jax.jit, static_argnums=0)
def _mse(arch: Arch, net: Any, grids: Any, target: jax.Array) -> jax.Array:
  image = jnp.clip(model.synthesise(net, arch, grids), 0, 1)
  return jnp.mean((jnp.round(image * 255) / 255 - target) ** 2)


@functools.partial(jax.jit, static_argnums=0)
def _bits(arch: Arch, net: Any, grids: Any) -> jax.Array:
  return model.rate(net, arch, grids)


def pixels(arch: Arch, net: Any, grids: Any) -> np.ndarray:
  """The picture uint8 [H, W, C] of a float synthesis network."""
  return np.asarray(_image(arch, net, tuple(grids)))


def latent_bits(arch: Arch, net: Any, grids: Any) -> float:
  """Bits of the latents under a float entropy network."""
  return float(_bits(arch, net, tuple(grids)))


def measure(name: str, arch: Arch, net: Any, grids: Any, target: Any) -> float:
  """What a float network is there for: MSE of the picture, of values in [0, 1], for
  the synthesis, and bits of the latents for the entropy network."""
  if name == 'synthesis':
    return float(_mse(arch, net, tuple(grids), target))
  return float(_bits(arch, net, tuple(grids)))


def bits(module: integer.Module, listed: Sequence[archs.Tensor]) -> float:
  """Of a network's weights in a file."""
  return sum(weights.cost(module.weights[t.name])[1] for t in listed)


def constant(arch: Arch, image: np.ndarray) -> stream.Picture:
  """The picture that is the mean colour everywhere: what a file can always fall back
  on, in a few bytes."""
  shapes = archs.grid_shapes(arch, *image.shape[:2])
  listed = archs.tensors(arch, len(shapes), image.shape[2])
  modules = {}
  for name in archs.MODULES:
    zeros = {t.name: np.zeros(t.shape, np.int64) for t in listed if t.module == name}
    modules[name] = integer.Module(zeros, 0, 0)
  colour = image.reshape(-1, image.shape[2]).mean(0) / 255
  last = f'b{archs.layers(arch, "synthesis") - 1}'
  rounded = np.rint(colour * 2.0**_COLOUR_FRAC).astype(np.int64)
  weights_of = {**modules['synthesis'].weights, last: rounded}
  modules['synthesis'] = integer.Module(weights_of, 0, _COLOUR_FRAC)
  grids = tuple(np.zeros(s, np.int32) for s in shapes)
  return stream.Picture(arch, image.shape, modules, grids)


def quantize(net: Any, listed: list[archs.Tensor], weight_frac: int, bias_frac: int):
  """A network's arrays as an `integer.Module`."""
  rounded = {}
  for t in listed:
    frac = bias_frac if t.bias else weight_frac
    q = np.rint(np.asarray(net[t.name], np.float64) * 2.0**frac)
    rounded[t.name] = np.clip(q, -weights.MAX_WEIGHT, weights.MAX_WEIGHT).astype(
      np.int64
    )
  return integer.Module(rounded, weight_frac, bias_frac)


def dequantize(module: integer.Module, listed: list[archs.Tensor]) -> dict:
  """The float arrays that an `integer.Module` stands for."""
  frac = lambda t: module.bias_frac if t.bias else module.weight_frac
  return {
    t.name: (module.weights[t.name] * 2.0 ** -frac(t)).astype(np.float32)
    for t in listed
  }


class Candidate(NamedTuple):
  """A network with one pair of steps.

  Attributes:
    module: the integers.
    bits: of its weights.
    error: MSE of the picture, for a synthesis network.
    latent_bits: for an entropy network.
  """

  module: integer.Module
  bits: float
  error: float = 0.0
  latent_bits: float = 0.0


def candidates(
  arch: Arch,
  networks: Any,
  grids: Any,
  target: np.ndarray,
  names: Sequence[str] = archs.MODULES,
) -> dict[str, list[Candidate]]:
  """Networks with every pair of steps that a file may hold, each just rounded.

  Args:
    arch: the shape.
    networks: 'synthesis' and 'entropy', float arrays.
    grids: latents as integers, finest first.
    target: float [H, W, C] in [0, 1].
    names: which networks.
  """
  listed = archs.tensors(arch, len(grids), target.shape[2])
  grids = tuple(jnp.asarray(g, jnp.float32) for g in grids)
  found: dict[str, list[Candidate]] = {}
  for name in names:
    mine = [t for t in listed if t.module == name]
    found[name] = []
    for weight_frac, bias_frac in itertools.product(WEIGHT_FRACS, BIAS_FRACS):
      module = quantize(networks[name], mine, weight_frac, bias_frac)
      try:
        integer.prepare(module, arch, name, stream.MAX_LATENT)
      except BitstreamError:  # too fine for its sums: no file may hold it
        continue
      value = measure(name, arch, dequantize(module, mine), grids, target)
      what = 'error' if name == 'synthesis' else 'latent_bits'
      found[name].append(Candidate(module, bits(module, mine), **{what: value}))
  return found


def choose(
  found: dict[str, list[Candidate]], price: float
) -> dict[str, integer.Module]:
  """Of each network the candidate of least loss.

  Args:
    found: from `candidates`.
    price: of a bit, in MSE: lambda / pixels.

  Raises:
    CodaxError: a network has none (its weights are huge).
  """
  if not all(found.values()):
    raise CodaxError('the networks have weights that no file can hold')
  loss = lambda c: c.error + price * (c.latent_bits + c.bits)
  return {name: min(listed, key=loss).module for name, listed in found.items()}
