"""Losses and steps of the VQ-VAE for the shared training loop.

Loss of a step: MSE on [-1, 1] + the quantizer's own losses (commitment, free energy or
entropy term) + the code length of the context model. The context model reads the hard
codes only, so its gradient stops there: it learns beside the networks, in the same
step, and is ready when training ends.

Evaluation decodes the content of a file, the hard codes, with the averaged parameters
if there are any; PSNR is of 8-bit pixels. The loss and its terms are those of training,
with the decoder's floats for these codes in 'mse'.
"""

import functools
import math
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from codax import averages
from codax.entropy import context
from codax.metrics import codebook as codebook_metrics
from codax.training import optim
from codax.training.task import Task
from codax.vqvae import bundle_io, diagnose, model, warm_up
from codax.vqvae import components as components_lib
from codax.vqvae.components import Components

_NETWORKS = ('encoder', 'decoder')


@flax.struct.dataclass
class State:
  """State of a run, complete for going on.

  Attributes:
    step: number of steps so far, int32.
    params: {'encoder', 'decoder', 'quantizer', 'context'}; 'context' is absent when
      the context model is off.
    opt_state: optimizer state over `params`.
    quantizer: the quantizer's own state.
    average: running average of params['encoder'] and params['decoder'], or None.
    error: running average of the squared quantization error of a group's vector.
    warm_up: `warm_up.WarmUp` of training without the quantizer at first, or None.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  quantizer: Any
  average: Any
  error: averages.Average
  warm_up: Any = None


def make(config: Any) -> Task:
  """Makes the task for `config`; `configs/vqvae_ba.py` and `defaults` have the keys."""
  components = components_lib.make(config)
  bind = lambda f: functools.partial(f, components)
  return Task(
    init=bind(_init),
    train_step=bind(_train_step),
    eval_step=bind(_eval_step),
    images=bind(_images),
    bundle=bind(_bundle),
    summarize=_summarize,
    diagnose=bind(_diagnose),
    score='psnr',
  )


def _networks(params: Any) -> Any:
  return {name: params[name] for name in _NETWORKS}


def eval_params(state: State) -> Any:
  """Returns the parameters with the running average of the networks, if any."""
  return state.params | averages.value_or(state.average, _networks(state.params))


def _init(components: Components, rng: jax.Array, batch: Any) -> State:
  keys = jax.random.split(rng, 4)
  x = model.to_model(batch['image'])
  latents, encoder_params = components.encoder.init_with_output(keys[0], x)
  flat = latents.reshape(-1, latents.shape[-1])
  q_params, q_state = components.quantizer.init(keys[1], flat)
  params = {
    'encoder': encoder_params['params'],
    'decoder': components.decoder.init(keys[2], latents)['params'],
    'quantizer': q_params,
  }
  if components.context is not None:
    learnt = context.init(keys[3], components.context)
    params['context'] = {**learnt, 'embed': 0.1 * learnt['embed']}
  average = None
  if components.config.get('average_decay', 0.0):
    average = averages.init(_networks(params))
  return State(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=components.optimizer(params)[0].init(params),
    quantizer=q_state,
    average=average,
    error=averages.init(jnp.zeros(())),
    warm_up=components.init_warm_up(flat.shape[-1]),
  )


def _quantize(
  components: Components, params: Any, state: State, z: jax.Array, **kw: Any
):
  """Quantizes, and from `context.context_cost_from` on in a second pass.

  A file's codes are selected in order, each knowing its neighbours. Here all are
  selected at once, at the context model's costs given the first pass's codes.
  """
  step = state.step
  if state.warm_up is not None:  # schedules begin with the quantizer
    step = jnp.maximum(step - state.warm_up.start, 0)
  quantize = functools.partial(
    components.quantizer.quantize,
    params['quantizer'],
    state.quantizer,
    z,
    step=step,
  )
  out = quantize(**kw)
  if components.context is None:
    return out
  cost_from = components.config.context.get('context_cost_from', 1.0)
  if cost_from >= 1:
    return out
  vectors = components_lib.code_vectors(components, params, state.quantizer)
  learnt = components_lib.context_params(params['context'], vectors)
  logits = context.logits(learnt, components.context, out.codes)
  log_prior = jax.lax.stop_gradient(jax.nn.log_softmax(logits))
  start = cost_from * components.config.total_steps
  return jax.lax.cond(
    state.step >= start, lambda: quantize(log_prior=log_prior, **kw), lambda: out
  )


def _context_bits(components: Components, params: Any, q_state: Any, codes: jax.Array):
  """Returns the mean code length under the context model, in bits a code."""
  vectors = components_lib.code_vectors(components, params, q_state)
  learnt = components_lib.context_params(params['context'], vectors)
  return context.bits(learnt, components.context, codes).mean()


def _loss(
  components: Components, params: Any, state: State, batch: Any, rng: jax.Array
):
  """Returns the loss and (metrics, quantizer state, quantization error, latents)."""
  x = model.to_model(batch['image'])
  z = components.encoder.apply({'params': params['encoder']}, x)
  out = _quantize_in_training(components, params, state, z, rng)
  y = components.decoder.apply({'params': params['decoder']}, out.values)
  mse = jnp.mean((y - x) ** 2)
  losses = dict(out.losses)
  metrics = {'mse': mse, **out.stats}
  error = _quantization_error(components, z, out.values)
  if components.context is not None:
    bits = _context_bits(components, params, state.quantizer, out.codes)
    weight = components.config.context.get('weight', 1.0)
    if state.warm_up is not None:  # there are no codes yet
      weight = jnp.where(state.step >= state.warm_up.start, weight, 0.0)
    losses['context'] = weight * bits
    metrics['context_bits'] = bits
  total = mse + sum(losses.values())
  metrics |= {'loss': total, **{f'loss_{k}': v for k, v in losses.items()}}
  metrics['counts'] = _counts(components, out.codes)
  return total, (metrics, out.state, error, z)


def _quantize_in_training(components, params, state, z, rng):
  quantize = lambda z: _quantize(components, params, state, z, train=True, rng=rng)
  if state.warm_up is None:
    return quantize(z)
  start = state.warm_up.start
  out = warm_up.quantize_from(start, state.step, quantize, z)
  is_on = state.step >= start
  held = jax.tree.map(
    lambda new, old: jnp.where(is_on, new, old), out.state, state.quantizer
  )
  return out._replace(state=held)


def _init_codes(
  components: Components, state: State, batch: Any, rng: jax.Array
) -> State:
  """Initializes the quantizer from latents of the batch where warm-up ends."""
  if state.warm_up is None:
    return state

  def fit(state):
    x = model.to_model(batch['image'])
    z = components.encoder.apply({'params': state.params['encoder']}, x)
    flat = z.reshape(-1, z.shape[-1])
    params, q_state = components.quantizer.init(rng, flat)
    return state.replace(params=state.params | {'quantizer': params}, quantizer=q_state)

  return jax.lax.cond(
    state.step == state.warm_up.start, fit, lambda state: state, state
  )


def _quantization_error(components: Components, z: jax.Array, values: jax.Array):
  """Returns the mean squared error of a group's vector, in the codewords' space."""
  quantizer = components.quantizer
  width = z.shape[-1] // (quantizer.groups // quantizer.stages)
  return jnp.mean((quantizer.project(z) - values) ** 2) * width


def _revive(
  components: Components, state: State, q_params: Any, q_state: Any, rng: jax.Array
):
  """Moves dead codes in the first `revive_steps` with the quantizer.

  Later the context model, which has learnt what the codes mean, could not follow.
  Nothing moves during warm-up: codes that are not used yet are not dead.
  """
  revive = components.quantizer.revive

  def keep(params, state, rng):
    moved = jax.eval_shape(revive, params, state, rng)[2]
    return params, state, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), moved)

  step = state.step if state.warm_up is None else state.step - state.warm_up.start
  is_due = (step >= 0) & (step < components.config.revive_steps)
  return jax.lax.cond(is_due, revive, keep, q_params, q_state, rng)


def _train_step(components: Components, state: State, batch: Any, rng: jax.Array):
  step_rng, revive_rng = jax.random.split(rng)
  state = _init_codes(components, state, batch, revive_rng)
  grads, (metrics, q_state, error, z) = jax.grad(
    functools.partial(_loss, components), has_aux=True
  )(state.params, state, batch, step_rng)
  tx, rates = components.optimizer(state.params)
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  q_params, q_state, moved = _revive(
    components, state, params['quantizer'], q_state, revive_rng
  )
  for path, mask in jax.tree_util.tree_leaves_with_path(moved):
    name = f'quantizer/{optim.path_name(path)}'
    opt_state = optim.reset_rows(opt_state, name, mask[..., 0])
  params = {**params, 'quantizer': q_params}
  average = state.average
  if average is not None:
    decay = components.config.average_decay
    average = averages.update(average, _networks(params), decay)
  metrics |= {'grad_norm': optax.tree.norm(grads)}
  metrics |= optim.rate_metrics(rates, state.step)
  decay, after = 0.99, state.warm_up
  if after is not None:
    decay = jnp.where(state.step >= after.start, decay, 1.0)  # 1 keeps the average
    metrics |= warm_up.metrics(after, state.step)
    after = components.update_warm_up(after, z, state.step)
  error = averages.update(state.error, error, decay)
  new = State(state.step + 1, params, opt_state, q_state, average, error, after)
  return new, metrics


def _assign(components: Components, state: State, image: jax.Array):
  """Returns the latents float [B, h, w, D] of uint8 images, and them quantized."""
  params = eval_params(state)
  z = components.encoder.apply({'params': params['encoder']}, model.to_model(image))
  return z, _quantize(components, params, state, z, train=False)


def _decode(components: Components, state: State, codes: jax.Array) -> jax.Array:
  """Decodes codes [B, h, w, G] to float images [B, H, W, 3] in about [-1, 1]."""
  params = eval_params(state)
  values = components.quantizer.decode(params['quantizer'], state.quantizer, codes)
  return components.decoder.apply({'params': params['decoder']}, values)


def _eval_step(
  components: Components, state: State, batch: Any
) -> dict[str, jax.Array]:
  _, out = _assign(components, state, batch['image'])
  y = _decode(components, state, out.codes)
  error = model.to_uint8(y).astype(jnp.float32) - batch['image'].astype(jnp.float32)
  mse = jnp.mean(error**2, axis=(1, 2, 3))
  codes_per_pixel = out.codes[0].size / batch['image'][0, ..., 0].size
  metrics = {
    **out.stats,
    'mse': jnp.mean((y - model.to_model(batch['image'])) ** 2),
    'mse255': mse.mean(),
    'psnr': (10 * jnp.log10(255.0**2 / jnp.maximum(mse, 1e-9))).mean(),
    'rate_bpp_static': out.stats['rate_bits'] * codes_per_pixel,
    'counts': _counts(components, out.codes),
  }
  losses = dict(out.losses)
  if components.context is not None:
    bits = _context_bits(components, state.params, state.quantizer, out.codes)
    metrics['rate_bpp'] = bits * codes_per_pixel
    losses['context'] = components.config.context.get('weight', 1.0) * bits
  metrics['loss'] = metrics['mse'] + sum(losses.values())
  return metrics | {f'loss_{name}': value for name, value in losses.items()}


def _images(components: Components, state: State, batch: Any) -> jax.Array:
  _, out = _assign(components, state, batch['image'])
  image = model.to_uint8(_decode(components, state, out.codes))
  return jnp.concatenate([batch['image'], image], axis=2)


def _diagnose(components: Components, state: State, batches: Any) -> dict[str, float]:
  """Measures the distance to the rate–distortion bound on the first batches.

  Returns {} for implicit and summed codebooks.
  """
  params = eval_params(state)
  codebook = components.quantizer.codebook(params['quantizer'], state.quantizer)
  if codebook is None:
    return {}
  assign = jax.jit(functools.partial(_assign, components))
  pairs, count = [], 0
  for batch in batches:
    z, out = assign(state, batch['image'])
    flat = lambda x: np.asarray(x).reshape(-1, x.shape[-1])
    pairs.append((flat(z), flat(out.codes)))
    count += len(pairs[-1][0])
    if count >= diagnose.MAX_LATENTS:
      break
  if not pairs:
    return {}
  z, codes = (np.concatenate(arrays) for arrays in zip(*pairs))
  return diagnose.distance_to_bound(z, codes, codebook)


def _counts(components: Components, codes: jax.Array) -> jax.Array:
  """Counts the uses of each code, float32 [G, K]."""
  return codebook_metrics.count(codes, components.num_codes).astype(jnp.float32)


def _summarize(metrics: dict[str, Any]) -> dict[str, float]:
  """Adds codebook use (means over the groups) and the PSNR of the pooled error."""
  metrics = dict(metrics)
  use = codebook_metrics.summary(metrics.pop('counts'))
  metrics |= {
    'perplexity': use['perplexity'],
    'usage': use['usage'],
    'code_entropy_bits': use['entropy'],
  }
  if 'mse255' in metrics:
    mse = max(metrics['mse255'], 1e-9)
    metrics['psnr_pooled'] = 10 * math.log10(255.0**2 / mse)
  return metrics


def _bundle(components: Components, state: State, metrics: dict[str, Any]):
  """Packs the bundle for the codec; runs on the host."""
  params, q_state = jax.device_get((eval_params(state), state.quantizer))
  error = float(averages.value(state.error))
  return bundle_io.pack(components, params, q_state, error, metrics)
