"""Losses and steps of the convolutional VAE for the shared training loop.

Loss of a step: distortion (L1, MSE, LPIPS, a discriminator) of an image decoded from
sampled latents + weight * divergence from the standard normal law. Beside the networks,
the factorized prior of the files learns: a logistic law of each channel, by likelihood
of the latents, whose gradient stops there.

Evaluation decodes the content of a file: means, rounded to multiples of each channel's
quantization step, with the averaged parameters if there are any. The step is sqrt(12)
times the root mean square of the posterior's standard deviation, so rounding adds as
much noise as the training did.
"""

import functools
import math
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax

from codax import averages
from codax.metrics import chroma, lpips
from codax.training import optim
from codax.training.task import Task
from codax.vae import bundle_io, calibration, diagnostics, kl, kl_losses, model
from codax.vae import kl_components as components_lib
from codax.vae.kl_components import Components

_SPREAD_DECAY = 0.99
_MIN_BITS_PROBABILITY = 2.0**-24


@flax.struct.dataclass
class State:
  """State of a run, complete for going on.

  Attributes:
    step: number of steps so far, int32.
    lr_step: number of steps in the learning rates' schedules, int32: `step`, unless
      they were started again.
    params: {'vae': {'analysis', 'synthesis'}, 'prior': {'mean', 'log_scale'},
      'discriminator'}, the last one if the loss has one.
    opt_state: optimizer state by component.
    average: running average of params['vae'], or None.
    variance: running average of the posterior's variance, float32 [C].
    norms: norms of the gradient of 'vae' in all steps.
  """

  step: jax.Array
  lr_step: jax.Array
  params: Any
  opt_state: Any
  average: Any
  variance: averages.Average
  norms: diagnostics.GradientNorms


def make(config: Any) -> Task:
  """Makes the task for `config`; `defaults` has the keys."""
  components = components_lib.make(config)
  bind = lambda f: functools.partial(f, components)
  return Task(
    init=bind(_init),
    train_step=bind(_train_step),
    eval_step=bind(_eval_step),
    images=bind(_images),
    bundle=bind(_bundle),
    calibrate=calibration.calibrate,
    summarize=bind(_summarize),
    resume=bind(_resume),
    score='psnr',
  )


def eval_params(state: State) -> Any:
  """Returns the networks' parameters, averaged if the run averages them."""
  return averages.value_or(state.average, state.params['vae'])


def q_steps(state: State) -> jax.Array:
  """Returns the quantization step of each channel, float32 [C]."""
  return jnp.sqrt(12 * averages.value(state.variance))


def _init(components: Components, rng: jax.Array, batch: Any) -> State:
  keys = jax.random.split(rng)
  x = model.to_model(batch['image'][:1])
  (mean, _), analysis = components.compressor.init_with_output(keys[0], x)
  synthesis = components.expander.init(keys[1], mean)
  channels = mean.shape[-1]
  params = {
    'vae': {'analysis': analysis['params'], 'synthesis': synthesis['params']},
    'prior': {'mean': jnp.zeros(channels), 'log_scale': jnp.zeros(channels)},
  }
  if components.discriminator is not None:
    learnt = components.discriminator.init(jax.random.fold_in(rng, 2), x)
    params['discriminator'] = learnt['params']
  decay = components.training.average_decay
  return State(
    step=jnp.zeros((), jnp.int32),
    lr_step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=components.optimizer(params)[0].init(params),
    average=averages.init(params['vae']) if decay else None,
    variance=averages.init(jnp.zeros(channels)),
    norms=diagnostics.init_norms(),
  )


def _resume(components: Components, state: State) -> State:
  """Starts the learning rates again unless `preserve_lr` says otherwise."""
  if components.training.preserve_lr:
    return state
  return state.replace(
    lr_step=jnp.zeros_like(state.lr_step),
    opt_state=optim.restart_schedules(state.opt_state),
  )


