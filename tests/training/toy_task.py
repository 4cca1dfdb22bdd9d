"""A linear autoencoder on 8 x 8 images, with every kind of state that a task has."""

from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from codax import averages, bundle
from codax.training import optim
from codax.training.task import Task

SIZE, CODES = 8, 16


class Pipeline(NamedTuple):
  arrays: Any
  sample: Any
  host_batch: Any


@flax.struct.dataclass
class State:
  step: jax.Array
  params: Any
  opt_state: Any
  average: averages.Average
  counts: jax.Array
  half: jax.Array
  empty: jax.Array


def config(**changes):
  out = ml_collections.ConfigDict(
    {
      'seed': 3,
      'family': 'toy',
      'total_steps': 20,
      'steps_per_call': 1,
      'log_every': 5,
      'eval_every': 10,
      'checkpoint_every': 5,
      'keep_checkpoints': 3,
      'keep_images': 2,
      'max_seconds': 0.0,
      'data': {'batch_size': 8},
      'optimizer': {
        'name': 'adamw',
        'learning_rate': 0.01,
        'schedule': 'cosine',
        'groups': (('decoder', 0.5),),
      },
      'nan_at': -1,
    }
  )
  with out.unlocked():
    out.update_from_flattened_dict(changes)
  return out


def make_images(n=32, seed=0):
  rng = np.random.default_rng(seed)
  ramp = np.linspace(0, 1, SIZE)
  base = rng.uniform(0, 1, (n, 1, 1, 3)) * ramp[:, None, None] + ramp[None, :, None]
  return np.uint8(255 * np.clip(base / 2 + rng.normal(0, 0.05, base.shape), 0, 1))


def resident(batch_size=8):
  def sample(arrays, rng):
    index = jax.random.randint(rng, (batch_size,), 0, arrays['images'].shape[0])
    return {'image': arrays['images'][index]}

  return Pipeline({'images': make_images()}, sample, None)


def hosted(batch_size=8, fail_at=None):
  images = make_images()

  def host_batch(step, shard=0, shards=1):
    if step == fail_at:
      raise ValueError(f'no batch {step}')
    index = np.random.default_rng((5, step)).integers(0, len(images), batch_size)
    local = batch_size // shards
    return {'image': images[index][shard * local : (shard + 1) * local]}

  return Pipeline(None, None, host_batch)


def eval_batches():
  images = make_images(7, seed=9)
  return [{'image': images[:4]}, {'image': images[4:]}]


def make(cfg, traces=None):
  """The task; `traces` is a dict that counts how often each function is traced."""
  traces = {} if traces is None else traces

  def count(name):
    traces[name] = traces.get(name, 0) + 1

  def flat(batch):
    x = batch['image'].astype(jnp.float32) / 255
    return x.reshape(x.shape[0], -1)

  def loss_fn(params, x, noise):
    code = x @ params['encoder'] + noise
    out = code @ params['decoder']['kernel'] + params['decoder']['bias'][None]
    return jnp.mean((out - x) ** 2), (code, out)

  def tx(params):
    return optim.make(cfg.optimizer, cfg.total_steps, params)

  def init(rng, batch):
    count('init')
    keys = jax.random.split(rng, 2)
    n = flat(batch).shape[1]
    params = {
      'encoder': 0.1 * jax.random.normal(keys[0], (n, 4)),
      'decoder': {
        'kernel': 0.1 * jax.random.normal(keys[1], (4, n)),
        'bias': jnp.mean(flat(batch), 0),
      },
    }
    return State(
      step=jnp.zeros((), jnp.int32),
      params=params,
      opt_state=tx(params)[0].init(params),
      average=averages.init(params),
      counts=jnp.zeros((CODES,), jnp.int32),
      half=jnp.full((3,), 1.0, jnp.bfloat16),
      empty=jnp.zeros((0, 4)),
    )

  def train_step(state, batch, rng):
    count('train')
    x = flat(batch)
    noise = 0.05 * jax.random.normal(rng, (x.shape[0], 4))
    grad = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (code, _)), grads = grad(state.params, x, noise)
    transform, rates = tx(state.params)
    updates, opt_state = transform.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    loss = jnp.where(state.step == cfg.nan_at, jnp.nan, loss)
    counts = _counts(code)
    metrics = {
      'loss': loss,
      'bpp': jnp.mean(jnp.abs(code)),
      'counts': counts.astype(jnp.float32),
      **optim.rate_metrics(rates, state.step),
    }
    new = state.replace(
      step=state.step + 1,
      params=params,
      opt_state=opt_state,
      average=averages.update(state.average, params, 0.9),
      counts=state.counts + counts,
      half=state.half * 0.99,
    )
    return new, metrics

  def eval_step(state, batch):
    count('eval')
    x = flat(batch)
    loss, (code, _) = loss_fn(averages.value(state.average, state.params), x, 0.0)
    return {'loss': loss, 'counts': _counts(code).astype(jnp.float32)}

  def draw(state, batch):
    x = flat(batch)
    _, (_, out) = loss_fn(state.params, x, 0.0)
    out = jnp.uint8(jnp.clip(jnp.round(out * 255), 0, 255)).reshape(
      batch['image'].shape
    )
    return jnp.concatenate([batch['image'], out], axis=2)

  def summarize(metrics):
    metrics = dict(metrics)
    p = metrics.pop('counts')
    p = p[p > 0] / p.sum()
    return {**metrics, 'perplexity': np.exp(-np.sum(p * np.log(p)))}

  def export(state, metrics):
    arrays = bundle.flatten(jax.device_get(state.params))
    return bundle.make('toy', cfg.to_dict(), arrays, metrics)

  return Task(init, train_step, eval_step, draw, export, summarize)


def _counts(code):
  index = jnp.clip(jnp.floor(jnp.sum(code, -1) * 4) + CODES // 2, 0, CODES - 1)
  return jnp.sum(jax.nn.one_hot(index.astype(jnp.int32), CODES, dtype=jnp.int32), 0)
