"""Encoder-side refinement: the integers of a file, chosen together.

Rounding looks at one coefficient at a time, as if the synthesis were the transposed KLT
and means were given. The synthesis has networks, and means of the second pass follow
from what the first one holds. Stochastic Gumbel annealing takes that in (Yang, Bamler
and Mandt 2020, "Improving inference for neural image compression", section 3.2): every
coefficient is a random mixture of the integers around it, whose probabilities depend on
its distance to both and harden while a temperature falls, and gradient descent lowers
``bits + weight * squared error`` of the mixture as it is decoded. Bits are those of the
file's own tables. Hyper-latents stay as they are, and while it lasts so do scales, even
those that other integers would change. The decoder knows nothing of it.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from codax import programs
from codax.vae import coding, transform
from codax.vae.transform import TransformConfig

STEPS = 150
_RATE = 0.1  # of Adam, in quantization steps; falls along a cosine
_TEMPERATURES = 0.5, 0.05  # the first and the last, falling exponentially
_START = 0.45  # greatest distance at first from the integers that rounding chose
_optimizer = optax.scale_by_adam()


def start(symbols: np.ndarray, rest: np.ndarray) -> np.ndarray:
  """Returns what to begin with, float32 [h, w, C], which rounds to the integers.

  Args:
    symbols: integers that rounding chose, [h, w, C].
    rest: remainders of the coefficients, in quantization steps.
  """
  return symbols + np.clip(rest, -_START, _START).astype(np.float32)


def anneal(
  model: coding.EntropyModel,
  params: Any,
  x: np.ndarray,
  sided: coding.Sided,
  image: np.ndarray,
  mix: np.ndarray,
  weight: float,
  first: np.ndarray,
  should_continue: Callable[[], bool],
) -> np.ndarray:
  """Chooses the integers of an image or of a tile of it.

  Args:
    model: entropy model.
    params: parameters of `transform.init`.
    x: float32 [h, w, C], differences from their means in quantization steps, near the
      integers to begin with.
    sided: scales, features and gains.
    image: float32 [1, h * patch, w * patch, 3], original, 0 to 255.
    mix: float32 [1, L], see `levels.mixing`.
    weight: bits that a squared error of one pixel value is worth.
    first: bool [h, w, 1], positions of the first pass.
    should_continue: function that is asked before every step.

  Returns:
    int64 [h, w, C].
  """
  origin, reach = (
    np.asarray(table[sided.index], np.int32)
    for table in (model.tables.laws.origin, model.tables.laws.reach)
  )
  tables = model.tables.laws.costs, origin, reach
  fixed = jax.tree.map(
    jnp.asarray,
    (params, model.params, model.deviation, tables, sided, image, mix, first),
  )
  x = jnp.array(x)  # a copy: it is donated
  opt_state = _optimizer.init(x)
  key = jax.random.key(0)
  for i in range(STEPS):
    if not should_continue():
      break
    share = i / STEPS
    rate = _RATE * (1 + math.cos(math.pi * share)) / 2
    hot, cold = _TEMPERATURES
    at = (rate, hot * (cold / hot) ** share, weight)
    x, opt_state = _step(
      model.config, x, opt_state, jax.random.fold_in(key, i), at, fixed
    )
    # waited for, as signals reach no one while many steps are on their way
    x.block_until_ready()
  return np.rint(np.asarray(x)).astype(np.int64)


@programs.jit_by_shape(static=('config',), donate=('x', 'opt_state'))
def _step(
  config: TransformConfig, x: Any, opt_state: Any, key: Any, at: Any, fixed: Any
):
  """Makes one step of Adam."""
  rate, temperature, weight = at
  gradient = jax.grad(_cost, argnums=1)(config, x, key, temperature, weight, fixed)
  updates, opt_state = _optimizer.update(gradient, opt_state)
  return x - rate * updates, opt_state


def _cost(config, x, key, temperature, weight, fixed):
  """Returns the cost in bits of a random mixture of integers around x."""
  params, prior, deviation, (costs, origin, reach), sided, image, mix, first = fixed
  lower = jnp.floor(x)
  # Probabilities of both integers fall as exp(-atanh(distance) / temperature).
  share = jnp.clip(x - lower, 1e-4, 1 - 1e-4)
  logits = jnp.stack([-jnp.arctanh(share), -jnp.arctanh(1 - share)]) / temperature
  p = jax.nn.softmax(logits + jax.random.gumbel(key, logits.shape), axis=0)

  def bits(values):
    most = reach + 1  # beyond a table, the cost of the next integer after it
    return costs[origin + jnp.clip(values.astype(jnp.int32), -most, most)]

  total = jnp.sum(p[0] * bits(lower) + p[1] * bits(lower + 1))
  model = coding.EntropyModel(config, prior, deviation, tables=None)
  y = coding.decode_values(model, sided, lower + p[1], jnp, first)
  found = transform.synthesize(params, config, y[None], mix, jnp)
  return total + weight * jnp.sum((found - image) ** 2)
