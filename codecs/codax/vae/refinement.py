"""Encoder-side refinement: moves an image's coefficients to where they decode best.

The analysis is one pass trained over many images. For the image at hand its
coefficients and hyper-latents go on descending the training loss at the rate of the
file, with the decoder fixed (Campos et al. 2019, "Content adaptive optimization for
neural image compression"). It takes encoding time only: the decoder knows nothing of
it.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from codax import programs
from codax.vae import levels, rate_model

# First step in quantization steps, divided by the root of the number of steps.
_LR = 1.0

_optimizer = optax.adam(1.0, b1=0.9, b2=0.99)


@programs.jit_by_shape(static=('config',), donate=('shift', 'opt_state'))
def _step(config, params, shift, opt_state, origin, target, position, lmbda, lr, rng):
  """Makes a step: (shift, optimizer state, loss)."""

  def loss(shift):
    y, z = _move(config, params, origin, shift, position)
    coded = rate_model.code_coefficients(params, config, y, z, position, rng)
    error = jnp.sum((coded.image - target) ** 2) / 3
    return jnp.sum(coded.bits + coded.hyper_bits) + lmbda * error

  value, grads = jax.value_and_grad(loss)(shift)
  updates, opt_state = _optimizer.update(grads, opt_state)
  shift = jax.tree.map(lambda x, u: x + lr * u, shift, updates)
  return shift, opt_state, value


def _move(config, params, origin, shift, position):
  """Adds shifts, in quantization steps, to coefficients and hyper-latents."""
  mix = levels.mixing(position, config.levels, jnp)
  unit = lambda table: jnp.exp(-(mix @ table))[:, None, None]
  prior = params['prior']
  y = origin[0] + shift[0] * unit(prior['gain'])
  if not config.hyper_dim:
    return y, None
  return y, origin[1] + shift[1] * unit(prior['latents']['gain'])


def refine(
  config: Any,
  params: Any,
  y: jax.Array,
  z: jax.Array | None,
  target: jax.Array,
  position: float,
  lmbda: float,
  steps: int,
  should_stop: Callable[[], str | None] = lambda: None,
) -> tuple[Any, Any]:
  """Returns improved coefficients and hyper-latents of one image.

  Args:
    config: architecture.
    params: {'transform', 'prior'}.
    y: float32 [1, h, w, C], coefficients; h and w even.
    z: float32 [1, h / 2, w / 2, D], hyper-latents, or None without.
    target: float32 [1, h * patch, w * patch, 3], 0 to 255.
    position: rate level, 0 to L - 1.
    lmbda: bits a pixel that an MSE of 1 is worth.
    steps: number of optimizer steps.
    should_stop: asked before every step for a reason to make no more, or None.
  """
  origin = (jnp.asarray(y), z if z is None else jnp.asarray(z))
  shift = jax.tree.map(jnp.zeros_like, origin)
  opt_state = _optimizer.init(shift)
  at = jnp.array([position], jnp.float32)
  key = jax.random.key(0)
  # A loop of dispatches: XLA's CPU convolutions are slow inside its own loops.
  # Each is waited for, as signals reach no one while many are on their way.
  for i in range(steps):
    if should_stop():
      break
    lr = _LR / math.sqrt(steps) * (1 + math.cos(math.pi * i / steps)) / 2
    shift, opt_state, value = _step(
      config, params, shift, opt_state, origin, target, at, lmbda, lr,
      jax.random.fold_in(key, i),
    )  # fmt: skip
    value.block_until_ready()
  return _move(config, params, origin, shift, at)
