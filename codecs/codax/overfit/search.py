"""From trained floats to what a file holds: integers, with the steps that pay.

Weights are rounded to multiples of a power of two. Which power is searched, for each
network's weights and biases apart, by the loss that the file will have: MSE + lambda *
(bits of latents and networks) / pixels. The distortion depends on the synthesis alone
and the latents' bits on the entropy network alone, so each is searched by itself.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codax.bitstream import BitstreamError
from codax.overfit import arch as archs
from codax.overfit import integer, model, stream, weights
from codax.overfit.arch import Arch

WEIGHT_FRACS = range(3, 13)
BIAS_FRACS = range(4, stream.MAX_FRAC)
_START = 8, 9


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


def evaluate(arch: Arch, params: Any, grids: Any, target: np.ndarray):
  """The picture uint8 [H, W, C] of float networks, and its MSE in [0, 1] units."""
  image = _image(arch, params['synthesis'], tuple(grids))
  return np.asarray(image), float(_mse(arch, params['synthesis'], tuple(grids), target))


def latent_bits(arch: Arch, net: Any, grids: Any) -> float:
  """Bits of the latents under a float entropy network."""
  return float(_bits(arch, net, tuple(grids)))


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
  rounded = np.rint(colour * 2.0 ** _START[1]).astype(np.int64)
  weights_of = {**modules['synthesis'].weights, last: rounded}
  modules['synthesis'] = integer.Module(weights_of, 0, _START[1])
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


def _best(evaluate: Callable[[int, int], float]) -> tuple[int, int]:
  """The steps of least loss, by coordinate search downhill from `_START`."""
  seen: dict[tuple[int, int], float] = {}

  def loss(at):
    if at not in seen:
      seen[at] = evaluate(*at)
    return seen[at]

  at = _START
  while math.isinf(loss(at)) and at[0] - 1 in WEIGHT_FRACS:
    at = at[0] - 1, at[1]
  while True:
    w, b = at
    near = [(w - 1, b), (w + 1, b), (w, b - 1), (w, b + 1), (w - 1, b - 1)]
    near = [(w, b) for w, b in near if w in WEIGHT_FRACS and b in BIAS_FRACS]
    best = min([at, *near], key=loss)
    if best == at:
      return at
    at = best


def choose(
  arch: Arch, networks: Any, grids: Any, target: np.ndarray, lmbda: float
) -> dict[str, integer.Module]:
  """Both networks with the steps that make the least loss.

  Args:
    arch: the shape.
    networks: 'synthesis' and 'entropy', float arrays.
    grids: latents as integers, finest first.
    target: float [H, W, C] in [0, 1].
    lmbda: weight of bits a pixel.
  """
  pixels = target.shape[0] * target.shape[1]
  listed = archs.tensors(arch, len(grids), target.shape[2])
  grids = tuple(jnp.asarray(g, jnp.float32) for g in grids)
  found = {}
  for name in archs.MODULES:
    mine = [t for t in listed if t.module == name]

    def evaluate(weight_frac, bias_frac, name=name, mine=mine):
      module = quantize(networks[name], mine, weight_frac, bias_frac)
      try:
        integer.prepare(module, arch, name, stream.MAX_LATENT)
      except BitstreamError:  # too fine for its sums: no file may hold it
        return math.inf
      bits = sum(weights.cost(module.weights[t.name])[1] for t in mine)
      net = dequantize(module, mine)
      if name == 'synthesis':
        return float(_mse(arch, net, grids, target)) + lmbda * bits / pixels
      return lmbda * (float(_bits(arch, net, grids)) + bits) / pixels

    found[name] = quantize(networks[name], mine, *_best(evaluate))
  return found
