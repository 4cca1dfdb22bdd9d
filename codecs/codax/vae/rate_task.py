"""Losses and steps of the transform codec for the shared training loop.

Loss of an image at rate level t: ``w(t) * (bits a pixel + lambda(t) * MSE)``, with a
level of its own for every image of a batch. The weights w make an equal relative
change of the cost count alike at every level: costs fall about as lambda**-0.5.

Rounding is not differentiable. Code lengths are those of coefficients with uniform
noise in its place (Balle et al. 2017); the synthesis and the means of the second pass
see rounded coefficients, whose gradient passes straight through (Minnen and Singh 2020,
"Channel-wise autoregressive entropy models", section 3.4).
"""

import functools
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import optax

from codax import averages
from codax import config as config_lib
from codax.layers import twins
from codax.quantize.ops.straight_through import straight_through
from codax.training import optim
from codax.training.task import Task
from codax.vae import bundle_io, hyperprior, levels, transform
from codax.vae.format import laws
from codax.vae.transform import TransformConfig


@flax.struct.dataclass
class State:
  """State of a run, complete for going on.

  Attributes:
    step: number of steps so far, int32.
    params: {'transform', 'prior'}.
    opt_state: optimizer state over `params`.
    average: running average of the parameters, or None.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  average: Any


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
  y = transform.analyze(params['transform'], config, pixels, jnp)
  z = None
  if config.hyper_dim:
    deviation = params['transform']['deviation']
    z = hyperprior.analyze(params['prior'], config, y, deviation, jnp)
  return code_coefficients(params, config, y, z, position, rng)


def code_coefficients(
  params: Any,
  config: TransformConfig,
  y: jax.Array,
  z: jax.Array | None,
  position: jax.Array,
  rng: jax.Array | None,
) -> Coded:
  """Codes coefficients y [B, h, w, C] and hyper-latents z [B, h / 2, w / 2, D].

  The other arguments are those of `code`.
  """
  net, prior = params['transform'], params['prior']
  mix = levels.mixing(position, config.levels, jnp)
  keys = (None, None) if rng is None else jax.random.split(rng)
  coefficients = lambda table: (mix @ table)[:, None, None]
  log_gain, deviation = coefficients(prior['gain']), net['deviation']
  gain = jnp.exp(log_gain)
  log2_scale = coefficients(prior['scale']) + log_gain / jnp.log(2.0)
  hyper_bits = jnp.zeros(len(y))
  if config.hyper_dim:
    z, hyper_bits = _code_latents(prior['latents'], z, coefficients, keys[0])
    log2_scale += hyperprior.log2_scales(prior, z, jnp)
    mean = _predict(prior, config, z, y, gain, deviation)
  else:
    mean = jnp.broadcast_to(prior['mean'][None, None, None], y.shape)
  x = (y - mean) * gain
  rounded = round_ste(x)
  noisy = _noisy(x, rounded, keys[1])
  bits = hyperprior.logistic_bits(noisy, _scale(log2_scale))
  decoded = rounded / gain + mean
  image = transform.synthesize(net, config, decoded, mix, jnp)
  return Coded(image, bits.sum((1, 2, 3)), hyper_bits)


def _scale(log2_scale: jax.Array) -> jax.Array:
  """Returns scales within the range of the integer tables."""
  return jnp.exp2(jnp.clip(log2_scale, laws.MIN_LOG2_SCALE, laws.MAX_LOG2_SCALE))


def round_ste(x: jax.Array) -> jax.Array:
  """Rounds x; the gradient passes straight through."""
  return straight_through(x, jnp.round(x))


def _noisy(x: jax.Array, rounded: jax.Array, rng: jax.Array | None) -> jax.Array:
  """Returns x with uniform noise, or what it was rounded to without a key."""
  if rng is None:
    return rounded
  return x + jax.random.uniform(rng, x.shape, minval=-0.5, maxval=0.5)


def _code_latents(p: Any, z: jax.Array, mixed: Any, rng: jax.Array | None):
  """Rounds hyper-latents; returns them and their bits [B]."""
  gain, mean = jnp.exp(mixed(p['gain'])), mixed(p['mean'])
  x = z * gain - mean
  rounded = round_ste(x)
  scale = _scale(mixed(p['scale']))
  bits = hyperprior.logistic_bits(_noisy(x, rounded, rng), scale)
  return (rounded + mean) / gain, bits.sum((1, 2, 3))


def _predict(prior, config, z, y, gain, deviation):
  """Computes the means of both passes, from rounded coefficients of the first."""
  features = hyperprior.mean_features(prior, config, z, jnp)
  mean = hyperprior.first_means(prior, features, deviation, jnp)
  if not config.context:
    return mean
  decoded = round_ste((y - mean) * gain) / gain + mean
  first = hyperprior.is_first_pass(*y.shape[1:3], jnp)
  seen = jnp.where(first, decoded, 0.0)
  second = hyperprior.second_means(prior, config, features, seen, deviation, jnp)
  return jnp.where(first, mean, second)


def make(config: Any) -> Task:
  """Makes the task for `config`; `codax.vae.defaults` has the keys."""
  parts = _Parts(
    config=config,
    model=config_lib.parse(
      config.model, TransformConfig, 'config.model', ignored=('arch',)
    ),
  )
  bind = lambda f: functools.partial(f, parts)
  return Task(
    init=bind(_init),
    train_step=bind(_train_step),
    eval_step=bind(_eval_step),
    images=bind(_images),
    bundle=bind(_bundle),
    init_batches=INIT_BATCHES,
  )


INIT_BATCHES = 160  # of which the transform that training starts from is made


class _Parts(NamedTuple):
  """Whole configuration and checked architecture."""

  config: Any
  model: TransformConfig


def _optimizer(parts: _Parts, params: Any):
  return optim.make(parts.config.optimizer, parts.config.total_steps, params)


def _init(parts: _Parts, rng: jax.Array, batch: Any) -> State:
  net_key, prior_key = jax.random.split(rng)
  pixels = batch['image'].astype(jnp.float32) - transform.OFFSET
  patches = twins.space_to_depth(pixels, parts.model.patch)
  net = transform.init(net_key, parts.model, patches.reshape(-1, patches.shape[-1]))
  prior = hyperprior.init(prior_key, parts.model, net['deviation'])
  params = {'transform': net, 'prior': prior}
  average = averages.init(params) if parts.config.average_decay else None
  return State(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=_optimizer(parts, params)[0].init(params),
    average=average,
  )


def eval_params(state: State) -> Any:
  """Returns the running average of the parameters, or without one themselves."""
  if state.average is None:
    return state.params
  return averages.value(state.average, state.params)


def _squared_error(coded: Coded, pixels: jax.Array) -> jax.Array:
  return jnp.mean((coded.image - pixels) ** 2, (1, 2, 3))


def _loss(parts: _Parts, params: Any, pixels: jax.Array, rng: jax.Array):
  """Returns the loss of a batch, each image at a rate level of its own."""
  position_key, noise_key = jax.random.split(rng)
  count, top = len(pixels), parts.model.levels - 1
  slot = (jnp.arange(count) + jax.random.uniform(position_key, (count,))) / count
  position = top * slot
  ratio = levels.MAX_LMBDA / levels.MIN_LMBDA
  lmbda = levels.MIN_LMBDA * ratio**slot
  coded = code(params, parts.model, pixels, position, noise_key)
  area = pixels.shape[1] * pixels.shape[2]
  bpp, mse = (coded.bits + coded.hyper_bits) / area, _squared_error(coded, pixels)
  weight = jnp.sqrt(levels.MIN_LMBDA / lmbda)
  loss = jnp.mean(weight * (bpp + lmbda * mse))
  metrics = {
    'loss': loss,
    'bpp': bpp.mean(),
    'hyper_bpp': coded.hyper_bits.mean() / area,
    'mse255': mse.mean(),
  }
  return loss, metrics


def _train_step(parts: _Parts, state: State, batch: Any, rng: jax.Array):
  pixels = batch['image'].astype(jnp.float32)
  grads, metrics = jax.grad(functools.partial(_loss, parts), has_aux=True)(
    state.params, pixels, rng
  )
  tx, rates = _optimizer(parts, state.params)
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  average = state.average
  if average is not None:
    average = averages.update(average, params, parts.config.average_decay)
  metrics |= {'grad_norm': optax.tree.norm(grads)}
  metrics |= optim.rate_metrics(rates, state.step)
  return State(state.step + 1, params, opt_state, average), metrics


def _eval_step(parts: _Parts, state: State, batch: Any) -> dict[str, jax.Array]:
  """Measures estimated rate and 8-bit PSNR at every rate level."""
  pixels, params = batch['image'].astype(jnp.float32), eval_params(state)
  area, metrics = pixels.shape[1] * pixels.shape[2], {}
  costs = []
  for level, lmbda in enumerate(levels.lmbdas(parts.model.levels)):
    position = jnp.full(len(pixels), level, jnp.float32)
    coded = code(params, parts.model, pixels, position, None)
    image = jnp.round(jnp.clip(coded.image, 0, 255))
    mse = jnp.mean((image - pixels) ** 2, (1, 2, 3))
    bpp = (coded.bits + coded.hyper_bits).mean() / area
    psnr = 10 * jnp.log10(255.0**2 / jnp.maximum(mse, 1e-9))
    metrics |= {f'bpp_{level}': bpp, f'psnr_{level}': psnr.mean()}
    metrics[f'hyper_bpp_{level}'] = coded.hyper_bits.mean() / area
    costs.append(jnp.log(bpp + lmbda * mse.mean()))
  return metrics | {'log_cost': jnp.stack(costs).mean()}


def _images(parts: _Parts, state: State, batch: Any) -> jax.Array:
  """Shows original, lowest, middle and highest rate side by side."""
  pixels, shown = batch['image'].astype(jnp.float32), [batch['image']]
  for level in (0, (parts.model.levels - 1) // 2, parts.model.levels - 1):
    position = jnp.full(len(pixels), level, jnp.float32)
    image = code(eval_params(state), parts.model, pixels, position, None).image
    shown.append(jnp.round(jnp.clip(image, 0, 255)).astype(jnp.uint8))
  return jnp.concatenate(shown, axis=2)


def _bundle(parts: _Parts, state: State, metrics: dict[str, Any]):
  """Packs the bundle for the codec; runs on the host."""
  params = jax.device_get(eval_params(state))
  return bundle_io.pack(parts.config, params, parts.model, metrics)
