"""The rate–distortion function of a finite source, by Blahut's algorithm, with bounds.

Blahut 1972 (theorem 6) and Arimoto 1972. For a source p over n symbols, a distortion
matrix d over k reproductions and a slope s = -beta, iterate

  P[n, k] = Q[k] exp(-beta d[n, k]) / Z[n],   Q[k] <- sum_n p[n] P[n, k].

Any Q gives a point (D, R) above the curve. With c[k] = sum_n p[n] exp(-beta d[n,k]) /
Z[n], optimality is c[k] <= 1 with equality where Q[k] > 0, and log max_k c[k] bounds
the gap: R(D) >= R - log2(max c) at that D, up to the slack of the sum. Used to test the
quantizer's theory and to measure the distance of learnt codebooks from the bound.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from codax.quantize.ops import kmeans


class Point(NamedTuple):
  """Point of the rate–distortion curve.

  Attributes:
    rate: mutual information of the assignment, in bits: an upper bound on R(D).
    lower: a lower bound on R(D) at the same distortion, in bits.
    distortion: expected distortion E d.
    marginal: probabilities Q of the reproductions, [k].
    objective: R + beta D in nats before each step, [iterations]; never rises.
    violation: largest c[k] - 1, zero at the optimum.
  """

  rate: jax.Array
  lower: jax.Array
  distortion: jax.Array
  marginal: jax.Array
  objective: jax.Array
  violation: jax.Array


def solve(
  source: jax.Array,
  distortion: jax.Array,
  beta: float | jax.Array,
  iterations: int = 1000,
) -> Point:
  """Runs Blahut's algorithm.

  Args:
    source: float [n], probabilities of the source symbols.
    distortion: float [n, k].
    beta: minus the slope of R(D) in nats per unit of distortion.
    iterations: number of steps.

  Returns:
    The `Point` reached.
  """
  scores = -beta * distortion
  # not below the smallest normal number: subnormals are flushed to 0, and log 0 * 0
  # is not a number
  tiny = jnp.finfo(distortion.dtype).tiny

  def log_partition(log_q):
    return jax.nn.logsumexp(log_q[None, :] + scores, axis=-1)

  def ratio(log_q, log_z):
    """Returns log c[k]."""
    terms = jnp.log(jnp.maximum(source, tiny)) - log_z
    return jax.nn.logsumexp(terms[:, None] + scores, axis=0)

  def step(log_q, _):
    log_z = log_partition(log_q)
    objective = -jnp.sum(source * log_z)
    return log_q + ratio(log_q, log_z), objective

  k = distortion.shape[1]
  start = jnp.full(k, -jnp.log(k), distortion.dtype)
  log_q, objective = jax.lax.scan(step, start, None, length=iterations)
  log_z = log_partition(log_q)
  log_c = ratio(log_q, log_z)
  post = jnp.exp(log_q[None, :] + scores - log_z[:, None])
  mean_d = jnp.sum(source[:, None] * post * distortion)
  marginal = source @ post
  log_ratio = jnp.log(jnp.maximum(post, tiny))
  log_ratio -= jnp.log(jnp.maximum(marginal, tiny))[None, :]
  information = jnp.sum(source[:, None] * post * log_ratio)
  # Blahut's bounds: -sum p log Z - beta D - log max c <= R(D) <= I
  lower = -jnp.sum(source * log_z) - beta * mean_d - jnp.max(log_c)
  nats = jnp.log(2.0)
  return Point(
    rate=information / nats,
    lower=jnp.maximum(lower, 0.0) / nats,
    distortion=mean_d,
    marginal=marginal,
    objective=objective,
    violation=jnp.exp(jnp.max(log_c)) - 1,
  )


def bracket(
  z: jax.Array, codebook: jax.Array, beta: float | jax.Array, iterations: int = 200
) -> Point:
  """Returns the curve's point for latents [N, d] and codewords [K, d].

  Squared error in the latents' own units. The quantizer's measured rate and distortion
  at the same codebook differ from it by the cost of hard decisions.
  """
  source = jnp.full(z.shape[0], 1.0 / z.shape[0], z.dtype)
  return solve(source, kmeans.squared_distances(z, codebook), beta, iterations)
