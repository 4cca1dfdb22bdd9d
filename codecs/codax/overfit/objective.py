"""The loss of a problem: MSE of [0, 1] + lambda * bits of latents per pixel."""

from typing import Any

import jax
import jax.numpy as jnp

from codax.overfit import model
from codax.overfit.format import arch as archs
from codax.overfit.format.arch import Arch


def compute(
  networks: Any, arch: Arch, latents: jax.Array, target: jax.Array, lmbda: Any
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Computes the loss of one problem, and its parts.

  Args:
    networks: dict with 'synthesis' and 'entropy'.
    arch: architecture.
    latents: [N] in quantization steps.
    target: float [H, W, C] in [0, 1].
    lmbda: scalar.
  """
  grids = model.split(latents, archs.grid_shapes(arch, *target.shape[:2]))
  image = model.synthesize(networks['synthesis'], arch, grids)
  distribution = model.predict(networks['entropy'], arch, grids)
  bits = model.laplace_bits(latents, *distribution).sum()
  return _loss_terms(jnp.mean((image - target) ** 2), bits, lmbda, target.shape)


def compute_many(
  networks: Any, arch: Arch, latents: jax.Array, targets: jax.Array, lmbdas: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Does as `compute` for arrays that lead with P: losses [P] and their parts."""
  shape = targets.shape[1:]
  shapes = archs.grid_shapes(arch, *shape[:2])
  grids = jax.vmap(lambda flat: model.split(flat, shapes))(latents)
  images = model.synthesize_many(networks['synthesis'], arch, grids)
  mse = jnp.mean((images - targets) ** 2, axis=(1, 2, 3))
  distribution = model.predict_many(networks['entropy'], arch, grids)
  bits = model.laplace_bits(latents, *distribution).sum(1)
  return _loss_terms(mse, bits, lmbdas, shape)


def _loss_terms(mse, bits, lmbda, shape):
  bpp = bits / (shape[0] * shape[1])
  loss = mse + lmbda * bpp
  return loss, {'loss': loss, 'mse': mse, 'bpp': bpp}


def compute_fastest(arch: Arch, networks: Any, latents: Any, targets: Any, lmbdas: Any):
  """Computes `compute_many` by the routines that are fastest for one problem."""
  is_fused = any(model.is_fused(arch, module) for module in archs.MODULES)
  if len(targets) > 1 or is_fused:
    return compute_many(networks, arch, latents, targets, lmbdas)
  # XLA has faster routines without the axis
  networks, *rest = jax.tree.map(lambda x: x[0], (networks, latents, targets, lmbdas))
  single = compute(networks, arch, *rest)
  return jax.tree.map(lambda x: x[None], single)
