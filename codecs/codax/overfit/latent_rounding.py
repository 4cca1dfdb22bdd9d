"""Rounding of latents: softly and with noise while training, then to integers.

C3 (Kim et al. 2023, section 3.1) has both; latent parameters are in units of
`model.LATENT_GAIN` quantization steps.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from codax.overfit import model
from codax.overfit.format import stream
from codax.overfit.presets import TrainConfig


def soft_round(x: jax.Array, temperature: jax.Array) -> jax.Array:
  """Rounds x the more, the lower the temperature is (Agustsson and Theis 2020)."""
  middle = jnp.floor(x) + 0.5
  scale = 0.5 / jnp.tanh(0.5 / temperature)
  return middle + scale * jnp.tanh((x - middle) / temperature)


def draw_kumaraswamy(rng: jax.Array, shape: tuple[int, ...], a: jax.Array) -> jax.Array:
  """Draws noise within +-1/2 whose density has its mode at 0 (C3, appendix).

  Kumaraswamy's distribution function on [0, 1] is 1 - (1 - x**a)**b; its mode is at 1/2
  for b = (2**a (a - 1) + 1) / a, and it is uniform for a = 1.
  """
  b = (2.0**a * (a - 1) + 1) / a
  # 1 - u is as uniform as u; so near 0 no logarithm is of 0
  log = jnp.log(jax.random.uniform(rng, shape, minval=1e-7))
  return (-jnp.expm1(log / b)) ** (1 / a) - 0.5


def round_with_noise(
  rng: jax.Array,
  latents: jax.Array,
  temperature: jax.Array,
  noise: jax.Array,
  noise_distribution: str = 'gaussian',
) -> jax.Array:
  """Rounds latent parameters [N] softly, with noise, to quantization steps [N]."""
  y = soft_round(latents * model.LATENT_GAIN, temperature)
  if noise_distribution == 'kumaraswamy':
    y = y + draw_kumaraswamy(rng, y.shape, noise)
  else:
    y = y + noise * jax.random.normal(rng, y.shape)
  return soft_round(y, temperature)


def round_latents(latents: jax.Array) -> jax.Array:
  """Rounds latent parameters [N] to the integers of a file, as float32."""
  most = stream.MAX_LATENT
  return jnp.clip(jnp.round(latents * model.LATENT_GAIN), -most, most)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def straight_through(x: jax.Array, temperature: float) -> jax.Array:
  """Rounds x; its derivative is that of `soft_round` (C3's second stage).

  At a low temperature that is 0 but for values within some temperatures of a half,
  whose gradient is large: latents move across a decision or stay.
  """
  del temperature
  return jnp.round(x)


def _straight_through_forward(x, temperature):
  del temperature
  return jnp.round(x), x


def _straight_through_backward(temperature, x, cotangent):
  # 1 / cosh(d)**2 of e**-2|d|, which neither overflows nor loses digits
  decay = jnp.exp(-2 * jnp.abs(x - jnp.floor(x) - 0.5) / temperature)
  scale = 0.5 / (temperature * jnp.tanh(0.5 / temperature))
  return (cotangent * scale * 4 * decay / (1 + decay) ** 2,)


straight_through.defvjp(_straight_through_forward, _straight_through_backward)


def round_in_stage2(recipe: TrainConfig, latents: jax.Array) -> jax.Array:
  """Rounds latent parameters as `round_latents` does, with the gradient of stage 2."""
  if recipe.stage2_latents == 'fixed':
    return round_latents(latents)
  most = stream.MAX_LATENT
  steps = straight_through(latents * model.LATENT_GAIN, recipe.stage2_temperature)
  return jnp.clip(steps, -most, most)


def round_on_host(latents: np.ndarray) -> np.ndarray:
  """Does as `round_latents` for an array on the host, and compiles nothing."""
  most = np.float32(stream.MAX_LATENT)
  steps = np.rint(np.asarray(latents) * np.float32(model.LATENT_GAIN))
  return np.clip(steps, -most, most)
