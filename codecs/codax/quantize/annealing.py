"""Where beta comes from: its critical value, its schedule, its servo.

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
_MAX_LOG_SERVO = 12.0  # a rate out of reach cannot drive beta to infinity


class Spread(NamedTuple):
  """How the latents lie, for each group.

  Attributes:
    moments: average of (mean [G, d], second moment about the mean [G, d, d]).
    principal: [G, d], running estimate of the covariance's first eigenvector.
  """

  moments: averages.Average
  principal: jax.Array


def _second_moment(z: jax.Array) -> jax.Array:
  return jnp.einsum('gni,gnj->gij', z, z) / z.shape[1]


def start(z: jax.Array, decay: float) -> Spread:
  """The spread of a first batch of latents [G, N, d]."""
  mean = z.mean(1)
  cov = _second_moment(z - mean[:, None])
  moments = averages.from_value((mean, cov), decay)
  return Spread(moments, jnp.linalg.eigh(cov)[1][:, :, -1])


def follow(spread: Spread, z: jax.Array, decay: float) -> Spread:
  """Folds a batch of latents [G, N, d] into the averages.

  Second moments are taken about the mean so far rather than about 0: the difference
  E zz^T - E z E z^T would lose every digit of latents that lie far from the origin.
  """
  mean, _ = averages.value(spread.moments)
  batch = z.mean(1), _second_moment(z - mean[:, None])
  spread = spread._replace(moments=averages.update(spread.moments, batch, decay))
  return spread._replace(principal=_power(spread))


def _power(spread: Spread) -> jax.Array:
  """Two power iterations; where there is no spread the estimate stays."""
  _, cov = averages.value(spread.moments)
  v = spread.principal
  for _ in range(2):
    w = jnp.einsum('gij,gj->gi', cov, v)
    norm = jnp.linalg.norm(w, axis=-1, keepdims=True)
    v = jnp.where(norm > 1e-30, w / jnp.maximum(norm, 1e-30), v)
  return v


def variances(spread: Spread) -> jax.Array:
  """Variance of each latent coordinate, [G, d]."""
  _, cov = averages.value(spread.moments)
  return jnp.diagonal(cov, axis1=1, axis2=2)


def critical_beta(spread: Spread) -> jax.Array:
  """beta_c of each group, [G]."""
  _, cov = averages.value(spread.moments)
  v = _power(spread)
  return 0.5 / jnp.maximum(jnp.einsum('gi,gij,gj->g', v, cov, v), 1e-12)


def schedule(cfg: Any, step: jax.Array) -> jax.Array:
  """beta / beta_c at `step`, before the servo.

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


def servo(cfg: Any, log_servo: jax.Array, bits: jax.Array, step: jax.Array):
  """The next log multiplier on beta, given the rate of this step in bits a code.

  Args:
    cfg: has target_bits (0: no servo), servo_gain and beta_steps.
    log_servo: the multiplier's log so far, 0 at the start.
    bits: measured rate.
    step: float scalar; nothing moves before `beta_steps`.
  """
  if cfg.target_bits <= 0:
    return log_servo
  moved = log_servo + cfg.servo_gain * (cfg.target_bits - bits)
  moved = jnp.clip(moved, -_MAX_LOG_SERVO, _MAX_LOG_SERVO)
  return jnp.where(step >= cfg.beta_steps, moved, log_servo)
