"""Divergence from the standard normal law, with free bits, warm-up and active units.

A posterior is a normal law of independent channels. Its divergence is kept for each
channel (a *dimension* of the latent), so that a clamp or a collapse shows where it
happens. Free bits are those of Kingma et al., *Improved Variational Inference with
Inverse Autoregressive Flow* (2016), appendix C.8: the mean over the batch of a
dimension's divergence is clamped, not that of an element. A clamp of the elements at
a bound above all of them has no gradient, and no warm-up can change that.
"""

import jax
import jax.numpy as jnp

from codax.vae import diagnostics


def divergence(mean: jax.Array, log_var: jax.Array) -> jax.Array:
  """Computes KL(N(mean, exp(log_var)) || N(0, 1)) of each element, in nats.

  Args:
    mean: float [...].
    log_var: float [...], logarithm of the variance.
  """
  return 0.5 * (mean**2 + jnp.expm1(log_var) - log_var)


def per_dimension(mean: jax.Array, log_var: jax.Array) -> jax.Array:
  """Averages the divergence of each channel over batch and positions.

  Args:
    mean: float [..., C].
    log_var: float [..., C].

  Returns:
    float [C], nats for one position.
  """
  axes = tuple(range(mean.ndim - 1))
  return divergence(mean, log_var).mean(axes)


def penalty(kl: jax.Array, free_bits: float) -> jax.Array:
  """Sums the divergence of the dimensions above their free bits.

  Args:
    kl: float [C], result of `per_dimension`.
    free_bits: nats of a dimension that are free; 0 is none. A dimension below has
      gradient 0, one above has its whole gradient.

  Returns:
    float scalar, nats for one position; a dimension below counts `free_bits`.
  """
  return jnp.maximum(kl, free_bits).sum() if free_bits else kl.sum()


def weight(step: jax.Array, target: float, warmup_steps: int) -> jax.Array:
  """Returns the weight of the penalty in a step: a linear rise, then `target`.

  Args:
    step: index of the step, from 0.
    target: weight after the warm-up.
    warmup_steps: length of the rise; 0 is no warm-up.
  """
  if not warmup_steps:
    return jnp.full((), target, jnp.float32)
  return target * jnp.minimum((step + 1) / warmup_steps, 1.0).astype(jnp.float32)


def moments(mean: jax.Array) -> jax.Array:
  """Sums what `active_units` needs, to be added up over batches.

  Args:
    mean: float [..., C], means of the posterior.

  Returns:
    float32 [3, C]: numbers of values, sums and sums of squares.
  """
  flat = mean.reshape(-1, mean.shape[-1]).astype(jnp.float32)
  return jnp.stack([jnp.ones_like(flat).sum(0), flat.sum(0), (flat**2).sum(0)])


def active_units(sums) -> int:
  """Counts the channels whose posterior mean varies with the image.

  The criterion is that of Burda, Grosse and Salakhutdinov, *Importance Weighted
  Autoencoders* (2016), section 5.2: the variance of the mean is above 0.01.

  Args:
    sums: [3, C], sum of results of `moments`.
  """
  count, first, second = sums
  variance = second / count - (first / count) ** 2
  return int((variance > diagnostics.MIN_VARIANCE).sum())
