"""Coding as training sees it: code lengths and images with gradients.

Rounding is not differentiable. Code lengths are those of coefficients with uniform
noise in its place (Balle et al. 2017); the synthesis and the means of the second pass
see rounded coefficients, whose gradient passes straight through (Minnen and Singh 2020,
"Channel-wise autoregressive entropy models", section 3.4).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from codax.quantize.ops.straight_through import straight_through
from codax.vae import coding, hyperprior, levels, scale_context, transform
from codax.vae.format import laws
from codax.vae.transform import TransformConfig


class Coded(NamedTuple):
  """A batch, coded.

  Attributes:
    image: float32 [B, H, W, 3], decoded image, 0 to 255 but for overshoots.
    bits: float32 [B], code lengths of the coefficients.
    hyper_bits: float32 [B], code lengths of the hyper-latents.
  """

  image: jax.Array
  bits: jax.Array
  hyper_bits: jax.Array


def code(
  params: Any,
  config: TransformConfig,
  pixels: jax.Array,
  position: jax.Array,
  rng: jax.Array | None,
) -> Coded:
  """Codes a batch of images.

  Args:
    params: {'transform', 'prior'}.
    config: architecture.
    pixels: float32 [B, H, W, 3], 0 to 255; sides are multiples of two blocks.
    position: float32 [B], rate level of each image.
    rng: key of the noise that stands for rounding in code lengths; None rounds, as
      files do.
  """
  net, prior = params['transform'], params['prior']
  y = transform.analyze(net, config, pixels, jnp)
  mix = levels.mixing(position, config.levels, jnp)
  keys = (None, None) if rng is None else jax.random.split(rng)
  coefficients = lambda table: (mix @ table)[:, None, None]
  log_gain = coefficients(prior['gain'])
  gain = jnp.exp(log_gain)
  log2_scale = coefficients(prior['scale']) + log_gain / jnp.log(2.0)
  hyper_bits, features = jnp.zeros(len(y)), None
  if config.hyper_dim:
    # Hyper-latents describe coefficients, which do not bend to be described.
    seen = jax.lax.stop_gradient((y, gain))
    z = hyperprior.analyze(prior, config, *seen, jnp)
    z, hyper_bits = _code_latents(prior['latents'], z, coefficients, keys[0])
    log2_scale += hyperprior.log2_scales(prior, z, jnp)
    features = hyperprior.mean_features(prior, config, z, mix, jnp)
  log2_scale = jnp.broadcast_to(log2_scale, y.shape)
  predict = lambda parity, seen: hyperprior.means(
    prior, config, features, parity, seen, net['deviation'], jnp
  )
  mean, log2_scale, rounded = _run_stages(prior, config, y, gain, log2_scale, predict)
  x = (y - mean) * gain
  bits = hyperprior.logistic_bits(_noisy(x, rounded, keys[1]), _scale(log2_scale))
  decoded = straight_through(x, rounded) / gain + mean
  image = transform.synthesize(net, config, decoded, mix, jnp)
  return Coded(image, bits.sum((1, 2, 3)), hyper_bits)


def _run_stages(prior, config, y, gain, base, predict):
  """Rounds coefficients stage by stage, as the encoder does.

  Returns:
    Means, log2 of scales and rounded differences from the means in steps, [B, h, w, C].
  """
  stages = scale_context.list_stages(config)
  first = hyperprior.is_first_pass(*y.shape[1:3], jnp)
  side = jnp.clip(jax.lax.stop_gradient(base), laws.MIN_LOG2_SCALE, laws.MAX_LOG2_SCALE)
  known, passes = jnp.zeros_like(y), []
  for parity in sorted({stage.parity or 0 for stage in stages}):
    seen = y
    if passes:
      mean, _, rounded = passes[0]
      seen = straight_through((y - mean) * gain, rounded) / gain + mean
      seen = jnp.where(first, seen, 0.0)
    mean = predict(parity, seen)
    at, pieces = (first if parity == 0 else ~first), []
    for stage in stages:
      if (stage.parity or 0) != parity:
        continue
      cut = slice(stage.start, stage.stop)
      scale = base[..., cut]
      if stage.network is not None:
        p = prior['scale_context'][f'network_{stage.network}']
        scale += scale_context.log2_scales(p, known, side, jnp)
      x = (y[..., cut] - mean[..., cut]) * gain[..., cut]
      q = jax.lax.stop_gradient(round_cheaply(x, _scale(scale)))
      pieces.append((scale, q))
      found = jnp.where(at, scale_context.sizes(q, jnp), known[..., cut])
      known = jnp.concatenate(
        [known[..., : stage.start], found, known[..., stage.stop :]], -1
      )
    passes.append((mean, *(jnp.concatenate(both, -1) for both in zip(*pieces))))
  if len(passes) == 1:
    return passes[0]
  return tuple(jnp.where(first, a, b) for a, b in zip(*passes))


def _scale(log2_scale: jax.Array) -> jax.Array:
  """Returns scales within the range of the integer tables."""
  return jnp.exp2(jnp.clip(log2_scale, laws.MIN_LOG2_SCALE, laws.MAX_LOG2_SCALE))


def round_cheaply(x: jax.Array, scale: jax.Array) -> jax.Array:
  """Rounds as the encoder does: `coding.round_cheaply`, under logistic laws.

  From an integer q > 0 to q - 1 a code gets shorter by log2 of the quotient of their
  probabilities, which for a logistic law is short itself.
  """
  nearest = jnp.round(x)
  size, inverse = jnp.abs(nearest), 1 / scale
  beyond, before = (jnp.exp(-(size + d) * inverse) for d in (0.5, -1.5))
  saved = inverse + jnp.log1p(beyond) - jnp.log1p(before)
  error = 2 * (jnp.abs(x) - size) + 1  # what the squared error grows by
  is_less = (saved > coding.RD_WEIGHT * jnp.log(2.0) * error) & (size > 0)
  return jnp.where(is_less, nearest - jnp.sign(nearest), nearest)


def _noisy(x: jax.Array, rounded: jax.Array, rng: jax.Array | None) -> jax.Array:
  """Returns x with uniform noise, or what it was rounded to without a key."""
  if rng is None:
    return rounded
  return x + jax.random.uniform(rng, x.shape, minval=-0.5, maxval=0.5)


def _code_latents(p: Any, z: jax.Array, mixed: Any, rng: jax.Array | None):
  """Rounds hyper-latents; returns them and their bits [B]."""
  gain, mean = jnp.exp(mixed(p['gain'])), mixed(p['mean'])
  x = z * gain - mean
  rounded = straight_through(x, jnp.round(x))
  scale = _scale(mixed(p['scale']))
  bits = hyperprior.logistic_bits(_noisy(x, rounded, rng), scale)
  return (rounded + mean) / gain, bits.sum((1, 2, 3))
