"""Training without the quantizer at first: continuous first, discrete later.

arXiv 2605.06870. A codebook that is learnt from the first step on spans a few
dimensions, whatever K is, and the latents follow it. So the networks learn alone as an
autoencoder for the first share of the steps; then the codebook is initialized from
latents of the batch at hand and all learn together.

The share is fixed (``quantize_when='share'``) or a bound (``'spectrum'``): reverse
water-filling of the latents' spectrum at the bits of a position says how many
directions the codes can reach, and training switches when that number has not grown
for a while.
"""

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp

from codax import averages
from codax.quantize.base import Quantized
from codax.quantize.ops import water_filling

RULES = ('share', 'spectrum')
_CHECKS = 100  # over the whole run
_PATIENCE = 4  # checks in a row without growth
_DECAY = 0.98


@flax.struct.dataclass
class WarmUp:
  """State of the warm-up.

  Attributes:
    start: step from which on latents are quantized, int32.
    moments: average of mean [D] and second moments [D, D] of the latents; None where
      the share is fixed.
    most: largest number of directions within reach so far, int32.
    since: number of checks since it has grown, int32.
  """

  start: jax.Array
  moments: averages.Average | None
  most: jax.Array
  since: jax.Array


def init(share: float, rule: str, total_steps: int, dim: int) -> WarmUp | None:
  """Returns the state at the beginning; None for a share of 0."""
  start = first_step(share, total_steps)
  if not start:
    return None
  moments = None
  if rule == 'spectrum':
    moments = averages.init((jnp.zeros(dim), jnp.zeros((dim, dim))))
  zero = jnp.zeros((), jnp.int32)
  return WarmUp(jnp.int32(start), moments, zero, zero)


def first_step(share: float, total_steps: int) -> int:
  """Returns the (latest) step from which on latents are quantized."""
  return round(share * total_steps)


def quantize_from(
  start: jax.Array, step: jax.Array, quantize: Callable[..., Quantized], z: Any
) -> Quantized:
  """Quantizes from step `start` on; before, latents pass as they are, without losses.

  Args:
    start: int32 ().
    step: int32 ().
    quantize: function of z alone.
    z: latents [..., D].
  """
  shapes = jax.eval_shape(quantize, z)

  def skip(z):
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return zeros._replace(values=z)

  return jax.lax.cond(step >= start, quantize, skip, z)


def update(
  warm_up: WarmUp, z: jax.Array, step: jax.Array, bits: float, total_steps: int
) -> WarmUp:
  """Follows the spectrum of the latents, and switches where it is time.

  Args:
    warm_up: state.
    z: latents [..., D] of the step.
    step: int32 (), number of steps before it.
    bits: largest number of bits that the codes of a position carry.
    total_steps: length of training.
  """
  if warm_up.moments is None:
    return warm_up
  flat = jax.lax.stop_gradient(z).reshape(-1, z.shape[-1])
  second = jnp.matmul(flat.T, flat, precision='highest') / flat.shape[0]
  moments = averages.update(warm_up.moments, (flat.mean(0), second), _DECAY)

  def check(now):
    mean, second = averages.value(moments)
    values = jnp.linalg.eigvalsh(second - jnp.outer(mean, mean))
    reached = water_filling.fill(jnp.maximum(values, 0.0), bits).active
    since = jnp.where(reached > now.most, 0, now.since + 1)
    start = jnp.where(since >= _PATIENCE, step + 1, now.start)
    most = jnp.maximum(now.most, reached)
    return now.replace(start=start.astype(jnp.int32), most=most, since=since)

  every = max(total_steps // _CHECKS, 1)
  is_due = (step + 1 < warm_up.start) & ((step + 1) % every == 0)
  is_early = step < warm_up.start
  held = jax.tree.map(lambda a, b: jnp.where(is_early, a, b), moments, warm_up.moments)
  return jax.lax.cond(is_due, check, lambda x: x, warm_up).replace(moments=held)


def metrics(warm_up: WarmUp, step: jax.Array) -> dict[str, jax.Array]:
  """Returns whether latents are quantized and how many directions codes can reach."""
  found = {'is_quantized': (step >= warm_up.start).astype(jnp.float32)}
  if warm_up.moments is not None:
    found['reachable_dim'] = warm_up.most.astype(jnp.float32)
  return found
