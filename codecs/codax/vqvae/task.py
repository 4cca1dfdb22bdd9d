"""The VQ-VAE's losses and steps for the shared training loop.

Loss of a step: MSE on [-1, 1] + the quantiser's own losses (commitment, free energy or
entropy term) + the code length of the context model. The context model reads the hard
codes only, so its gradient stops there: it learns beside the networks, in the same
step, and is ready when training ends.

Evaluation decodes what a file would hold, the hard codes, with the averaged parameters
if there are any; PSNR is of 8-bit pixels.
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
from codax.vqvae import bundle_io, diagnose, model
from codax.vqvae import components as parts_lib
from codax.vqvae.components import Parts

_NETWORKS = ('encoder', 'decoder')


@flax.struct.dataclass
class State:
  """Everything a run needs to go on.

  Attributes:
    step: int32.
    params: {'encoder', 'decoder', 'quantizer', 'context'}; 'context' is absent when
      the context model is off.
    opt_state: of the optimiser over `params`.
    quantizer: the quantiser's own state.
    average: running average of params['encoder'] and params['decoder'], or None.
    error: running average of the squared quantisation error of a group's vector.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  quantizer: Any
  average: Any
  error: averages.Average


def make(config: Any) -> Task:
  """The task for `config`; see `configs/vqvae_ba.py` and `defaults` for the keys."""
  parts = parts_lib.make(config)
  with_parts = lambda f: functools.partial(f, parts)
  return Task(
    init=with_parts(_init),
    train_step=with_parts(_train_step),
    eval_step=with_parts(_eval_step),
    images=with_parts(_pictures),
    bundle=with_parts(_bundle),
    summarize=_summarize,
    diagnose=with_parts(_diagnose),
  )


def _networks(params: Any) -> Any:
  return {name: params[name] for name in _NETWORKS}


def eval_params(state: State) -> Any:
  """Parameters with encoder and decoder replaced by their average, if it is kept."""
  if state.average is None:
    return state.params
  return {**state.params, **averages.value(state.average, _networks(state.params))}


def _init(parts: Parts, rng: jax.Array, batch: Any) -> State:
  keys = jax.random.split(rng, 4)
  x = model.to_model(batch['image'])
  latents, encoder_params = parts.encoder.init_with_output(keys[0], x)
  flat = latents.reshape(-1, latents.shape[-1])
  q_params, q_state = parts.quantizer.init(keys[1], flat)
  params = {
    'encoder': encoder_params['params'],
    'decoder': parts.decoder.init(keys[2], latents)['params'],
    'quantizer': q_params,
  }
  if parts.context is not None:
    learnt = context.init(keys[3], parts.context)
    params['context'] = {**learnt, 'embed': 0.1 * learnt['embed']}
  average = None
  if parts.config.get('average_decay', 0.0):
    average = averages.init(_networks(params))
  return State(
    step=jnp.zeros((), jnp.int32),
    params=params,
    opt_state=parts.optimizer(params)[0].init(params),
    quantizer=q_state,
    average=average,
    error=averages.init(jnp.zeros(())),
  )


def _quantize(parts: Parts, params: Any, state: State, z: jax.Array, **kw: Any):
  """The quantiser, and from `context.price_from` on a second pass of it.

  A file's codes are chosen in order, each knowing its neighbours. Here all are chosen
  at once, at the prices that the context model asks given the first pass's codes.
  """
  quantize = functools.partial(
    parts.quantizer.quantize, params['quantizer'], state.quantizer, z, step=state.step
  )
  out = quantize(**kw)
  if parts.context is None or parts.config.context.get('price_from', 1.0) >= 1:
    return out
  codebook = parts_lib.codebook_of(parts, params, state.quantizer)
  learnt = parts_lib.context_params(params['context'], codebook)
  logits = context.logits(learnt, parts.context, out.codes)
  log_prior = jax.lax.stop_gradient(jax.nn.log_softmax(logits))
  start = parts.config.context.price_from * parts.config.total_steps
  return jax.lax.cond(
    state.step >= start, lambda: quantize(log_prior=log_prior, **kw), lambda: out
  )


def _context_bits(parts: Parts, params: Any, q_state: Any, codes: jax.Array):
  """Mean code length under the context model, in bits a code."""
  codebook = parts_lib.codebook_of(parts, params, q_state)
  learnt = parts_lib.context_params(params['context'], codebook)
  return context.bits(learnt, parts.context, codes).mean()


