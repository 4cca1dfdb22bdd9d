"""How a network's loss bends: a quadratic model for choosing its integers.

With the latents fixed, the distortion depends on the synthesis alone and the latents'
bits on the entropy network alone. Around given weights each loss is modelled as

  L(w + d) = L(w) + g d + d H d / 2

with the exact gradient g of the whole picture and, for H, the Gauss-Newton matrix of
the squared error or the Fisher matrix of the code (Amari 1998; both are the Hessian
without the networks' own bend, so never negative), from a few pieces of the picture.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codax.overfit import model
from codax.overfit.format import arch as archs
from codax.overfit.format.arch import Arch

# Of the squares that H is made of: side, a power of two, and how many at most.
# (Measured: many small ones tell more than few large ones, where edges allow.)
SQUARES = {'synthesis': (4, 512), 'entropy': (32, 12)}
BLOCK = 4096  # pixels that are taken at once
_DIRECTIONS = 64  # derivatives that are taken at once


def flatten(net: Any, listed: Sequence[archs.Tensor]) -> np.ndarray:
  """All arrays of a network in a row, float64 [n]."""
  return np.concatenate([np.asarray(net[t.name], np.float64).ravel() for t in listed])


def unflatten(flat: Any, listed: Sequence[archs.Tensor]) -> dict:
  """Inverse of `flatten`; of whatever type `flat` is."""
  out, at = {}, 0
  for t in listed:
    size = int(np.prod(t.shape))
    out[t.name] = flat[at : at + size].reshape(t.shape)
    at += size
  return out


def loss(name: str, arch: Arch, net: Any, grids: Any, target: Any) -> jax.Array:
  """What a network is there for, a scalar: MSE of values in [0, 1], or latents' bits.

  Args:
    name: 'synthesis' or 'entropy'.
    arch: the shape.
    net: its float arrays.
    grids: float latents, finest first.
    target: float [H, W, C].
  """
  if name == 'entropy':
    return model.rate(net, arch, grids)
  image = jnp.clip(model.synthesise(net, arch, grids), 0, 1)
  return jnp.mean((image - target) ** 2)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _gradient(name: str, arch: Arch, net: Any, grids: Any, target: Any):
  return jax.grad(lambda net: loss(name, arch, net, grids, target))(net)


def gradient(
  name: str, arch: Arch, net: Any, grids: Any, target: Any, listed: Any
) -> np.ndarray:
  """Of `loss` over the whole picture, float64 [n]."""
  return flatten(_gradient(name, arch, net, tuple(grids), target), listed)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _slopes(name: str, arch: Arch, listed: Any, flat: Any, grids: Any, along: Any):
  """Derivatives [D, m] along directions [D, n] of what `hessian` squares."""

  def outputs(net, grids):
    if name == 'synthesis':
      image = model.synthesise(net, arch, grids, forward=True)
      return jnp.clip(image, 0, 1)  # as decoders do: no slope beyond
    values = jnp.concatenate([g.reshape(-1) for g in grids])
    return model.laplace_bits(values, *model.predict(net, arch, grids))

  def every(flat):
    net = unflatten(flat, listed)
    return jax.vmap(lambda *one: outputs(net, one))(*grids).reshape(-1)

  return jax.vmap(lambda d: jax.jvp(every, (flat,), (d,))[1])(along)


@jax.jit
def _squares(parts: Any) -> jax.Array:
  rows = jnp.concatenate(parts)  # [n, m]
  return jnp.matmul(rows, rows.T, precision='highest')


def pieces(
  grids: Sequence[np.ndarray], side: int, count: int
) -> tuple[np.ndarray, ...]:
  """Up to `count` squares of a picture's latents, from all over it.

  Each begins at a multiple of `side`, a power of two, and is taken for a picture of its
  own: what it would see beyond its edges is missing. None is cut off at the picture's
  edges, unless the picture is smaller.

  Returns:
    float32 grids as those of a picture, but that each leads with an axis of squares.
  """
  height, width = grids[0].shape
  tall, wide = min(side, height), min(side, width)
  tops = range(0, height - tall + 1, side)
  lefts = range(0, width - wide + 1, side)
  places = [(top, left) for top in tops for left in lefts]
  order = np.random.default_rng(0).permutation(len(places))[:count]
  out = []
  for i, grid in enumerate(grids):
    cut = lambda top, left, i=i, grid=grid: grid[
      top >> i : -(-(top + tall) >> i), left >> i : -(-(left + wide) >> i)
    ]
    out.append(np.stack([cut(*places[k]) for k in order]).astype(np.float32))
  return tuple(out)


def hessian(
  name: str, arch: Arch, net: Any, grids: Any, channels: int, listed: Any
) -> np.ndarray:
  """H of a network's `loss`, float64 [n, n], symmetric and never negative.

  Args:
    name: 'synthesis' or 'entropy'.
    arch: the shape.
    net: float arrays.
    grids: latents of the whole picture, finest first.
    channels: of the picture.
    listed: the network's tensors.
  """
  flat = jnp.asarray(flatten(net, listed), jnp.float32)
  n, listed = len(flat), tuple(listed)
  directions = np.eye(-(-n // _DIRECTIONS) * _DIRECTIONS, n, dtype=np.float32)
  side, count = SQUARES[name]
  total = np.zeros((n, n))
  found = pieces(grids, side, count)
  each = min(max(1, BLOCK // found[0][0].size), len(found[0]))
  seen = 0
  for at in range(0, len(found[0]) - each + 1, each):
    block = tuple(g[at : at + each] for g in found)
    seen += block[0].size
    parts = [
      _slopes(name, arch, listed, flat, block, directions[i : i + _DIRECTIONS])
      for i in range(0, n, _DIRECTIONS)
    ]
    total += np.asarray(_squares(parts), np.float64)[:n, :n]
  if name == 'synthesis':
    return 2 / (channels * seen) * total
  # Fisher's matrix in bits: with slopes in bits, ln 2 times their squares.
  return np.log(2) * grids[0].size / seen * total
