"""Soft assignments of latents to codewords, and the map whose fixed point they are.

P(k | z) ~ exp(w_k - beta |z - e_k|^2) for one group of latents, with log-weights w; see
`blahut_arimoto` for the meaning of w. The quantizer needs only sums over the rows of
the [N, K] matrix P, so that they can be formed a chunk of latents at a time.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from codax.quantize.ops import kmeans

LOG_FLOOR = -30.0  # log-weights stay above this: a dead code can come back


class Sums(NamedTuple):
  """Sums over the latents z_n of a batch, for one group.

  Attributes:
    soft_counts: [K], sum of P(k | z_n).
    soft_sums: [K, d], sum of P(k | z_n) (z_n - o), o the codewords' mean.
    hard_counts: [K], number of latents with each code.
    log_z: scalar, sum of log sum_k exp(w_k - beta d(z_n, e_k)).
  """

  soft_counts: jax.Array
  soft_sums: jax.Array
  hard_counts: jax.Array
  log_z: jax.Array


def posterior(
  z: jax.Array, codebook: jax.Array, log_weights: jax.Array, beta: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Computes the soft assignments of one group.

  Args:
    z: float [N, d].
    codebook: float [K, d].
    log_weights: w [K], or [N, K] where side information makes them differ.
    beta: scalar, in inverse squared units of z.

  Returns:
    log sum_k exp(w_k - beta d[n, k]) [N]; P [N, K]; scores [N, K], whose order over k
    is that of P.
  """
  z, codebook, _ = kmeans.center(z, codebook)
  if log_weights.ndim == 1:
    log_weights = log_weights[None]
  bias = log_weights - beta * jnp.sum(codebook**2, -1)[None]
  scores = bias + 2 * beta * kmeans.products(z, codebook)
  log_sum = jax.nn.logsumexp(scores, axis=-1)
  log_z = log_sum - beta * jnp.sum(z**2, -1)
  return log_z, jnp.exp(scores - log_sum[:, None]), scores


def next_log_weights(
  balance: float, marginal: jax.Array, factor: jax.Array
) -> jax.Array:
  """Maps m and f = m / exp(w), both [..., K], to w: a step of the fixed-point map.

  The result is normalized, sum exp(w) = 1, and bounded below by `LOG_FLOOR`.
  """
  b, k = balance, marginal.shape[-1]
  log_m = jnp.log(jnp.maximum(marginal, 1e-12))
  log_f = jnp.log(jnp.maximum(factor, 1e-12))
  w = (1 - b) * log_m - b * log_f - b * jnp.log(k)
  return jnp.maximum(w - jax.nn.logsumexp(w, axis=-1, keepdims=True), LOG_FLOOR)


def _in_chunks(
  run: Callable[..., Any], z: jax.Array, rng: jax.Array, chunk: int
) -> Any:
  """Applies `run(z, key)`, a pair (per latent, sums), to chunks of latents z [N, d].

  The last chunk may be smaller; ``chunk=0`` is all at once.
  """
  n = z.shape[0]
  if not chunk or n <= chunk:
    return run(z, rng)
  keys = jax.random.split(rng, n // chunk + 1)
  whole = n - n % chunk
  parts = z[:whole].reshape(-1, chunk, z.shape[-1])
  empty = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(run, parts[0], rng)[1]
  )

  def step(sums, part):
    each, more = run(*part)
    return jax.tree.map(jnp.add, sums, more), each

  sums, each = jax.lax.scan(step, empty, (parts, keys[:-1]))
  each = each.reshape(whole)
  if whole < n:
    last, more = run(z[whole:], keys[-1])
    each = jnp.concatenate([each, last])
    sums = jax.tree.map(jnp.add, sums, more)
  return each, sums


def assign(
  z: jax.Array,
  codebook: jax.Array,
  log_weights: jax.Array,
  beta: jax.Array,
  rng: jax.Array,
  draw: jax.Array | None = None,
  chunk: int = 0,
) -> tuple[jax.Array, Sums]:
  """Assigns codes to the latents of one group, with their `Sums`.

  Args:
    z: float [N, d].
    codebook: float [K, d].
    log_weights: w [K]; or [N, K], with ``chunk=0``.
    beta: scalar, in inverse squared units of z.
    rng: key, used if codes are drawn.
    draw: whether codes are drawn from P, bool scalar; None: never.
    chunk: number of latents handled at once, 0 for all; only draws depend on it.

  Returns:
    Codes int32 [N], the mode of P or a draw from it, and `Sums`.
  """
  _, _, origin = kmeans.center(z, codebook)

  def run(z, key):
    log_z, post, scores = posterior(z, codebook, log_weights, beta)
    codes = jnp.argmax(scores, axis=-1).astype(jnp.int32)
    if draw is not None:
      drawn = jax.random.categorical(key, scores).astype(jnp.int32)
      codes = jnp.where(draw, drawn, codes)
    hard = jnp.zeros(codebook.shape[0], z.dtype).at[codes].add(1.0)
    weighted = kmeans.products(post.T, (z - origin).T)
    return codes, Sums(post.sum(0), weighted, hard, log_z.sum())

  return _in_chunks(run, z, rng, chunk)


def iterate(
  z: jax.Array,
  codebook: jax.Array,
  log_weights: jax.Array,
  beta: jax.Array,
  balance: float,
  steps: int,
  chunk: int = 0,
) -> jax.Array:
  """Runs `steps` of the fixed-point map on one group's latents; returns w [K]."""

  def marginal(w, z, key):
    del key
    log_z, post, _ = posterior(z, codebook, w, beta)
    return log_z, post.sum(0)

  def step(w, _):
    m = _in_chunks(functools.partial(marginal, w), z, jax.random.key(0), chunk)[1]
    m = m / z.shape[0]
    return next_log_weights(balance, m, m * jnp.exp(-w)), None

  return jax.lax.scan(step, log_weights, None, length=steps)[0]
