"""Encoder-side refinement: moves an image's latents to where its codes decode best.

The encoder network is one forward pass trained over many images; for the one image at
hand its latents can be improved by descending the error of the image that the decoder
makes from the *quantized* latents, with the straight-through gradient (the latent half
of the idea in Campos et al. 2019). It takes encoding time only: the file and the
decoder know nothing of it.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from codax import programs
from codax.quantize import base
from codax.quantize.ops import kmeans
from codax.quantize.ops.straight_through import straight_through
from codax.vqvae import model as nets

Codebooks = tuple[jax.Array, ...]

# First step in units of the quantization error's standard deviation, divided by the
# root of the number of steps; and the weight of the distance to the selected codeword,
# without which latents drift to where two codes meet and the selection that follows is
# a toss-up. On a held-out photograph: 12 steps +0.6 dB for 9 % more bits, without that
# weight -0.6 dB.
_LR, _COMMITMENT = 1.0, 0.5


_optimizer = optax.adam(1.0, b1=0.9, b2=0.99)


@programs.jit_by_shape(static=('config',), donate=('z', 'opt_state'))
def _step(config, z, opt_state, lr, target, params, codebooks, costs, scale):
  """Makes a step: (z, optimizer state, error)."""
  decoder = nets.Decoder(config)

  def loss(z):
    values = _cheapest_values(jax.lax.stop_gradient(z), codebooks, costs)
    image = decoder.apply({'params': params}, straight_through(z, values))
    error = jnp.mean((image - target) ** 2)
    distance = jnp.mean(jnp.sum((z - values) ** 2, -1)) / scale**2
    return error * (1 + _COMMITMENT * distance), error

  grad, error = jax.grad(loss, has_aux=True)(z)
  updates, opt_state = _optimizer.update(grad, opt_state)
  return z + lr * scale * updates, opt_state, error


def _cheapest(z: jax.Array, codebook: jax.Array, cost: jax.Array) -> jax.Array:
  """Returns argmin_k |z - e_k|^2 + cost_k for [N, d], [K, d], [K]."""
  return jnp.argmin(kmeans.squared_distances(z, codebook) + cost[None, :], axis=-1)


def _cheapest_values(z: jax.Array, codebooks: Codebooks, costs: Codebooks) -> jax.Array:
  """Returns the sum over stages of the cheapest codewords for z [..., D]."""
  total = None
  for codebook, cost in zip(codebooks, costs):
    rest = z if total is None else z - total
    groups = base.split_groups(rest, codebook.shape[0])
    codes = jax.vmap(_cheapest)(groups, codebook, cost)
    picked = jax.vmap(lambda book, c: book[c])(codebook, codes)
    values = base.merge_groups(picked, z.shape)
    total = values if total is None else total + values
  return total


def refine(
  config: nets.ModelConfig,
  params: Any,
  codebooks: Codebooks,
  costs: Codebooks,
  scale: float,
  z: jax.Array,
  target: jax.Array,
  steps: int,
  should_stop: Callable[[], str | None] = lambda: None,
) -> jax.Array:
  """Returns improved latents of one image.

  Args:
    config: architecture of the networks.
    params: parameters of the decoder.
    codebooks: float32 [G, K, d], one a stage.
    costs: float32 [G, K], one a stage: cost of each code, in squared latent error.
    scale: standard deviation of the quantization error of one latent value.
    z: float32 [1, h, w, D], the encoder's latents in the codewords' space.
    target: float32 [1, h*f, w*f, 3] in [-1, 1].
    steps: number of optimizer steps.
    should_stop: asked before every step for a reason to make no more, or None.

  Returns:
    float32 [1, h, w, D].
  """
  z = jnp.array(z)  # a copy: it is donated
  opt_state = _optimizer.init(z)
  # A loop of dispatches: XLA's CPU convolutions are slow inside its own loops.
  # Each is waited for, as signals reach no one while many are on their way.
  for i in range(steps):
    if should_stop():
      break
    lr = _LR / math.sqrt(steps) * (1 + math.cos(math.pi * i / steps)) / 2
    z, opt_state, error = _step(
      config, z, opt_state, lr, target, params, codebooks, costs, scale
    )
    error.block_until_ready()
  return z
