"""How far a trained codebook is from the rate–distortion bound of its own latents.

The quantiser sends hard codes at some rate R (the entropy of its codes) and distortion
D. Blahut's algorithm on the same latents and codewords gives the best that any (soft)
assignment to these codewords could do at a given slope: the tangent of R(D) with that
slope lies below every quantiser, and how far below is what hard decisions cost, in bits
a code. The slope is that of the high-resolution curve at the quantiser's own D: d / 2D
nats for vectors of d values (Zador 1982; Gray & Neuhoff 1998, section IV).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codax.quantize import base
from codax.quantize.ops import rate_distortion

MAX_LATENTS = 8192
_bracket = jax.jit(rate_distortion.bracket, static_argnames='iterations')


def distance_to_bound(
  z: Any, codes: Any, codebook: Any, iterations: int = 60
) -> dict[str, float]:
  """Rate, distortion and distance to the bound, means over the groups.

  Args:
    z: float [N, D], latents; the first `MAX_LATENTS` are used.
    codes: int [N, G], what the quantiser chose for them.
    codebook: float [G, K, d].
    iterations: of Blahut's algorithm.

  Returns:
    hard_bits: entropy of the codes, in bits a code.
    hard_distortion: mean squared error of a group's vector.
    bound_bits: R of the best soft assignment at the slope.
    bound_lower_bits: lower bound on it, which says how well the algorithm converged.
    bound_distortion: its D.
    bound_violation: max over codewords of the optimality condition, minus 1.
    gap_bits: how far above the tangent of R(D) the quantiser is, in bits a code.
  """
  z, codes = jnp.asarray(z)[:MAX_LATENTS], np.asarray(codes)[:MAX_LATENTS]
  groups = base.split_groups(z, codebook.shape[0])
  found = []
  for g, (x, book) in enumerate(zip(groups, jnp.asarray(codebook))):
    counts = np.bincount(codes[:, g], minlength=book.shape[0])
    p = counts[counts > 0] / counts.sum()
    bits = float(-(p * np.log2(p)).sum())
    error = float(jnp.mean(jnp.sum((x - book[codes[:, g]]) ** 2, -1)))
    beta = x.shape[1] / (2 * max(error, 1e-12))
    point = jax.device_get(_bracket(x, book, beta, iterations=iterations))
    # R + beta D on the tangent, from below
    tangent = float(point.lower) + beta * float(point.distortion) / np.log(2)
    found.append(
      {
        'hard_bits': bits,
        'hard_distortion': error,
        'bound_bits': float(point.rate),
        'bound_lower_bits': float(point.lower),
        'bound_distortion': float(point.distortion),
        'bound_violation': float(point.violation),
        'gap_bits': bits + beta * error / np.log(2) - tangent,
      }
    )
  return {name: float(np.mean([f[name] for f in found])) for name in found[0]}
