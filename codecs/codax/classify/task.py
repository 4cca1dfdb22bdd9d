"""Training of classifiers for the shared loop: losses, steps, moving grids."""

import functools
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from codax import config as config_lib
from codax.classify import architecture, augment, bundle_io, network
from codax.classify.architecture import ModelConfig
from codax.classify.network import Network
from codax.config import check_present
from codax.errors import CodaxError
from codax.layers import kan_grids
from codax.training import optim, settings
from codax.training.task import Task

_SECTIONS = ('data', 'model', 'optimizer', 'training')
_RANGE_RATE = 0.05  # of the running ranges of inputs
TOP = 5  # 'top5' counts images whose class is among so many


@flax.struct.dataclass
class State:
  """State of a run, complete for going on.

  Attributes:
    step: number of steps so far, int32.
    params: arrays that learn.
    opt_state: optimizer state over `params`.
    stats: running statistics of the batch normalizations.
    grids: grids of the KAN layers.
    ranges: {'kan_I': {'low', 'high'}}, running ranges of the inputs of KAN layers.
    clipped: number of steps whose gradient was clipped, int32.
    tries: number of steps that tried to move the grids, int32.
    moves: number of steps that moved a grid, int32.
    moved_shares: sum over `tries` of the share of inputs whose grid moved, float32.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  stats: Any
  grids: Any
  ranges: Any
  clipped: jax.Array
  tries: jax.Array
  moves: jax.Array
  moved_shares: jax.Array


class TrainingConfig(NamedTuple):
  """The section `training` of a configuration.

  Attributes:
    label_smoothing: share of the probability that goes to all classes alike.
    shift: greatest shift of training images, in pixels.
    erase: side of the squares that are erased in them; 0 is none.
    grid_update_prob: chance that a step tries to move the grids.
    grid_update_until: share of the steps after which grids rest.
    grid_tolerance: greatest change of a layer's outputs by a move, in root mean
      squares of these outputs, see `kan_grids.move`.
    sparsity: weight of the mean edge norm in the loss.
    entropy: weight of the entropy of the edge norms.
  """

  label_smoothing: float = 0.0
  shift: int = 0
  erase: int = 0
  grid_update_prob: float = 0.0
  grid_update_until: float = 0.5
  grid_tolerance: float = kan_grids.TOLERANCE
  sparsity: float = 0.0
  entropy: float = 0.0


_RANGES = {
  'label_smoothing': (0, 0.9),
  'shift': (0, 64),
  'erase': (0, 1024),
  'grid_update_prob': (0, 1),
  'grid_update_until': (0, 1),
  'grid_tolerance': (0, None),
  'sparsity': (0, None),
  'entropy': (0, None),
}


class _Parts(NamedTuple):
  """Whole configuration, checked architecture and settings."""

  config: Any
  model: ModelConfig
  training: TrainingConfig


def make(config: Any) -> Task:
  """Makes the task for `config`; `codax.classify.defaults` has the keys.

  Raises:
    CodaxError: an unknown key, or a value that is not valid.
  """
  settings.check_keys(config, _SECTIONS)
  check_present(config, (*_SECTIONS, 'total_steps'))
  training = config_lib.parse(
    config.training, TrainingConfig, 'config.training', ranges=_RANGES
  )
  parts = _Parts(config, architecture.read(config.model), training)
  _check_used(parts.model, training)
  bind = lambda f: functools.partial(f, parts)
  return Task(
    init=bind(_init),
    train_step=bind(_train_step),
    eval_step=bind(_eval_step),
    bundle=bind(_bundle),
    summarize=_summarize,
    report=bind(_report),
    score='accuracy',
    classes=parts.model.classes,
  )


def _check_used(model: ModelConfig, training: TrainingConfig) -> None:
  """Refuses settings of edges and grids that would change nothing.

  Raises:
    CodaxError: such a setting.
  """
  prefix = 'config.training.'
  if model.head != 'kan':
    for key in ('grid_update_prob', 'sparsity', 'entropy'):
      if getattr(training, key):
        raise CodaxError(
          f'{prefix}{key} is set, but a head {model.head!r} has no edges'
        )
  limits = 'grid_update_until', 'grid_tolerance'
  if not training.grid_update_prob:
    for key in limits:
      if getattr(training, key) != TrainingConfig._field_defaults[key]:
        raise CodaxError(f'{prefix}{key} is set, but {prefix}grid_update_prob is 0')
    return
  for key in limits:
    if not getattr(training, key):
      raise CodaxError(
        f'{prefix}grid_update_prob is set, but no grid moves: {key} is 0'
      )
  if model.form == 'recursion':
    raise CodaxError(
      f"{prefix}grid_update_prob is set, but splines of form 'recursion' end with "
      'their grid: another one has other functions'
    )


def _optimizer(parts: _Parts, params: Any):
  return optim.make(parts.config.optimizer, parts.config.total_steps, params)


def _init(parts: _Parts, rng: jax.Array, batch: Any) -> State:
  drawn = network.init(rng, parts.model, batch['image'].shape[1:])
  zero = jnp.zeros((), jnp.int32)
  return State(
    step=zero,
    params=drawn.params,
    opt_state=_optimizer(parts, drawn.params)[0].init(drawn.params),
    stats=drawn.stats,
    grids=drawn.grids,
    ranges=drawn.grids,
    clipped=zero,
    tries=zero,
    moves=zero,
    moved_shares=jnp.zeros((), jnp.float32),
  )


def _get_network(state: State) -> Network:
  return Network(state.params, state.stats, state.grids)


def _loss(parts: _Parts, params: Any, state: State, images, labels, rng):
  """Returns the loss of a batch, and (output, metrics)."""
  out = network.apply(
    _get_network(state.replace(params=params)), parts.model, images, rng
  )
  smoothing = parts.training.label_smoothing
  targets = optax.smooth_labels(jax.nn.one_hot(labels, parts.model.classes), smoothing)
  loss = optax.softmax_cross_entropy(out.logits, targets).mean()
  metrics = {'cross_entropy': loss, 'accuracy': _share(out.logits.argmax(-1) == labels)}
  weights = parts.training.sparsity, parts.training.entropy
  if any(weights):
    pairs = [
      kan_grids.compute_penalties(params[name], state.grids[name], parts.model.spec)
      for name in state.grids
    ]
    for name, weight, values in zip(('sparsity', 'entropy'), weights, zip(*pairs)):
      metrics[name] = sum(values) / len(pairs)
      loss = loss + weight * metrics[name]
  return loss, (out, metrics | {'loss': loss})


def _share(is_true: jax.Array) -> jax.Array:
  return is_true.astype(jnp.float32).mean()


def _train_step(parts: _Parts, state: State, batch: Any, rng: jax.Array):
  keys = jax.random.split(rng, 4)
  images = augment.shift(batch['image'], keys[0], parts.training.shift)
  images = augment.erase(images, keys[1], parts.training.erase)
  grads, (out, metrics) = jax.grad(functools.partial(_loss, parts), has_aux=True)(
    state.params, state, images, batch['label'], keys[2]
  )
  tx, rates = _optimizer(parts, state.params)
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  norm, clip = optax.tree.norm(grads), parts.config.optimizer.clip_norm
  clipped = state.clipped + (norm > clip if clip else 0)
  new = state.replace(
    step=state.step + 1,
    params=optax.apply_updates(state.params, updates),
    opt_state=opt_state,
    stats=out.stats,
    clipped=clipped,
  )
  metrics |= {'grad_norm': norm, 'clipped_share': clipped / new.step}
  if state.grids:
    metrics |= {
      f'outside_grid/{name}': kan_grids.compute_share_outside(state.grids[name], x)
      for name, x in out.seen.items()
    }
    if parts.training.grid_update_prob:
      new = new.replace(ranges=_update_ranges(state.ranges, out.seen, state.step))
      new = _maybe_move(parts, new, out.seen, keys[3])
      metrics['moved_share'] = new.moved_shares / jnp.maximum(new.tries, 1)
  return new, metrics | optim.rate_metrics(rates, state.step)


def _update_ranges(ranges: Any, seen: Any, step: jax.Array) -> Any:
  """Moves running ranges towards those of a batch; the first batch sets them."""
  share = jnp.where(step == 0, 1.0, _RANGE_RATE)
  of_batch = {name: {'low': x.min(0), 'high': x.max(0)} for name, x in seen.items()}
  return jax.tree.map(lambda old, new: old + share * (new - old), ranges, of_batch)


def _maybe_move(parts: _Parts, state: State, seen: Any, rng: jax.Array) -> State:
  """Tries to move the grids, with the chance of the configuration.

  The parameters are those after the step, the inputs those before it. First moments of
  coefficients belong to the old basis functions, and are set to 0; second moments stay.
  """
  training = parts.training
  last = training.grid_update_until * parts.config.total_steps
  is_tried = jax.random.bernoulli(rng, training.grid_update_prob) & (state.step <= last)
  layers = {name: state.params[name] for name in seen}

  def move(layers: Any, grids: Any) -> dict[str, kan_grids.Moved]:
    return {
      name: kan_grids.move(
        layers[name], grids[name], x, parts.model.spec, ranges=state.ranges[name],
        tolerance=training.grid_tolerance,
      )
      for name, x in seen.items()
    }  # fmt: skip

  def stay(layers: Any, grids: Any) -> dict[str, kan_grids.Moved]:
    is_moved = lambda x: jnp.zeros(x.shape[1], bool)
    return {
      name: kan_grids.Moved(layers[name], grids[name], is_moved(x))
      for name, x in seen.items()
    }

  outcome = jax.lax.cond(is_tried, move, stay, layers, state.grids)
  opt_state = state.opt_state
  for name, layer in outcome.items():
    rows = jnp.broadcast_to(
      layer.is_moved[None], (parts.model.spec.size, len(layer.is_moved))
    )
    opt_state = optim.reset_rows(opt_state, f'{name}/spline', rows, has_same_scale=True)
  share = _share(jnp.concatenate([layer.is_moved for layer in outcome.values()]))
  return state.replace(
    params=state.params | {name: layer.params for name, layer in outcome.items()},
    grids={name: layer.grids for name, layer in outcome.items()},
    opt_state=opt_state,
    tries=state.tries + is_tried,
    moves=state.moves + (share > 0),
    moved_shares=state.moved_shares + share,
  )


def _eval_step(parts: _Parts, state: State, batch: Any) -> dict[str, jax.Array]:
  logits, labels = (
    network.predict(_get_network(state), parts.model, batch['image']),
    batch['label'],
  )
  loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
  order = jnp.argsort(-logits, -1)
  hits = order[:, :TOP] == labels[:, None]
  one_hot = functools.partial(jax.nn.one_hot, num_classes=parts.model.classes)
  return {
    'loss': loss,
    'accuracy': _share(hits[:, 0]),
    'top5': _share(hits.any(-1)),
    'confusion': one_hot(labels).T @ one_hot(order[:, 0]),
    'grid_updates': state.moves.astype(jnp.float32),
  }


def _summarize(metrics: dict[str, Any]) -> dict[str, float]:
  """Adds the accuracy of the worst class to an evaluation, whose counts end here."""
  out = {k: v for k, v in metrics.items() if np.ndim(v) == 0}
  counts = metrics.get('confusion')
  if counts is not None:
    seen = np.maximum(counts.sum(1), 1)
    shares = np.diag(counts) / seen
    out['worst_class'] = float(shares[counts.sum(1) > 0].min(initial=1.0))
  return out


def _report(parts: _Parts, state: State, batches: Any, workdir: Any) -> None:
  """Draws the figures of a run."""
  from codax.classify import figures

  step = jax.jit(lambda state, batch: _eval_step(parts, state, batch)['confusion'])
  counts = sum(np.asarray(step(state, batch)) for batch in batches)
  figures.write(workdir, counts, jax.device_get(_get_network(state)), parts.model)


def _bundle(parts: _Parts, state: State, metrics: dict[str, Any]):
  """Packs the network for `launch/evaluate.py --probe`; runs on the host."""
  arrays = jax.device_get(_get_network(state))
  return bundle_io.pack(parts.config, arrays, metrics)
