"""Losses of the convolutional VAE: distortion, divergence, discriminator, prior.

Everything is summed into one loss whose gradient each component sees only its own part
of: the networks not that of the prior and of the discriminator, the prior and the
discriminator not that of the networks.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from codax.layers import patch_gan
from codax.metrics import lpips
from codax.vae import kl, model
from codax.vae.kl_components import Components

# Its gradient balances the discriminator's weight.
_LAST_LAYER = 'color_last'


def compute(
  components: Components, params: Any, image: jax.Array, noise: jax.Array, step: Any
):
  """Computes the loss of a batch.

  Args:
    components: components of the configuration.
    params: parameters by component, see `kl_task.State`.
    image: uint8 [B, H, W, 3].
    noise: float32 [B, h, w, C], standard normal.
    step: index of the step, from 0.

  Returns:
    The loss, and (metrics, mean variance of the posterior float32 [C]).
  """
  x = model.to_model(image)
  networks = params['vae']
  mean, log_var = components.compressor.apply({'params': networks['analysis']}, x)
  z = mean + jnp.exp(0.5 * log_var) * noise
  y = components.expander.apply({'params': networks['synthesis']}, z)
  losses = _distortion(components, x, y)
  weight = kl.weight(step, components.kl.weight, components.kl.warmup_steps)
  divergence = kl.per_dimension(mean, log_var)
  free_bits = components.kl.free_bits
  losses['kl'] = weight * kl.penalty(divergence, free_bits)
  beside, metrics = {}, {}
  if components.loss.gan:
    losses['gan'], beside['discriminator'], metrics = _adversarial(
      components, params, x, z, y, step
    )
  total = sum(losses.values())
  beside['prior'] = logistic_nll(params['prior'], jax.lax.stop_gradient(mean))
  losses |= beside
  metrics |= {
    'loss': total,
    **{f'loss_{name}': value for name, value in losses.items()},
    'mse': jnp.mean((y - x) ** 2),
    'l1': jnp.mean(jnp.abs(y - x)),
    'kl': divergence.sum(),
    'kl_bpp': divergence.sum() / (math.log(2) * components.model.factor**2),
    'kl_weight': weight,
    'free_dims': (divergence < free_bits).sum().astype(jnp.float32),
    'moments': kl.moments(jax.lax.stop_gradient(mean)),
  }
  variance = jax.lax.stop_gradient(jnp.exp(log_var)).mean((0, 1, 2))
  return total + sum(beside.values()), (metrics, variance)


def _distortion(
  components: Components, x: jax.Array, y: jax.Array
) -> dict[str, jax.Array]:
  """Returns the weighted distortions of images float [B, H, W, 3]."""
  config, losses = components.loss, {}
  if config.l1:
    losses['l1'] = config.l1 * jnp.mean(jnp.abs(y - x))
  if config.mse:
    losses['mse'] = config.mse * jnp.mean((y - x) ** 2)
  if config.lpips:
    losses['lpips'] = config.lpips * lpips.distance(components.lpips, y, x).mean()
  return losses


def _adversarial(
  components: Components, params: Any, x: Any, z: Any, y: Any, step: Any
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
  """Returns the networks' loss, the discriminator's, and metrics.

  Both are 0 before `gan_start`. The weight makes the discriminator pull the last layer
  `gan` times as hard as the distortion does.
  """
  config, stop = components.loss, jax.lax.stop_gradient
  judge = lambda learnt, image: components.discriminator.apply(
    {'params': learnt}, image
  )
  learnt = params['discriminator']
  factor = patch_gan.start_factor(step, config.gan_start)
  fooled = lambda y: patch_gan.generator_loss(judge(stop(learnt), y))
  synthesis = params['vae']['synthesis']

  def expand(last: Any) -> jax.Array:
    changed = {**synthesis, _LAST_LAYER: last}
    return components.expander.apply({'params': changed}, z)

  y_again, pull = jax.vjp(expand, synthesis[_LAST_LAYER])
  distortion = lambda y: sum(_distortion(components, x, y).values())
  by_distortion, by_gan = (pull(jax.grad(f)(y_again))[0] for f in (distortion, fooled))
  weight = patch_gan.adaptive_weight(by_distortion, by_gan, config.gan_max_weight)
  losses = patch_gan.discriminator_loss(judge(learnt, x), judge(learnt, stop(y)))
  metrics = {
    'gan_weight': weight.value,
    'gan_weight_capped': weight.is_capped,
    'discriminator_real': losses.real,
    'discriminator_fake': losses.fake,
  }
  generator = config.gan * factor * weight.value * fooled(y)
  return generator, factor * losses.total, metrics


def logistic_nll(prior: Any, z: jax.Array) -> jax.Array:
  """Returns the mean negative log density of latents under logistic laws, in nats.

  Args:
    prior: {'mean', 'log_scale'}, float32 [C].
    z: float32 [B, h, w, C].
  """
  shape = (1, 1, 1, -1)
  mean, log_scale = (prior[k].reshape(shape) for k in ('mean', 'log_scale'))
  u = (z - mean) * jnp.exp(-log_scale)
  return jnp.mean(u + 2 * jax.nn.softplus(-u) + log_scale)
