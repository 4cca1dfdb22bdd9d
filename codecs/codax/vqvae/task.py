"""The VQ-VAE's losses and steps for the shared training loop.

Loss of a step: MSE on [-1, 1] + the quantiser's own losses (commitment, free energy or
entropy term) + the code length of the context model. The context model reads the hard
codes only, so its gradient stops there: it learns beside the networks, in the same
step, and is ready when training ends.

Evaluation decodes what a file would hold, the hard codes, with the averaged parameters
if there are any; PSNR is of 8-bit pixels.
"""

import functools
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from codax import averages
from codax import bundle as bundles
from codax.entropy import context
from codax.errors import CodaxError, unknown
from codax.quantize import get as get_quantizer
from codax.training import optim
from codax.training.task import Task
from codax.vqvae import diagnose, model

FAMILY = 'vqvae'


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


def model_config(config: Any) -> model.ModelConfig:
  """`config.model` as a `ModelConfig`, unknown keys and bad values refused."""
  given = dict(config.model)
  for key in given:
    if key not in model.ModelConfig._fields:
      raise unknown('config key in model:', key, model.ModelConfig._fields)
  cfg = model.ModelConfig(**given)
  if cfg.resample not in model.RESAMPLE:
    raise unknown('model.resample', cfg.resample, model.RESAMPLE)
  if cfg.activation not in model.ACTIVATIONS:
    raise unknown('model.activation', cfg.activation, model.ACTIVATIONS)
  if cfg.factor < 2 or cfg.factor & (cfg.factor - 1):
    raise CodaxError(f'model.factor = {cfg.factor} is not a power of two >= 2')
  return cfg


def context_config(config: Any) -> context.ContextConfig | None:
  """`config.context` as a `ContextConfig`; None when `enabled` is false."""
  given = dict(config.context)
  if not given.pop('enabled', True):
    return None
  own = ('weight', 'rate', 'weight_decay')
  given = {key: value for key, value in given.items() if key not in own}
  valid = set(context.ContextConfig._fields) - {'codes', 'groups'}
  for key in given:
    if key not in valid:
      raise unknown('config key in context:', key, valid | {'enabled', *own})
  if 'layers' in given:
    given['layers'] = tuple(given['layers'])
  if 'offsets' in given:
    given['offsets'] = tuple(tuple(o) for o in given['offsets'])
  groups = config.quantizer.get('groups', 1)
  return context.check_config(
    context.ContextConfig(codes=config.quantizer.num_codes, groups=groups, **given)
  )


def quantizer(config: Any):
  """The quantiser that `config.quantizer` (name and knobs) describes."""
  knobs = dict(config.quantizer)
  return get_quantizer(knobs.pop('name'), **knobs)


def _optimizer_config(config: Any, with_context: bool) -> dict[str, Any]:
  """`config.optimizer` with the context model's own rate and weight decay.

  The context model sees few codes and has many weights, so it wants a higher rate and
  a decay that would harm the networks.
  """
  options = dict(config.optimizer)
  if not with_context:
    return options
  rate = config.context.get('rate', 1.0)
  decay = config.context.get('weight_decay', 0.0)
  if rate != 1.0:
    options['groups'] = (*options.get('groups', ()), ('^context/', rate))
  if decay:
    if options.get('weight_decay'):
      raise CodaxError(
        'optimizer.weight_decay and context.weight_decay are both set: give one'
      )
    options |= {'weight_decay': decay, 'decay_pattern': '^context/.*kernel'}
  return options