def _gradients(components: Components, state: State, image: jax.Array, rng: Any):
  """Returns the gradient of a batch, its metrics and the posterior's variance.

  With `accumulate` above 1 the batch goes through the networks in that many parts, one
  after another; image i is in part i modulo their number.
  """
  count, factor = components.training.accumulate, components.model.factor
  b, h, w, _ = image.shape
  latents = (b, h // factor, w // factor, components.model.latent_dim)
  noise = jax.random.normal(rng, latents)
  gradient = jax.grad(functools.partial(kl_losses.compute, components), has_aux=True)
  if count == 1:
    return gradient(state.params, image, noise, state.step)

  def split(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x.reshape(b // count, count, *x.shape[1:]), 1, 0)

  def add(total: Any, part: Any) -> tuple[Any, None]:
    one = gradient(state.params, *part, state.step)
    return jax.tree.map(jnp.add, total, one), None

  parts = split(image), split(noise)
  first = gradient(state.params, *(x[0] for x in parts), state.step)
  # loops are slow on CPUs: their convolutions do without the fast routines
  unroll = count if jax.default_backend() == 'cpu' else 1
  rest = tuple(x[1:] for x in parts)
  total, _ = jax.lax.scan(add, first, rest, unroll=unroll)
  moments = total[1][0].pop('moments')  # a sum; all else are means
  grads, (metrics, variance) = jax.tree.map(lambda x: x / count, total)
  return grads, ({**metrics, 'moments': moments}, variance)


def _train_step(components: Components, state: State, batch: Any, rng: jax.Array):
  grads, (metrics, variance) = _gradients(components, state, batch['image'], rng)
  tx, rates = components.optimizer(state.params)
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  norm = optax.tree.norm(grads['vae'])
  norms = diagnostics.update_norms(state.norms, norm, components.clip_norm)
  stability = diagnostics.stability(norms)
  average = state.average
  if average is not None:
    decay = components.training.average_decay
    average = averages.update(average, params['vae'], decay)
  metrics |= {
    'grad_norm': norm,
    'grad_norm_variation': stability.variation,
    'grad_norm_median': stability.median,
    'grad_norm_spikes': stability.spikes,
    'clipped_share': stability.clipped_share,
  }
  metrics |= optim.rate_metrics(rates, state.lr_step)
  new = State(
    step=state.step + 1,
    lr_step=state.lr_step + 1,
    params=params,
    opt_state=opt_state,
    average=average,
    variance=averages.update(state.variance, variance, _SPREAD_DECAY),
    norms=norms,
  )
  return new, metrics


def quantize(state: State, mean: jax.Array) -> jax.Array:
  """Rounds latents [B, h, w, C] to whole quantization steps, as in a file."""
  step = q_steps(state).reshape(1, 1, 1, -1)
  return jnp.round(mean / step) * step


def rate_bits(state: State, z: jax.Array) -> jax.Array:
  """Estimates the bits of quantized latents under the factorized prior.

  Args:
    state: state of the run.
    z: float32 [B, h, w, C], result of `quantize`.

  Returns:
    float32 [B, h, w, C].
  """
  shape = (1, 1, 1, -1)
  prior = state.params['prior']
  mean, scale = prior['mean'].reshape(shape), jnp.exp(prior['log_scale']).reshape(shape)
  half = q_steps(state).reshape(shape) / 2
  # in the lower half of the law, where the difference loses no digits
  u = -jnp.abs(z - mean)
  mass = jax.nn.sigmoid((u + half) / scale) - jax.nn.sigmoid((u - half) / scale)
  return -jnp.log2(jnp.maximum(mass, _MIN_BITS_PROBABILITY))


def _eval_step(
  components: Components, state: State, batch: Any
) -> dict[str, jax.Array]:
  image, networks = batch['image'], eval_params(state)
  x = model.to_model(image)
  mean, log_var = components.compressor.apply({'params': networks['analysis']}, x)
  z = quantize(state, mean)
  decode = functools.partial(model.Expander.apply, components.expander)
  y, y_mean = (decode({'params': networks['synthesis']}, v) for v in (z, mean))
  error = model.to_uint8(y).astype(jnp.float32) - image.astype(jnp.float32)
  error_mean = model.to_uint8(y_mean).astype(jnp.float32) - image.astype(jnp.float32)
  luma, chromatic = chroma.luma_chroma_mse(model.to_uint8(y), image, jnp)
  bits = rate_bits(state, z).sum((1, 2, 3)).mean()
  divergence = kl.divergence(mean, log_var)
  metrics = {
    'mse255': jnp.mean(error**2),
    'psnr': _psnr(error),
    'psnr_mean': _psnr(error_mean),  # without quantization: the ceiling
    'mse_luma': luma,
    'mse_chroma': chromatic,
    'out_of_range': jnp.mean((jnp.abs(y) > 1).astype(jnp.float32)),
    'rate_bpp': bits / (image.shape[1] * image.shape[2]),
    'moments': kl.moments(mean),
    'kl_sums': divergence.sum((0, 1, 2)),
  }
  if components.lpips is not None:
    metrics['lpips'] = lpips.distance(components.lpips, jnp.clip(y, -1, 1), x).mean()
  return metrics | _colors('', y) | _colors('original/', x)


def _psnr(error: jax.Array) -> jax.Array:
  """Returns the mean PSNR in dB of images with these errors [B, H, W, 3]."""
  mse = jnp.mean(error**2, axis=(1, 2, 3))
  return (10 * jnp.log10(255.0**2 / jnp.maximum(mse, 1e-9))).mean()


def _colors(prefix: str, x: jax.Array) -> dict[str, jax.Array]:
  """Returns range, deviation and spread of colors, means over the images.

  Args:
    prefix: beginning of the metrics' names.
    x: float [B, H, W, 3] from -1 to 1; the results are on the 0..255 scale.
  """
  image = 127.5 * (1 + jnp.clip(x, -1, 1))

  def describe(image: jax.Array) -> dict[str, jax.Array]:
    ranges = chroma.color_ranges(image, jnp)
    return ranges | {'chroma_spread': chroma.chroma_spread(image, jnp)}

  return {prefix + name: v.mean() for name, v in jax.vmap(describe)(image).items()}


def sample_prior(
  components: Components, state: State, rng: jax.Array, shape: tuple[int, int, int]
) -> jax.Array:
  """Decodes latents drawn from the standard normal law.

  Args:
    components: components of the configuration.
    state: state of the run.
    rng: key.
    shape: (number of images, rows, columns) of the latents.

  Returns:
    uint8 [N, rows * factor, columns * factor, 3].
  """
  z = jax.random.normal(rng, (*shape, components.model.latent_dim))
  return model.synthesize(components.model, eval_params(state)['synthesis'], z)


def _images(components: Components, state: State, batch: Any) -> jax.Array:
  """Returns original, reconstruction and a sample of the prior side by side."""
  image, networks = batch['image'], eval_params(state)
  mean = model.analyze(components.model, networks['analysis'], image)
  z = quantize(state, mean)
  decoded = model.synthesize(components.model, networks['synthesis'], z)
  drawn = sample_prior(components, state, jax.random.key(0), z.shape[:3])
  return jnp.concatenate([image, decoded, drawn], axis=2)


def _summarize(components: Components, metrics: dict[str, Any]) -> dict[str, float]:
  """Adds active units, the divergence of each dimension and the pooled PSNR."""
  metrics = dict(metrics)
  moments = metrics.pop('moments')
  metrics['active_units'] = kl.active_units(moments)
  if 'kl_sums' in metrics:
    nats = metrics.pop('kl_sums') / moments[0]
    metrics['kl'] = nats.sum()
    metrics['kl_bpp'] = nats.sum() / (math.log(2) * components.model.factor**2)
    metrics |= {f'kl_dim/{i:03}': value for i, value in enumerate(nats)}
    mse = max(metrics['mse255'], 1e-9)
    metrics['psnr_pooled'] = 10 * math.log10(255.0**2 / mse)
  return metrics


def _bundle(components: Components, state: State, metrics: dict[str, Any]):
  """Packs networks, quantization steps and prior; runs on the host."""
  networks, step, prior = jax.device_get(
    (eval_params(state), q_steps(state), state.params['prior'])
  )
  return bundle_io.pack_vae(components.config, networks, step, prior, metrics)
