"""Diagnostics of a training that tell a sound one from one that only looks so.

A clamp above every element's divergence leaves the KL without a gradient: units that
carry nothing show it (Burda, Grosse and Salakhutdinov, *Importance weighted
autoencoders*, 2016, section 5.2). A clip norm below every gradient makes each step one
of fixed length, whatever the optimizer: the share of clipped steps shows it. Unstable
trainings show in the spread of the gradient's norm and in its spikes.

`GradientNorms` sums up every step in a few hundred numbers of the training state, so
that a resumed run has the same figures as an unbroken one.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

MIN_VARIANCE = 0.01  # of an active unit's posterior mean over the data
MIN_KL = 0.01  # nats of an active unit
SPIKE = 10.0  # times the median
# Bins of a norm's decimal logarithm, `_PER_DECADE` from 1e-8 to 1e8.
_LOWEST, _DECADES, _PER_DECADE = -8, 16, 20


def count_active(mean: np.ndarray, threshold: float = MIN_VARIANCE) -> int:
  """Counts the units whose posterior mean varies with the data.

  Args:
    mean: float [..., C], posterior means of as many positions and images as there are.
    threshold: variance above which a unit is active.
  """
  flat = np.asarray(mean, np.float64).reshape(-1, np.shape(mean)[-1])
  return int((flat.var(axis=0) > threshold).sum())


def count_active_by_kl(kl: np.ndarray, threshold: float = MIN_KL) -> int:
  """Counts the units whose divergence [C], in nats, is above a threshold."""
  return int((np.asarray(kl) > threshold).sum())


class Stability(NamedTuple):
  """Spread of the gradient's norm over the steps of a training.

  Attributes:
    variation: coefficient of variation, standard deviation through mean.
    median: median of the norm.
    spikes: number of steps with a norm over `SPIKE` times the median.
    clipped_share: share of steps whose gradient was clipped, 0 to 1.
  """

  variation: Any
  median: Any
  spikes: Any
  clipped_share: Any


def describe_norms(norms: np.ndarray, clip_norm: float = 0.0) -> Stability:
  """Describes the norms of all steps, at least one.

  Args:
    norms: [n], norms before clipping.
    clip_norm: greatest norm that is not clipped; 0 is no clipping.
  """
  norms = np.asarray(norms, np.float64)
  mean, median = norms.mean(), float(np.median(norms))
  return Stability(
    variation=float(norms.std() / mean) if mean > 0 else 0.0,
    median=median,
    spikes=int((norms > SPIKE * median).sum()),
    clipped_share=float((norms > clip_norm).mean()) if clip_norm > 0 else 0.0,
  )


class GradientNorms(NamedTuple):
  """Sums over the steps so far, a part of the training state.

  Attributes:
    count: number of steps, int32.
    mean: mean of the norm, float32.
    squares: sum of the squared deviations from the mean, float32.
    clipped: number of clipped steps, int32.
    histogram: int32 [320], number of steps by the norm's decimal logarithm.
  """

  count: jax.Array
  mean: jax.Array
  squares: jax.Array
  clipped: jax.Array
  histogram: jax.Array


def init_norms() -> GradientNorms:
  """Returns the sums over no step."""
  zero, none = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)
  histogram = jnp.zeros((_DECADES * _PER_DECADE,), jnp.int32)
  return GradientNorms(none, zero, zero, none, histogram)


def update_norms(
  norms: GradientNorms, norm: jax.Array, clip_norm: float = 0.0
) -> GradientNorms:
  """Adds the norm of one step (Welford's update of mean and squares).

  Args:
    norms: sums so far.
    norm: float scalar, before clipping.
    clip_norm: greatest norm that is not clipped; 0 is no clipping.
  """
  norm = norm.astype(jnp.float32)
  count = norms.count + 1
  away = norm - norms.mean
  mean = norms.mean + away / count
  place = (jnp.log10(jnp.maximum(norm, 1e-30)) - _LOWEST) * _PER_DECADE
  place = jnp.clip(jnp.floor(place), 0, norms.histogram.size - 1).astype(jnp.int32)
  is_clipped = norm > clip_norm if clip_norm > 0 else jnp.zeros((), bool)
  return GradientNorms(
    count=count,
    mean=mean,
    squares=norms.squares + away * (norm - mean),
    clipped=norms.clipped + is_clipped,
    histogram=norms.histogram.at[place].add(1),
  )


def stability(norms: GradientNorms) -> Stability:
  """Describes the norms of all steps so far.

  The median is the center of its bin, within 6 %, and spikes are counted from the bin
  ten times above it on. All are 0 before the first step.

  Returns:
    float32 scalars.
  """
  count = jnp.maximum(norms.count, 1)
  deviation = jnp.sqrt(jnp.maximum(norms.squares / count, 0.0))
  below = jnp.cumsum(norms.histogram)
  place = jnp.argmax(2 * below >= count)
  above = round(np.log10(SPIKE) * _PER_DECADE)
  is_spike = jnp.arange(norms.histogram.size) > place + above
  median = 10.0 ** ((place + 0.5) / _PER_DECADE + _LOWEST)
  values = Stability(
    variation=deviation / jnp.maximum(norms.mean, 1e-30),
    median=jnp.where(norms.count > 0, median, 0.0),
    spikes=jnp.sum(jnp.where(is_spike, norms.histogram, 0)),
    clipped_share=norms.clipped / count,
  )
  return Stability(*(jnp.asarray(x, jnp.float32) for x in values))