def make(config: Any) -> Task:
  """The task for `config`; see `configs/vqvae_ba.py` for the keys."""
  cfg, ctx, quant = model_config(config), context_config(config), quantizer(config)
  encoder, decoder = model.Encoder(cfg), model.Decoder(cfg)
  optimizer_config = _optimizer_config(config, ctx is not None)
  optimizer = lambda params: optim.make(optimizer_config, config.total_steps, params)
  decay = config.get('average_decay', 0.0)
  context_weight = config.context.get('weight', 1.0)
  num_groups = config.quantizer.get('groups', 1)
  codebook = functools.partial(codebook_of, quant, config)

  def init(rng, batch):
    keys = jax.random.split(rng, 4)
    x = model.to_model(batch['image'])
    latents, encoder_params = encoder.init_with_output(keys[0], x)
    flat = latents.reshape(-1, latents.shape[-1])
    q_params, q_state = quant.init(keys[1], flat)
    params = {
      'encoder': encoder_params['params'],
      'decoder': decoder.init(keys[2], latents)['params'],
      'quantizer': q_params,
    }
    if ctx is not None:
      learnt = context.init(keys[3], ctx)
      params['context'] = {**learnt, 'embed': 0.1 * learnt['embed']}
    own = {k: params[k] for k in ('encoder', 'decoder')}
    return State(
      step=jnp.zeros((), jnp.int32),
      params=params,
      opt_state=optimizer(params)[0].init(params),
      quantizer=q_state,
      average=averages.init(own) if decay else None,
      error=averages.init(jnp.zeros(())),
    )

  def loss_fn(params, state, batch, rng):
    x = model.to_model(batch['image'])
    z = encoder.apply({'params': params['encoder']}, x)
    out = quant.quantize(
      params['quantizer'], state.quantizer, z, train=True, rng=rng, step=state.step
    )
    y = decoder.apply({'params': params['decoder']}, out.values)
    mse = jnp.mean((y - x) ** 2)
    losses = dict(out.losses)
    metrics = {'mse': mse, **out.stats}
    error = jnp.mean((z - out.values) ** 2) * (z.shape[-1] // num_groups)
    if ctx is not None:
      learnt = context_params(params['context'], codebook(params, state.quantizer))
      bits = context.bits(learnt, ctx, out.codes).mean()
      # mean bits are ~100 times the MSE: the weight keeps a shared clip norm fair
      losses['context'] = context_weight * bits
      metrics['context_bits'] = bits
    total = mse + sum(losses.values())
    metrics |= {'loss': total, **{f'loss_{k}': v for k, v in losses.items()}}
    metrics['counts'] = _counts(out.codes, config.quantizer.num_codes)
    return total, (metrics, out.state, error)

  def revive(step, q_params, q_state, rng):
    """Moves dead codes in the first `revive_steps`: later the context model, which
    has learnt what the codes mean, could not follow."""

    def keep(params, state, rng):
      shapes = jax.eval_shape(quant.revive, params, state, rng)[2]
      return params, state, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    return jax.lax.cond(
      step < config.revive_steps, quant.revive, keep, q_params, q_state, rng
    )

  def train_step(state, batch, rng):
    step_rng, revive_rng = jax.random.split(rng)
    grads, (metrics, q_state, error) = jax.grad(loss_fn, has_aux=True)(
      state.params, state, batch, step_rng
    )
    tx, rates = optimizer(state.params)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    q_params, q_state, moved = revive(
      state.step, params['quantizer'], q_state, revive_rng
    )
    for name, mask in moved.items():
      opt_state = optim.reset_rows(opt_state, f'quantizer/{name}', mask[..., 0])
    params = {**params, 'quantizer': q_params}
    average = state.average
    if average is not None:
      own = {k: params[k] for k in ('encoder', 'decoder')}
      average = averages.update(average, own, decay)
    metrics |= {'grad_norm': optax.global_norm(grads)}
    metrics |= optim.rate_metrics(rates, state.step)
    error = averages.update(state.error, error, 0.99)
    state = State(state.step + 1, params, opt_state, q_state, average, error)
    return state, metrics

  def forward(state, batch):
    params = eval_params(state)
    x = model.to_model(batch['image'])
    z = encoder.apply({'params': params['encoder']}, x)
    out = quant.quantize(
      params['quantizer'], state.quantizer, z, train=False, step=state.step
    )
    values = quant.decode(params['quantizer'], state.quantizer, out.codes)
    return out, model.to_uint8(decoder.apply({'params': params['decoder']}, values))

  def eval_step(state, batch):
    out, image = forward(state, batch)
    error = image.astype(jnp.float32) - batch['image'].astype(jnp.float32)
    mse = jnp.mean(error**2, axis=(1, 2, 3))
    codes_per_pixel = out.codes[0].size / batch['image'][0, ..., 0].size
    metrics = {
      'mse255': mse.mean(),
      'psnr': (10 * jnp.log10(255.0**2 / jnp.maximum(mse, 1e-9))).mean(),
      'rate_bpp_static': out.stats['rate_bits'] * codes_per_pixel,
      'counts': _counts(out.codes, config.quantizer.num_codes),
    }
    if ctx is not None:
      learnt = context_params(
        state.params['context'], codebook(state.params, state.quantizer)
      )
      bits = context.bits(learnt, ctx, out.codes)
      metrics['rate_bpp'] = bits.mean() * codes_per_pixel
    return metrics

  def pictures(state, batch):
    _, image = forward(state, batch)
    return jnp.concatenate([batch['image'], image], axis=2)

  @jax.jit
  def assign(state, image):
    params = eval_params(state)
    z = encoder.apply({'params': params['encoder']}, model.to_model(image))
    out = quant.quantize(
      params['quantizer'], state.quantizer, z, train=False, step=state.step
    )
    return z, out.codes

  def diagnose_(state, batches):
    found, count = [], 0
    for batch in batches:
      z, codes = jax.device_get(assign(state, batch['image']))
      found.append((z.reshape(-1, z.shape[-1]), codes.reshape(-1, codes.shape[-1])))
      count += len(found[-1][0])
      if count >= diagnose.MAX_LATENTS:
        break
    z, codes = (np.concatenate(parts) for parts in zip(*found))
    book = codebook(eval_params(state), state.quantizer)
    return diagnose.distance_to_bound(z, codes, book)

  return Task(
    init=init,
    train_step=train_step,
    eval_step=eval_step,
    pictures=pictures,
    bundle=functools.partial(_bundle, config, ctx, quant),
    summarise=_summarise,
    diagnose=diagnose_,
  )


def eval_params(state: State) -> Any:
  """Parameters with encoder and decoder replaced by their average, if it is kept."""
  if state.average is None:
    return state.params
  own = {k: state.params[k] for k in ('encoder', 'decoder')}
  return {**state.params, **averages.value(state.average, own)}


def _counts(codes: jax.Array, num_codes: int) -> jax.Array:
  """Codes [..., G] to how often each is used, float32 [G, K]."""
  flat = codes.reshape(-1, codes.shape[-1]).T
  return jax.vmap(lambda c: jnp.zeros(num_codes, jnp.float32).at[c].add(1.0))(flat)


def _summarise(metrics: dict[str, Any]) -> dict[str, float]:
  """Counts of codes to perplexity, usage and entropy (means over the groups)."""
  metrics = dict(metrics)
  counts = np.asarray(metrics.pop('counts'), np.float64)
  p = counts / np.maximum(counts.sum(-1, keepdims=True), 1)
  bits = -(p * np.log2(np.where(p > 0, p, 1))).sum(-1)
  return {
    **metrics,
    'perplexity': float((2**bits).mean()),
    'usage': float((counts > 0).mean()),
    'code_entropy_bits': float(bits.mean()),
  }


def _bundle(config, ctx, quant, state: State, metrics: dict[str, Any]):
  """What the codec needs: weights, codebook state, integer tables; on the host."""
  from codax.entropy import context_coder, tables  # host-side only

  params = jax.device_get(eval_params(state))
  q_state = jax.device_get(state.quantizer)
  arrays = bundles.flatten({k: params[k] for k in ('encoder', 'decoder')})
  codebook = codebook_of(quant, config, params, q_state)
  arrays['codebook'] = np.asarray(codebook, np.float32)
  prior = np.asarray(quant.code_prior(q_state), np.float64)
  arrays['prior'] = tables.quantize_pmf(prior).astype(np.int32)
  arrays['sigma2'] = np.asarray(averages.value(state.error), np.float32)
  if ctx is not None:
    learnt = jax.device_get(context_params(params['context'], codebook))
    integers = context_coder.to_arrays(context_coder.to_int(learnt, ctx))
    arrays |= {f'context/{name}': array for name, array in integers.items()}
  return bundles.make(FAMILY, config.to_dict(), arrays, metrics)


def context_params(params: Any, codebook: jax.Array) -> Any:
  """The context model's parameters with codewords added to the learnt embedding.

  Codes whose codewords are close are close for the context model too, before it has
  seen either; it learns faster and overfits less than from a table of its own.

  Args:
    params: learnt; 'embed' is float32 [G, K+1, e], a correction to the codewords.
    codebook: float32 [G, K, d]; its first e columns are used, at unit variance.
  """
  held = jax.lax.stop_gradient(codebook)
  held = held - held.mean(1, keepdims=True)
  held = held / jnp.maximum(jnp.sqrt((held**2).mean((1, 2), keepdims=True)), 1e-6)
  learnt = params['embed']
  width = min(held.shape[-1], learnt.shape[-1])
  extra = (0, 0), (0, 1), (0, learnt.shape[-1] - width)
  return {**params, 'embed': learnt + jnp.pad(held[..., :width], extra)}


def codebook_of(quant, config: Any, params: Any, q_state: Any) -> jax.Array:
  """The codebook [G, K, d], read through `decode` so that any quantiser will do."""
  groups = config.quantizer.get('groups', 1)
  codes = jnp.arange(config.quantizer.num_codes)
  codes = jnp.broadcast_to(codes[:, None], (len(codes), groups))
  vectors = quant.decode(params['quantizer'], q_state, codes)
  return jnp.moveaxis(vectors.reshape(len(codes), groups, -1), 1, 0)
