"""The Blahut–Arimoto quantizer, compiled once for each configuration, and batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from codax.quantize import get

# One call is one exact step on the batch at hand: nothing is averaged over calls.
EXACT = {'marginal_decay': 0.0, 'codebook_decay': 0.0}
STILL = {**EXACT, 'codebook': 'free_energy', 'beta_schedule': 'constant'}
KEY = jax.random.key(0)


def latents(seed=0, n=64, d=4):
  return jnp.asarray(np.random.default_rng(seed).normal(size=(n, d)), jnp.float32)


@functools.cache
def machine(**values):
  """(quantizer, jitted train step, jitted scan of train steps on one batch)."""
  q = get('blahut_arimoto', **values)
  step = jax.jit(functools.partial(q.quantize, train=True))

  def run(params, state, z, steps):
    def body(state, i):
      out = q.quantize(params, state, z, train=True, step=i)
      return out.state, (out.state.log_weights, out.state.codebook, out.stats)

    return jax.lax.scan(body, state, jnp.arange(steps))

  return q, step, jax.jit(run, static_argnums=3)


def started(q, z):
  """Returns the compiled `q.init` of the latents."""
  return jax.jit(q.init)(KEY, z)


def settled(steps, z, **values):
  """Params, state and history after `steps` steps on one batch."""
  q, _, run = machine(**values)
  params, state = started(q, z)
  state, history = run(params, state, z, steps)
  return params, state, history


def codebook_of(params, state):
  book = params['codebook'] if state.codebook is None else state.codebook
  return np.asarray(book, np.float64)
