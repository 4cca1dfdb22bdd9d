"""Losses and steps of the transform codec for the shared training loop.

Loss of an image at rate level t: ``w(t) * (bits a pixel + lambda(t) * MSE)``, with a
level of its own for every image of a batch. The weights w make an equal relative
change of the cost count alike at every level: costs fall about as lambda**-0.5.
"""

import functools
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import optax

from codax import averages
from codax.config import check_present
from codax.errors import CodaxError
from codax.training import optim, settings
from codax.training.task import Task
from codax.vae import bundle_io, calibration, hyperprior, levels, rate_model, transform
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


def make(config: Any) -> Task:
  """Makes the task for `config`; `codax.vae.defaults` has the keys.

  Raises:
    CodaxError: an unknown key, or a value that is not valid.
  """
  settings.check_keys(config, (*_SECTIONS, 'objective', 'average_decay'))
  check_present(config, (*_SECTIONS, 'total_steps', 'average_decay'))
  averages.check_decay(config.average_decay)
  parts = _Parts(config, transform.read_config(config.model))
  side = parts.model.patch * (2 if parts.model.hyper_dim else 1)
  if config.data.crop % side:
    raise CodaxError(
      f'data.crop = {config.data.crop} is not a multiple of {side}, the pixels of a '
      'position of ' + ('hyper-latents' if parts.model.hyper_dim else 'coefficients')
    )
  bind = lambda f: functools.partial(f, parts)
  return Task(
    init=bind(_init),
    train_step=bind(_train_step),
    eval_step=bind(_eval_step),
    images=bind(_images),
    bundle=bind(_bundle),
    calibrate=calibration.calibrate,
    init_batches=INIT_BATCHES,
  )


_SECTIONS = ('data', 'model', 'optimizer')
INIT_BATCHES = 160  # of which the transform that training starts from is made


class _Parts(NamedTuple):
  """Whole configuration and checked architecture."""

  config: Any
  model: TransformConfig


def _optimizer(parts: _Parts, params: Any):
  return optim.make(parts.config.optimizer, parts.config.total_steps, params)


def _init(parts: _Parts, rng: jax.Array, batch: Any) -> State:
  net_key, prior_key = jax.random.split(rng)
  pixels = batch['image'].astype(jnp.float32)
  net = transform.init(net_key, parts.model, pixels)
  prior = hyperprior.init(prior_key, parts.model, net['deviation'])
  params = {'transform': net, 'prior': prior}
  average = averages.init(params) if parts.config.average_decay else None
  return State(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=_optimizer(parts, params)[0].init(params),
    average=average,
  )


def _squared_error(coded: rate_model.Coded, pixels: jax.Array) -> jax.Array:
  return jnp.mean((coded.image - pixels) ** 2, (1, 2, 3))


def _loss(parts: _Parts, params: Any, pixels: jax.Array, rng: jax.Array):
  """Returns the loss of a batch, each image at a rate level of its own."""
  position_key, noise_key = jax.random.split(rng)
  count, top = len(pixels), parts.model.levels - 1
  slot = (jnp.arange(count) + jax.random.uniform(position_key, (count,))) / count
  position = top * slot
  ratio = levels.MAX_LMBDA / levels.MIN_LMBDA
  lmbda = levels.MIN_LMBDA * ratio**slot
  coded = rate_model.code(params, parts.model, pixels, position, noise_key)
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
  pixels, params = (
    batch['image'].astype(jnp.float32),
    averages.value_or(state.average, state.params),
  )
  area, metrics = pixels.shape[1] * pixels.shape[2], {}
  costs = []
  for level, lmbda in enumerate(levels.lmbdas(parts.model.levels)):
    position = jnp.full(len(pixels), level, jnp.float32)
    coded = rate_model.code(params, parts.model, pixels, position, None)
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
    image = rate_model.code(
      averages.value_or(state.average, state.params),
      parts.model,
      pixels,
      position,
      None,
    ).image
    shown.append(jnp.round(jnp.clip(image, 0, 255)).astype(jnp.uint8))
  return jnp.concatenate(shown, axis=2)


def _bundle(parts: _Parts, state: State, metrics: dict[str, Any]):
  """Packs the bundle for the codec; runs on the host."""
  params = jax.device_get(averages.value_or(state.average, state.params))
  return bundle_io.pack(parts.config, params, parts.model, metrics)
