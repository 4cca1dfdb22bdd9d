"""Schedule of beta: its critical value, its annealing, its rate controller.

A single codeword at the mean of the latents stays put while beta is below

  beta_c = 1 / (2 lambda_max(Cov z))

and splits above it (Rose 1998, section III), so beta is counted in units of beta_c. The
covariance is followed as training moves it: no constant tuned to a latent scale
survives, and latents ten times as large give the same codes.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from codax import averages

SCHEDULES = ('cosine', 'exponential', 'constant')
_MAX_LOG_SCALE = 12.0  # a rate out of reach cannot drive beta to infinity


class Covariance(NamedTuple):
  """Running covariance of the latents, for each group.

  Attributes:
    moments: average of (mean [G, d], second moment about the mean [G, d, d]).
    principal: [G, d], running estimate of the covariance's first eigenvector.
  """

  moments: averages.Average
  principal: jax.Array


def _second_moment(z: jax.Array) -> jax.Array:
  return jnp.einsum('gni,gnj->gij', z, z) / z.shape[1]


def init(z: jax.Array, decay: float) -> Covariance:
  """Returns the covariance of a first batch of latents [G, N, d]."""
  mean = z.mean(1)
  cov = _second_moment(z - mean[:, None])
  moments = averages.from_value((mean, cov), decay)
  return Covariance(moments, jnp.linalg.eigh(cov)[1][:, :, -1])


def update(covariance: Covariance, z: jax.Array, decay: float) -> Covariance:
  """Folds a batch of latents [G, N, d] into the averages.

  Second moments are taken about the mean so far rather than about 0: the difference
  E zz^T - E z E z^T would lose every digit of latents that lie far from the origin.
  """
  mean, _ = averages.value(covariance.moments)
  batch = z.mean(1), _second_moment(z - mean[:, None])
  moments = averages.update(covariance.moments, batch, decay)
  covariance = covariance._replace(moments=moments)
  return covariance._replace(principal=_power(covariance))


def _power(covariance: Covariance) -> jax.Array:
  """Runs two power iterations; where latents do not vary the estimate stays."""
  _, cov = averages.value(covariance.moments)
  v = covariance.principal
  for _ in range(2):
    w = jnp.einsum('gij,gj->gi', cov, v)
    norm = jnp.linalg.norm(w, axis=-1, keepdims=True)
    v = jnp.where(norm > 1e-30, w / jnp.maximum(norm, 1e-30), v)
  return v


def variances(covariance: Covariance) -> jax.Array:
  """Returns the variance of each latent coordinate, [G, d]."""
  _, cov = averages.value(covariance.moments)
  return jnp.diagonal(cov, axis1=1, axis2=2)


def critical_beta(covariance: Covariance) -> jax.Array:
  """Returns beta_c of each group, [G]."""
  _, cov = averages.value(covariance.moments)
  v = _power(covariance)
  return 0.5 / jnp.maximum(jnp.einsum('gi,gij,gj->g', v, cov, v), 1e-12)


def schedule(cfg: Any, step: jax.Array) -> jax.Array:
  """Returns beta / beta_c at `step`, without the rate controller.

  Args:
    cfg: has beta_schedule, beta_start, beta_end and beta_steps.
    step: float scalar.
  """
  t = jnp.clip(step / max(cfg.beta_steps, 1), 0.0, 1.0)
  if cfg.beta_schedule == 'constant':
    return jnp.full_like(t, cfg.beta_end)
  if cfg.beta_schedule == 'cosine':
    rise = (1 - jnp.cos(jnp.pi * t)) / 2
    return cfg.beta_start + (cfg.beta_end - cfg.beta_start) * rise
  return cfg.beta_start * (cfg.beta_end / cfg.beta_start) ** t


def rate_controller(
  cfg: Any, log_scale: jax.Array, bits: jax.Array, step: jax.Array
) -> jax.Array:
  """Returns the next log multiplier on beta, given this step's rate in bits a code.

  Args:
    cfg: has target_bits (0 turns it off), rate_controller_gain and beta_steps.
    log_scale: logarithm of the multiplier so far, 0 at first.
    bits: measured rate.
    step: float scalar; nothing moves before `beta_steps`.
  """
  if cfg.target_bits <= 0:
    return log_scale
  moved = log_scale + cfg.rate_controller_gain * (cfg.target_bits - bits)
  moved = jnp.clip(moved, -_MAX_LOG_SCALE, _MAX_LOG_SCALE)
  return jnp.where(step >= cfg.beta_steps, moved, log_scale)