def _loss(parts: Parts, params: Any, state: State, batch: Any, rng: jax.Array):
  """Total loss, and (metrics, quantiser state, mean squared quantisation error)."""
  x = model.to_model(batch['image'])
  z = parts.encoder.apply({'params': params['encoder']}, x)
  out = _quantize(parts, params, state, z, train=True, rng=rng)
  y = parts.decoder.apply({'params': params['decoder']}, out.values)
  mse = jnp.mean((y - x) ** 2)
  losses = dict(out.losses)
  metrics = {'mse': mse, **out.stats}
  error = jnp.mean((z - out.values) ** 2) * (z.shape[-1] // parts.groups)
  if parts.context is not None:
    bits = _context_bits(parts, params, state.quantizer, out.codes)
    losses['context'] = parts.config.context.get('weight', 1.0) * bits
    metrics['context_bits'] = bits
  total = mse + sum(losses.values())
  metrics |= {'loss': total, **{f'loss_{k}': v for k, v in losses.items()}}
  metrics['counts'] = _counts(parts, out.codes)
  return total, (metrics, out.state, error)


def _revive(parts: Parts, step: jax.Array, q_params: Any, q_state: Any, rng: jax.Array):
  """Moves dead codes in the first `revive_steps`: later the context model, which has
  learnt what the codes mean, could not follow."""
  revive = parts.quantizer.revive

  def keep(params, state, rng):
    moved = jax.eval_shape(revive, params, state, rng)[2]
    return params, state, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), moved)

  return jax.lax.cond(
    step < parts.config.revive_steps, revive, keep, q_params, q_state, rng
  )


def _train_step(parts: Parts, state: State, batch: Any, rng: jax.Array):
  step_rng, revive_rng = jax.random.split(rng)
  grads, (metrics, q_state, error) = jax.grad(
    functools.partial(_loss, parts), has_aux=True
  )(state.params, state, batch, step_rng)
  tx, rates = parts.optimizer(state.params)
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  q_params, q_state, moved = _revive(
    parts, state.step, params['quantizer'], q_state, revive_rng
  )
  for name, mask in moved.items():
    opt_state = optim.reset_rows(opt_state, f'quantizer/{name}', mask[..., 0])
  params = {**params, 'quantizer': q_params}
  average = state.average
  if average is not None:
    decay = parts.config.average_decay
    average = averages.update(average, _networks(params), decay)
  metrics |= {'grad_norm': optax.global_norm(grads)}
  metrics |= optim.rate_metrics(rates, state.step)
  error = averages.update(state.error, error, 0.99)
  return State(state.step + 1, params, opt_state, q_state, average, error), metrics


def _assign(parts: Parts, state: State, image: jax.Array):
  """Latents float [B, h, w, D] of uint8 images and what the quantiser makes of them."""
  params = eval_params(state)
  z = parts.encoder.apply({'params': params['encoder']}, model.to_model(image))
  return z, _quantize(parts, params, state, z, train=False)


def _reconstruct(parts: Parts, state: State, codes: jax.Array) -> jax.Array:
  """Codes [B, h, w, G] to uint8 images [B, H, W, 3]."""
  params = eval_params(state)
  values = parts.quantizer.decode(params['quantizer'], state.quantizer, codes)
  return model.to_uint8(parts.decoder.apply({'params': params['decoder']}, values))


def _eval_step(parts: Parts, state: State, batch: Any) -> dict[str, jax.Array]:
  _, out = _assign(parts, state, batch['image'])
  image = _reconstruct(parts, state, out.codes)
  error = image.astype(jnp.float32) - batch['image'].astype(jnp.float32)
  mse = jnp.mean(error**2, axis=(1, 2, 3))
  codes_per_pixel = out.codes[0].size / batch['image'][0, ..., 0].size
  metrics = {
    'mse255': mse.mean(),
    'psnr': (10 * jnp.log10(255.0**2 / jnp.maximum(mse, 1e-9))).mean(),
    'rate_bpp_static': out.stats['rate_bits'] * codes_per_pixel,
    'counts': _counts(parts, out.codes),
  }
  if parts.context is not None:
    bits = _context_bits(parts, state.params, state.quantizer, out.codes)
    metrics['rate_bpp'] = bits * codes_per_pixel
  return metrics


def _pictures(parts: Parts, state: State, batch: Any) -> jax.Array:
  _, out = _assign(parts, state, batch['image'])
  image = _reconstruct(parts, state, out.codes)
  return jnp.concatenate([batch['image'], image], axis=2)


def _diagnose(parts: Parts, state: State, batches: Any) -> dict[str, float]:
  """The distance to the rate–distortion bound, on as many batches as it takes."""
  assign = jax.jit(functools.partial(_assign, parts))
  found, count = [], 0
  for batch in batches:
    z, out = assign(state, batch['image'])
    flat = lambda x: np.asarray(x).reshape(-1, x.shape[-1])
    found.append((flat(z), flat(out.codes)))
    count += len(found[-1][0])
    if count >= diagnose.MAX_LATENTS:
      break
  if not found:
    return {}
  z, codes = (np.concatenate(arrays) for arrays in zip(*found))
  codebook = parts_lib.codebook_of(parts, eval_params(state), state.quantizer)
  return diagnose.distance_to_bound(z, codes, codebook)


def _counts(parts: Parts, codes: jax.Array) -> jax.Array:
  """How often each code is used, float32 [G, K]."""
  return codebook_metrics.count(codes, parts.num_codes).astype(jnp.float32)


def _summarize(metrics: dict[str, Any]) -> dict[str, float]:
  """Counts of codes to perplexity, usage and entropy (means over the groups), and the
  PSNR of the pooled error beside the mean of the pictures' PSNRs."""
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


def _bundle(parts: Parts, state: State, metrics: dict[str, Any]):
  """What the codec needs; runs on the host."""
  params, q_state = jax.device_get((eval_params(state), state.quantizer))
  error = float(averages.value(state.error))
  return bundle_io.pack(parts, params, q_state, error, metrics)
