"""The Blahut–Arimoto quantizer as its source describes it, faults included.

It serves to run and measure the description; `blahut_arimoto` is the corrected one. The
faults, all of them on purpose:

1. The codebook's only gradient is the entropy term: the straight-through estimator and
   the commitment both hold the codeword fixed.
2. Training decodes the soft mixture P E, which nobody can transmit. (`codes` are hard,
   and evaluation through `decode` is that of a file.)
3. beta follows epoch / max_epochs and so never reaches `beta_end`.
4. beta multiplies raw squared distances and so depends on the latents' scale and
   dimension. For white unit-variance latents of 256 dimensions the rate goes
   from 0 to log2 K between beta = 0.50 and 0.53, and at the first beta of 0.1 the
   assignment is uniform.
5. Q starts uniform in every batch; at fixed codewords the iterations then lower the
   rate, which starves codes (the rich get richer).
6. The entropy bonus is largest where codes carry no information.
"""

from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp

from codax import averages
from codax.quantize import base
from codax.quantize.ops import kmeans
from codax.quantize.ops.straight_through import straight_through


class Config(NamedTuple):
  """Configuration of the description.

  Attributes:
    num_codes: number of codewords, K.
    iterations: number T of Blahut–Arimoto steps per batch, from uniform Q.
    beta_start: first beta, on raw squared distances.
    beta_end: beta of the cosine one epoch after the last.
    epochs: number of epochs of the run.
    epoch_steps: number of steps of an epoch.
    commitment: weight of mean (z - sg(z_q))^2.
    entropy_weight: weight of -H(mean P), in nats.
  """

  num_codes: int = 512
  iterations: int = 5
  beta_start: float = 0.1
  beta_end: float = 5.0
  epochs: int = 100
  epoch_steps: int = 195
  commitment: float = 0.25
  entropy_weight: float = 0.01


@flax.struct.dataclass
class State:
  """State of the quantizer.

  Attributes:
    counts: average of the hard code frequencies [1, K], for the entropy coder.
  """

  counts: averages.Average


def schedule(cfg: Config, step: jax.Array) -> jax.Array:
  """Returns beta at `step`: constant within an epoch, a cosine over epochs."""
  epoch = jnp.minimum(jnp.floor(step / cfg.epoch_steps), cfg.epochs - 1)
  rise = (1 - jnp.cos(jnp.pi * epoch / cfg.epochs)) / 2
  return cfg.beta_start + (cfg.beta_end - cfg.beta_start) * rise


def assign(
  z: jax.Array, codebook: jax.Array, beta: jax.Array, iterations: int
) -> tuple[jax.Array, jax.Array]:
  """Runs T steps of P = softmax(log Q - beta d), Q = mean P, from uniform Q.

  Args:
    z: float [N, d].
    codebook: float [K, d].
    beta: scalar.
    iterations: number of steps, T.

  Returns:
    P [N, K] and Q [K].
  """
  scores = -beta * kmeans.squared_distances(z, codebook)
  k = codebook.shape[0]

  def posterior(q):
    return jax.nn.softmax(jnp.log(jnp.maximum(q, 1e-12))[None] + scores, axis=-1)

  q0 = jnp.full(k, 1.0 / k, z.dtype)
  step = lambda q, _: (posterior(q).mean(0), None)
  q, _ = jax.lax.scan(step, q0, None, length=iterations - 1)
  post = posterior(q)
  return post, post.mean(0)


def _quantize(cfg, params, state, z, *, train, rng=None, step=0):
  del rng
  flat = base.split_groups(z, 1)
  codebook = params['codebook']
  beta = schedule(cfg, jnp.asarray(step, jnp.float32))
  post, q = jax.vmap(lambda x, e: assign(x, e, beta, cfg.iterations))(flat, codebook)
  soft = base.merge_groups(jnp.einsum('gnk,gkd->gnd', post, codebook), z.shape)
  codes = jnp.argmax(post, axis=-1)
  held = jax.lax.stop_gradient(soft)
  entropy = -jnp.sum(q * jnp.log(jnp.maximum(q, 1e-12)), -1).mean()
  prior = averages.value(state.counts)
  bits = base.code_bits(prior, codes)
  if train:
    hard = jax.nn.one_hot(codes, cfg.num_codes).mean(1)
    state = State(averages.update(state.counts, hard, 0.99))
  return base.Quantized(
    values=straight_through(z, soft),
    codes=base.merge_codes(codes, z.shape[:-1]),
    losses={
      'commitment': cfg.commitment * jnp.mean((z - held) ** 2),
      'entropy': -cfg.entropy_weight * entropy,
    },
    stats={
      'beta': beta,
      'rate_bits': bits,
      'soft_entropy_bits': entropy / jnp.log(2.0),
    },
    state=jax.lax.stop_gradient(state),
  )


def make(**values: Any) -> base.Quantizer:
  """Makes the quantizer from `Config` values by name; unknown ones are errors."""
  cfg = base.make_config(Config, values)
  positive = ('num_codes', 'iterations', 'epochs', 'epoch_steps')
  base.check_numbers(
    cfg,
    positive=positive + ('beta_start', 'beta_end'),
    not_negative=('commitment', 'entropy_weight'),
  )

  def init(rng, sample):
    dim = base.split_groups(sample, 1).shape[-1]
    shape = (1, cfg.num_codes, dim)
    bound = 1.0 / cfg.num_codes
    codebook = jax.random.uniform(rng, shape, jnp.float32, minval=-bound, maxval=bound)
    uniform = jnp.full(shape[:2], 1.0 / cfg.num_codes, jnp.float32)
    counts = averages.from_value(uniform, 0.99)
    return {'codebook': codebook}, State(counts)

  return base.Quantizer(
    init=init,
    quantize=lambda params, state, z, **kw: _quantize(cfg, params, state, z, **kw),
    code_prior=lambda state: base.normalize(averages.value(state.counts)),
    **base.explicit_codebook(lambda params, state: params['codebook']),
    num_codes=(cfg.num_codes,),
  )
