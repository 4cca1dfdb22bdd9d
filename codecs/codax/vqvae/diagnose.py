"""Distance of a trained codebook from the rate–distortion bound of its own latents.

The quantizer sends hard codes at some rate R (the entropy of its codes) and distortion
D. Blahut's algorithm on the same latents and codewords gives the best that any (soft)
assignment to these codewords could do at a given slope: the tangent of R(D) with that
slope lies below every quantizer, and the distance is the cost of hard decisions, in
bits a code. The slope is that of the high-resolution curve at the quantizer's own D:
d / 2D nats for vectors of d values (Zador 1982; Gray & Neuhoff 1998, section IV).

Beside it: the dimensions that latents and codewords span, and those that K codewords
can reach, see `quantize.ops.water_filling`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codax.quantize import base
from codax.quantize.ops import rate_distortion, water_filling

MAX_LATENTS = 8192
_bracket = jax.jit(rate_distortion.bracket, static_argnames='iterations')


@jax.jit
def _dimensions(z: Any, codebook: Any, use: Any) -> dict[str, Any]:
  """Returns the dimensions of latents [N, d] and codewords [K, d] of shares [K]."""
  variances = water_filling.spectrum(z)
  words = water_filling.spectrum(codebook, use)
  bits = np.log2(codebook.shape[0])
  return {
    'latent_dim': water_filling.effective_dimension(variances),
    'codebook_dim': water_filling.effective_dimension(words),
    'reachable_dim': water_filling.fill(variances, bits).active,
  }


def distance_to_bound(
  z: Any, codes: Any, codebook: Any, iterations: int = 60
) -> dict[str, float]:
  """Measures rate, distortion and distance to the bound, means over the groups.

  Args:
    z: float [N, D], latents; the first `MAX_LATENTS` are used.
    codes: int [N, G], the quantizer's codes of these latents.
    codebook: float [G, K, d].
    iterations: number of iterations of Blahut's algorithm.

  Returns:
    hard_bits: entropy of the codes, in bits a code.
    hard_distortion: mean squared error of a group's vector.
    bound_bits: R of the best soft assignment at the slope.
    bound_lower_bits: lower bound on it; tells whether the algorithm has converged.
    bound_distortion: D of that assignment.
    bound_violation: max over codewords of the optimality condition, minus 1.
    gap_bits: distance of the quantizer above the tangent of R(D), in bits a code.
    latent_dim: effective dimension of a group's latents.
    codebook_dim: effective dimension of the codewords, by their use.
    reachable_dim: number of directions that log2 K bits reach in the latents' spectrum.
  """
  z, codes = jnp.asarray(z)[:MAX_LATENTS], np.asarray(codes)[:MAX_LATENTS]
  groups = base.split_groups(z, codebook.shape[0])
  rows = []
  for g, (x, book) in enumerate(zip(groups, jnp.asarray(codebook))):
    counts = np.bincount(codes[:, g], minlength=book.shape[0])
    p = counts[counts > 0] / counts.sum()
    bits = float(-(p * np.log2(p)).sum())
    error = float(jnp.mean(jnp.sum((x - book[codes[:, g]]) ** 2, -1)))
    beta = x.shape[1] / (2 * max(error, 1e-12))
    dims = jax.device_get(_dimensions(x, book, counts / counts.sum()))
    point = jax.device_get(_bracket(x, book, beta, iterations=iterations))
    # R + beta D on the tangent, from below
    tangent = float(point.lower) + beta * float(point.distortion) / np.log(2)
    rows.append(
      {
        'hard_bits': bits,
        'hard_distortion': error,
        'bound_bits': float(point.rate),
        'bound_lower_bits': float(point.lower),
        'bound_distortion': float(point.distortion),
        'bound_violation': float(point.violation),
        'gap_bits': bits + beta * error / np.log(2) - tangent,
        **{name: float(value) for name, value in dims.items()},
      }
    )
  return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
