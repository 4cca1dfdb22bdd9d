"""Encoder-side refinement: moves a picture's latents to where its codes decode best.

The encoder network is one forward pass trained over many pictures; for the one picture
at hand its latents can be improved by descending the error of the picture that the
decoder makes from the *quantised* latents, with the straight-through gradient (the
latent half of the idea in Campos et al. 2019). It costs encoding time only: the file
and the decoder know nothing of it.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from codax.quantize import base
from codax.quantize.ops import kmeans
from codax.quantize.ops.straight_through import straight_through
from codax.vqvae import model as nets

# First step in units of the quantisation error's standard deviation, divided by the
# root of the number of steps; and the pull towards the chosen codeword, without which
# latents drift to where two codes meet and the choice that follows is a toss-up. On a
# held-out photograph: 12 steps +0.6 dB for 9 % more bits, without the pull -0.6 dB.
_RATE, _PULL = 1.0, 0.5


@functools.lru_cache(maxsize=8)
def _step(config: nets.ModelConfig):
  """Compiled (z, optimiser state, ...) -> (z, optimiser state, error) for a config."""
  decoder = nets.Decoder(config)
  tx = optax.adam(1.0, b1=0.9, b2=0.99)

  def loss(z, target, params, codebook, prices, scale):
    groups = base.split_groups(jax.lax.stop_gradient(z), codebook.shape[0])
    codes = jax.vmap(_cheapest)(groups, codebook, prices)
    picked = jax.vmap(lambda book, c: book[c])(codebook, codes)
    values = base.merge_groups(picked, z.shape)
    image = decoder.apply({'params': params}, straight_through(z, values))
    error = jnp.mean((image - target) ** 2)
    pull = jnp.mean(jnp.sum((z - values) ** 2, -1)) / scale**2
    return error * (1 + _PULL * pull), error

  def step(z, opt_state, rate, target, params, codebook, prices, scale):
    grad, error = jax.grad(loss, has_aux=True)(
      z, target, params, codebook, prices, scale
    )
    updates, opt_state = tx.update(grad, opt_state)
    return z + rate * scale * updates, opt_state, error

  return tx.init, jax.jit(step, donate_argnums=(0, 1))


def _cheapest(z: jax.Array, codebook: jax.Array, price: jax.Array) -> jax.Array:
  """argmin_k |z - e_k|^2 + price_k for [N, d], [K, d], [K]."""
  return jnp.argmin(kmeans.squared_distances(z, codebook) + price[None, :], axis=-1)


def refine(
  config: nets.ModelConfig,
  params: Any,
  codebook: jax.Array,
  prices: jax.Array,
  scale: float,
  z: jax.Array,
  target: jax.Array,
  steps: int,
) -> jax.Array:
  """Improved latents for one picture.

  Args:
    config, params: of the decoder.
    codebook: float32 [G, K, d].
    prices: float32 [G, K], what choosing a code costs, in squared latent error.
    scale: standard deviation of the quantisation error of one latent value.
    z: float32 [1, h, w, D], the encoder's latents.
    target: float32 [1, h*f, w*f, 3] in [-1, 1].
    steps: how many.

  Returns:
    float32 [1, h, w, D].
  """
  init, step = _step(config)
  z = jnp.array(z)  # a copy: it is donated
  opt_state = init(z)
  # A loop of dispatches: XLA's CPU convolutions are slow inside its own loops.
  for i in range(steps):
    rate = _RATE / math.sqrt(steps) * (1 + math.cos(math.pi * i / steps)) / 2
    z, opt_state, _ = step(z, opt_state, rate, target, params, codebook, prices, scale)
  return z
