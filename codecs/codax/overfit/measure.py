"""Losses of float networks over a whole image whose latents are fixed integers.

Networks that are to be rounded are measured dozens of times. The contexts of the
latents are the same each time, so they are collected once, in blocks of one shape: the
programs of the entropy network then serve images of every size.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codax import programs
from codax.overfit import model
from codax.overfit.format.arch import Arch
from codax.overfit.grids import contexts

BLOCK = 8192  # latents of a block


class LatentBlock(NamedTuple):
  """A block of latents and their contexts.

  Attributes:
    contexts: float32 [BLOCK, inputs], see `grids.contexts`.
    values: float32 [BLOCK], the latents.
    is_latent: bool [BLOCK]; the last block is filled up.
  """

  contexts: jax.Array
  values: jax.Array
  is_latent: jax.Array


class FixedLatents(NamedTuple):
  """Latents that no longer change.

  Attributes:
    grids: float32 [h, w] each, finest first.
    blocks: all of them in blocks.
  """

  grids: tuple[np.ndarray, ...]
  blocks: tuple[LatentBlock, ...]


def fix_latents(arch: Arch, grids: Sequence[Any]) -> FixedLatents:
  """Collects the contexts of latents.

  Args:
    arch: architecture.
    grids: integers [h, w] each, finest first.
  """
  grids = tuple(np.asarray(g, np.float32) for g in grids)
  values = np.concatenate([g.reshape(-1) for g in grids])
  is_latent = np.ones(len(values), bool)
  columns = contexts(arch, grids), values, is_latent
  rest = -len(values) % BLOCK
  fill = lambda x: np.pad(x, [(0, rest)] + [(0, 0)] * (x.ndim - 1))
  filled = [list(fill(x).reshape(-1, BLOCK, *x.shape[1:])) for x in columns]
  blocks = [LatentBlock(*map(jnp.asarray, block)) for block in zip(*filled)]
  return FixedLatents(grids, tuple(blocks))


def measure(
  name: str, arch: Arch, net: Any, latents: FixedLatents, target: np.ndarray
) -> float:
  """Measures a float network on the whole image.

  Args:
    name: 'synthesis' or 'entropy'.
    arch: architecture.
    net: float arrays of the network.
    latents: latents of the image.
    target: float32 [H, W, C] in [0, 1].

  Returns:
    MSE of values in [0, 1], rounded to 8-bit levels, of a synthesis; bits of the
    latents of an entropy network.
  """
  if name == 'entropy':
    return latent_bits(arch, net, latents)
  return image_mse(arch, net, latents.grids, target)


def image_mse(arch: Arch, net: Any, grids: Sequence[Any], target: np.ndarray) -> float:
  """Computes the MSE of values in [0, 1], rounded to 8-bit levels, of a synthesis."""
  levels = pixels(arch, net, grids).astype(np.float32)
  return float(np.mean((levels / 255 - np.asarray(target)) ** 2, dtype=np.float64))


def pixels(arch: Arch, net: Any, grids: Sequence[Any]) -> np.ndarray:
  """Computes the image uint8 [H, W, C] of a float synthesis network."""
  return np.asarray(_image(arch, net, tuple(grids)))


def latent_bits(arch: Arch, net: Any, latents: FixedLatents) -> float:
  """Computes the bits of the latents under a float entropy network."""
  return sum(float(_bits(arch, net, block)) for block in latents.blocks)


def gradient(
  name: str, arch: Arch, net: Any, latents: FixedLatents, target: np.ndarray
) -> dict[str, np.ndarray]:
  """Computes the gradient of the loss by the network's arrays, float64.

  For arguments see `measure`.
  """
  if name == 'synthesis':
    found = [_synthesis_gradient(arch, net, latents.grids, target)]
  else:
    found = [_bits_gradient(arch, net, block) for block in latents.blocks]
  wide = [jax.tree.map(lambda x: np.asarray(x, np.float64), g) for g in found]
  return functools.reduce(lambda a, b: jax.tree.map(np.add, a, b), wide)


def image_loss(arch: Arch, net: Any, grids: Any, target: Any) -> jax.Array:
  """Computes the MSE of a synthesis, not rounded, of values in [0, 1]."""
  image = jnp.clip(model.synthesize(net, arch, grids), 0, 1)
  return jnp.mean((image - target) ** 2)


def block_bits(arch: Arch, net: Any, block: LatentBlock) -> jax.Array:
  """Computes the bits of a block's latents."""
  distribution = model.predict_from(net, arch, block.contexts)
  bits = model.laplace_bits(block.values, *distribution)
  return jnp.where(block.is_latent, bits, 0).sum()


@programs.jit_by_shape(static=('arch',))
def _image(arch, net, grids):
  image = jnp.clip(model.synthesize(net, arch, grids), 0, 1)
  return jnp.round(image * 255).astype(jnp.uint8)


@programs.jit_by_shape(static=('arch',))
def _synthesis_gradient(arch, net, grids, target):
  return jax.grad(lambda net: image_loss(arch, net, grids, target))(net)


_bits = jax.jit(block_bits, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def _bits_gradient(arch, net, block):
  return jax.grad(lambda net: block_bits(arch, net, block))(net)
