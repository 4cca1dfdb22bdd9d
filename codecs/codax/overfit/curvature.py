"""Quadratic model of a network's loss, for choosing its integers.

With the latents fixed, the distortion depends on the synthesis alone and the latents'
bits on the entropy network alone. Around given weights each loss is modelled as

  L(w + d) = L(w) + g d + d H d / 2

with the exact gradient g of the whole image and, for H, the Gauss-Newton matrix of
the squared error or the Fisher matrix of the code (Amari 1998; both are the Hessian
without the curvature of the networks themselves, so never negative), from a few pieces
of the image.
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

# Squares of the image that H is averaged over: side, a power of two, and most of them.
# (Measured: many small ones are more exact than few large ones, where edges allow.)
SQUARES = {'synthesis': (4, 512), 'entropy': (32, 12)}
BLOCK = 4096  # pixels that are handled at once
_DIRECTIONS = 64  # derivatives that are computed at once


def flatten(net: Any, listed: Sequence[archs.Tensor]) -> np.ndarray:
  """Concatenates all arrays of a network, float64 [n]."""
  return np.concatenate([np.asarray(net[t.name], np.float64).ravel() for t in listed])


def unflatten(flat: Any, listed: Sequence[archs.Tensor]) -> dict:
  """Inverts `flatten`; arrays have the type of `flat`."""
  out, at = {}, 0
  for t in listed:
    size = int(np.prod(t.shape))
    out[t.name] = flat[at : at + size].reshape(t.shape)
    at += size
  return out


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _derivatives(name: str, arch: Arch, listed: Any, flat: Any, grids: Any, along: Any):
  """Computes derivatives [D, m] of a network's outputs along directions [D, n]."""

  def outputs(net, grids):
    if name == 'synthesis':
      image = model.synthesize(net, arch, grids, forward=True)
      return jnp.clip(image, 0, 1)  # as decoders do: no slope beyond
    values = jnp.concatenate([g.reshape(-1) for g in grids])
    return model.laplace_bits(values, *model.predict(net, arch, grids))

  def all_outputs(flat):
    net = unflatten(flat, listed)
    return jax.vmap(lambda *square: outputs(net, square))(*grids).reshape(-1)

  return jax.vmap(lambda d: jax.jvp(all_outputs, (flat,), (d,))[1])(along)


@jax.jit
def _gram(parts: Any) -> jax.Array:
  rows = jnp.concatenate(parts)  # [n, m]
  return jnp.matmul(rows, rows.T, precision='highest')


def cut_squares(
  grids: Sequence[np.ndarray], side: int, count: int
) -> tuple[np.ndarray, ...]:
  """Cuts up to `count` squares out of an image's latents, from all over it.

  Each begins at a multiple of `side`, a power of two, and is taken for an image of its
  own: there are zeros beyond its edges. All are whole, unless the image is smaller.

  Returns:
    float32 grids like those of an image, each with a leading axis of squares.
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
  """Computes H of a network's `loss`, symmetric and never negative.

  Args:
    name: 'synthesis' or 'entropy'.
    arch: architecture.
    net: float arrays of the network.
    grids: latents of the whole image, finest first.
    channels: number of channels of the image.
    listed: the network's tensors.

  Returns:
    float64 [n, n].
  """
  flat = jnp.asarray(flatten(net, listed), jnp.float32)
  n, listed = len(flat), tuple(listed)
  directions = np.eye(-(-n // _DIRECTIONS) * _DIRECTIONS, n, dtype=np.float32)
  side, count = SQUARES[name]
  total = np.zeros((n, n))
  squares = cut_squares(grids, side, count)
  size = min(max(1, BLOCK // squares[0][0].size), len(squares[0]))
  pixels = 0
  for at in range(0, len(squares[0]) - size + 1, size):
    block = tuple(g[at : at + size] for g in squares)
    pixels += block[0].size
    parts = [
      _derivatives(name, arch, listed, flat, block, directions[i : i + _DIRECTIONS])
      for i in range(0, n, _DIRECTIONS)
    ]
    total += np.asarray(_gram(parts), np.float64)[:n, :n]
  if name == 'synthesis':
    return 2 / (channels * pixels) * total
  # Fisher's matrix in bits: with derivatives in bits, ln 2 times their squares.
  return np.log(2) * grids[0].size / pixels * total
