"""A family that is no codec: tells bright crops from dark ones by one weight."""

import flax.struct
import jax
import jax.numpy as jnp
import optax

from codax.training.task import Task

TX = optax.sgd(1.0)


@flax.struct.dataclass
class State:
  step: jax.Array
  params: dict
  opt_state: tuple


def make(config):
  del config

  def logits_and_labels(params, batch):
    level = batch['image'].astype(jnp.float32).mean((1, 2, 3)) / 255
    return 10 * (params['w'] * level + params['b']), level > 0.5

  def loss_fn(params, batch):
    logits, labels = logits_and_labels(params, batch)
    return optax.sigmoid_binary_cross_entropy(logits, labels).mean()

  def init(rng, batch):
    del rng, batch
    params = {'w': jnp.zeros(()), 'b': jnp.zeros(())}
    return State(jnp.int32(0), params, TX.init(params))

  def train_step(state, batch, rng):
    del rng
    loss, grads = jax.value_and_grad(loss_fn)(state.params, batch)
    updates, opt_state = TX.update(grads, state.opt_state)
    params = optax.apply_updates(state.params, updates)
    return State(state.step + 1, params, opt_state), {'loss': loss}

  def eval_step(state, batch):
    logits, labels = logits_and_labels(state.params, batch)
    return {'accuracy': ((logits > 0) == labels).mean()}

  return Task(init, train_step, eval_step)
