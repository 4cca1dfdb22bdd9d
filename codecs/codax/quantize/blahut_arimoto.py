"""The Blahut–Arimoto codebook: soft assignments that pay for their bits.

One family of fixed points, selected by ``balance`` b. Over soft assignments P(k|z) with
marginal m, minimise

  E[d] + (1/beta) * (c * H(m) - H(P | z)),   c = (1 - 2b) / (1 - b).

b = 0 is Blahut–Arimoto (the bracket is the mutual information: least rate, Blahut 1972,
Arimoto 1972, Rose 1994); b = 1/2 is soft k-means (no cost of codes); b -> 1 is
Sinkhorn's balanced assignment (c -> -inf forces m uniform: most use, Cuturi 2013). The
minimiser is P ~ exp(w - beta d) with log-weights w = c log m, found by

  w <- (1 - b) log m - b log f + b log(1/K),   f = m / exp(w),

with m and f debiased averages over batches (warm start), `iterations` times a batch.
The code to send is the mode of P: argmin d - w / beta, for b = 0 the
entropy-constrained choice argmin d + (ln 2 / beta) * (-log2 m) of Chou et al. 1989.

beta is given in units of the critical beta_c at which a single codeword first splits,
see `annealing`.
"""

import math
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp

from codax import averages
from codax.errors import CodaxError
from codax.quantize import base
from codax.quantize.ops import annealing, assignment, kmeans, revive
from codax.quantize.ops.straight_through import straight_through, with_gradient

CODEBOOKS = ('ema', 'free_energy')
ENCODER_LOSSES = ('commitment', 'free_energy')


class Config(NamedTuple):
  """Configuration of the quantizer.

  Attributes:
    num_codes: number of codewords, K.
    iterations: number of Blahut–Arimoto steps per batch.
    balance: 0 least rate ... 1 equal use, see the module docstring.
    beta_start: first beta, in units of beta_c.
    beta_end: last beta, in units of beta_c.
    beta_steps: number of training steps from first to last beta.
    beta_schedule: 'cosine', 'exponential' or 'constant' (beta_end at once).
    target_bits: rate in bits per code that beta is controlled to once `beta_steps` have
      passed; 0 turns the control off.
    rate_controller_gain: change of log beta per step, for each bit of missing rate.
    codebook: 'ema' (averages of soft centroids) or 'free_energy' (gradient).
    stochastic_steps: number of steps in which codes are drawn from P instead of its
      mode.
    marginal_decay: decay of the averages of m, f, the counts and the covariance.
    codebook_decay: decay of the soft centroids.
    commitment: weight of the loss on latents, see `encoder_loss`.
    encoder_loss: loss on latents: 'commitment', mean (z - e)^2 to the selected code, or
      'free_energy', whose gradient is that to the mean codeword under P, at the code
      lengths in P: latents between codes lean to the cheap ones.
    kmeans_iterations: number of Lloyd steps after the k-means++ seeding.
    chunk: number of latents handled at once, 0 for all; bounds the [N, K] memory.
  """

  num_codes: int = 256
  iterations: int = 1
  balance: float = 0.0
  beta_start: float = 1.0
  beta_end: float = 30.0
  beta_steps: int = 1000
  beta_schedule: str = 'exponential'
  target_bits: float = 0.0
  rate_controller_gain: float = 1e-3
  codebook: str = 'ema'
  stochastic_steps: int = 0
  marginal_decay: float = 0.99
  codebook_decay: float = 0.99
  commitment: float = 0.25
  encoder_loss: str = 'commitment'
  kmeans_iterations: int = 10
  chunk: int = 0


RENAMED = {
  'servo_gain': 'quantizer.rate_controller_gain',
  'codes': 'quantizer.stochastic_steps',
  'codebook_weight': 'optimizer.groups',
}


def check(cfg: Config) -> None:
  """Raises `CodaxError` for a value out of its range."""
  choices = {
    'codebook': CODEBOOKS,
    'encoder_loss': ENCODER_LOSSES,
    'beta_schedule': annealing.SCHEDULES,
  }
  base.check_choices(cfg, choices)
  base.check_numbers(
    cfg,
    positive=('num_codes', 'iterations', 'beta_start', 'beta_end'),
    not_negative=('beta_steps', 'stochastic_steps', 'kmeans_iterations', 'chunk')
    + ('target_bits', 'rate_controller_gain', 'commitment'),
    fractions=('marginal_decay', 'codebook_decay'),
  )
  if not 0 <= cfg.balance <= 1:
    raise CodaxError(f'quantizer.balance = {cfg.balance} is not in [0, 1]')
  if cfg.target_bits > math.log2(cfg.num_codes):
    raise CodaxError(
      f'quantizer.target_bits = {cfg.target_bits} is out of reach of '
      f'num_codes = {cfg.num_codes}'
    )
  if cfg.encoder_loss == 'free_energy' and cfg.chunk:
    raise CodaxError("quantizer.encoder_loss = 'free_energy' needs chunk = 0")


@flax.struct.dataclass
class State:
  """State of the quantizer; arrays lead with a group axis of length 1.

  Attributes:
    codebook: [1, K, d] when ``codebook='ema'``, else None.
    centroids: average of (mass [1, K], weighted sums [1, K, d]); None for gradient.
    log_weights: w [1, K].
    marginal: average of the soft marginal m [1, K].
    factor: average of f = m / exp(w) [1, K].
    counts: average of the hard code frequencies [1, K].
    covariance: running covariance of the latents, see `annealing`.
    log_beta_scale: logarithm of the rate controller's multiplier on beta, ().
  """

  codebook: jax.Array | None
  centroids: averages.Average | None
  log_weights: jax.Array
  marginal: averages.Average
  factor: averages.Average
  counts: averages.Average
  covariance: annealing.Covariance
  log_beta_scale: jax.Array


def critical_beta(state: State) -> jax.Array:
  """Returns beta_c = 1 / (2 lambda_max), [1]."""
  return annealing.critical_beta(state.covariance)


def _init(cfg: Config, rng: jax.Array, sample: jax.Array):
  z = base.split_groups(sample, 1)
  codebook = jax.vmap(
    lambda key, x: kmeans.fit(key, x, cfg.num_codes, cfg.kmeans_iterations)
  )(jax.random.split(rng, 1), z)
  uniform = jnp.full(codebook.shape[:2], 1.0 / cfg.num_codes, jnp.float32)
  started = lambda x: averages.from_value(x, cfg.marginal_decay)
  ema = cfg.codebook == 'ema'
  centroids = uniform, codebook * uniform[..., None]
  state = State(
    codebook=codebook if ema else None,
    centroids=averages.from_value(centroids, cfg.codebook_decay) if ema else None,
    log_weights=jnp.log(uniform),
    marginal=started(uniform),
    factor=started(jnp.ones_like(uniform)),
    counts=started(uniform),
    covariance=annealing.init(z, cfg.marginal_decay),
    log_beta_scale=jnp.zeros((), jnp.float32),
  )
  return ({} if ema else {'codebook': codebook}), state


def _codebook(params, state):
  return params['codebook'] if state.codebook is None else state.codebook


def _next_state(cfg, state, z, sums, log_weights, log_beta_scale):
  """Folds one batch's sums into the averages. z [1, N, d]."""
  n = z.shape[1]
  m = sums.soft_counts / n
  fold = lambda avg, x: averages.update(avg, x, cfg.marginal_decay)
  marginal = fold(state.marginal, m)
  factor = fold(state.factor, m * jnp.exp(-log_weights))
  state = state.replace(
    marginal=marginal,
    factor=factor,
    counts=fold(state.counts, sums.hard_counts / n),
    covariance=annealing.update(state.covariance, z, cfg.marginal_decay),
    log_weights=assignment.next_log_weights(
      cfg.balance, averages.value(marginal), averages.value(factor)
    ),
    log_beta_scale=log_beta_scale,
  )
  if cfg.codebook == 'ema':
    origin = state.codebook.mean(1, keepdims=True)
    batch = m, sums.soft_sums / n + m[..., None] * origin
    centroids = averages.update(state.centroids, batch, cfg.codebook_decay)
    mass, total = averages.value(centroids)
    seen = mass[..., None] > 1e-6 / cfg.num_codes
    moved = total / jnp.maximum(mass, 1e-20)[..., None]
    codebook = jnp.where(seen, moved, state.codebook)
    state = state.replace(centroids=centroids, codebook=codebook)
  return state


def _free_energy(n, sums, codebook, beta):
  """Returns -(1/beta) mean_n log sum_k exp(w_k - beta d[n, k]).

  Its gradient in e_k is 2 mean_n P[n, k] (e_k - z_n), formed from the sums: nothing is
  differentiated through the iterations that made w, and no [N, K] array is kept.
  """
  value = -jnp.sum(sums.log_z / beta) / n
  centered = jax.lax.stop_gradient(codebook - codebook.mean(1, keepdims=True))
  gradient = 2 * (sums.soft_counts[..., None] * centered - sums.soft_sums) / n
  return with_gradient(codebook, value, gradient)


def _free_energy_commitment(z, codebook, log_weights, beta):
  """Averages -(1/beta) log sum_k exp(w_k - beta d[n, k]) over latent values.

  For one group: z [N, d], codebook [K, d], log_weights [K] or [N, K]. Its gradient,
  2 (z_n - sum_k P[n, k] e_k) / (N d), goes to z alone; code lengths and codewords are
  held. As beta rises it becomes the commitment loss plus a constant.
  """
  held = jax.lax.stop_gradient(z)
  log_z, post, _ = assignment.posterior(held, codebook, log_weights, beta)
  # about the codewords' mean: far from the origin float32 has no digits to spare
  centered, book, _ = kmeans.center(held, codebook)
  away = centered - kmeans.products(post, book.T)
  return with_gradient(z, -jnp.sum(log_z) / beta / z.size, 2 * away / z.size)


def _with_side_information(cfg: Config, w, marginal, log_prior):
  """Replaces the marginal in w [1, K] by a conditional prior [1, N, K].

  Log-weights are c log m; where codes have a cost (c > 0) and the coder will know more
  than m, the cost is the coder's. Elsewhere they stay as they are.
  """
  b = cfg.balance
  c = max((1 - 2 * b) / (1 - b), 0.0) if b < 1 else 0.0
  log_m = jnp.log(jnp.maximum(marginal, 1e-9))
  more = jnp.maximum(log_prior, assignment.LOG_FLOOR) - log_m[:, None]
  return w[:, None] + c * more


def _fixed_point(cfg: Config, z, codebook, log_weights, beta):
  """Runs all but the last of the batch's iterations; returns w [1, K]."""
  if cfg.iterations == 1:
    return log_weights
  iterate = lambda *group: assignment.iterate(
    *group, cfg.balance, cfg.iterations - 1, cfg.chunk
  )
  return jax.vmap(iterate)(z, codebook, log_weights, beta)


def _losses(cfg: Config, z, values, codebook, sums, weights, beta):
  """Returns the losses on latents and codebook, by name."""
  losses = {'commitment': cfg.commitment * jnp.mean((z - values) ** 2)}
  held = jax.lax.stop_gradient(codebook)
  if cfg.encoder_loss == 'free_energy':
    groups = base.split_groups(z, 1)
    commitment = jax.vmap(_free_energy_commitment)(groups, held, weights, beta)
    losses['commitment'] = cfg.commitment * commitment.mean()
  if cfg.codebook == 'free_energy':
    n = z.size // z.shape[-1]
    losses['free_energy'] = _free_energy(n, sums, codebook, beta)
  return losses


def _quantize(
  cfg: Config, params, state, z, *, train, rng=None, step=0, log_prior=None
):
  fixed = jax.lax.stop_gradient(base.split_groups(z, 1))
  codebook = _codebook(params, state)
  held = jax.lax.stop_gradient(codebook)
  step = jnp.asarray(step, jnp.float32)
  draw = None
  if train and cfg.stochastic_steps:
    if rng is None:
      raise ValueError('stochastic codes are drawn: quantize needs rng')
    draw = step < cfg.stochastic_steps
  keys = jax.random.split(jax.random.key(0) if rng is None else rng, 1)
  ratio = annealing.schedule(cfg, step) * jnp.exp(state.log_beta_scale)
  beta = ratio * critical_beta(state)
  w = state.log_weights
  if train:
    w = _fixed_point(cfg, fixed, held, w, beta)
  assign = lambda *group: assignment.assign(*group, draw=draw, chunk=cfg.chunk)
  prior = averages.value(state.counts)
  weights = w
  if log_prior is not None:
    log_prior = jnp.moveaxis(log_prior.reshape(-1, *log_prior.shape[-2:]), 1, 0)
    weights = _with_side_information(cfg, w, prior, log_prior)
  codes, sums = jax.vmap(assign)(fixed, held, weights, beta, keys)
  picked = jax.vmap(lambda book, c: book[c])(held, codes)
  values = base.merge_groups(picked, z.shape)
  bits = base.code_bits(prior, codes)
  stats = {
    'beta_ratio': ratio,
    'beta': beta.mean(),
    'rate_bits': bits,
    'soft_entropy_bits': base.mean_entropy_bits(sums.soft_counts / fixed.shape[1]),
  }
  losses = _losses(cfg, z, values, codebook, sums, weights, beta)
  if train:
    scale = annealing.rate_controller(cfg, state.log_beta_scale, bits, step)
    state = _next_state(cfg, state, fixed, sums, w, scale)
  return base.Quantized(
    values=straight_through(z, values),
    codes=base.merge_codes(codes, z.shape[:-1]),
    losses=losses,
    stats=stats,
    state=jax.lax.stop_gradient(state),
  )


def _relocate(cfg: Config, params, state, moves, codebook):
  """Installs a codebook with revived codes and resets their statistics."""
  split = lambda avg: avg._replace(total=revive.split_mass(avg.total, moves))
  marginal = split(state.marginal)
  factor = state.factor._replace(total=revive.inherit(state.factor.total, moves))
  w = assignment.next_log_weights(
    cfg.balance, averages.value(marginal), averages.value(factor)
  )
  state = state.replace(
    marginal=marginal,
    factor=factor,
    counts=split(state.counts),
    log_weights=jnp.where(moves.dead | moves.donors, w, state.log_weights),
  )
  if cfg.codebook == 'free_energy':
    moved = jnp.broadcast_to(moves.dead[..., None], codebook.shape)
    return {**params, 'codebook': codebook}, state, {'codebook': moved}
  mass, sums = state.centroids.total
  mass = revive.split_mass(mass, moves)
  # sums follow from mass and place, for moved codes and their donors alike
  touched = (moves.dead | moves.donors)[..., None]
  sums = jnp.where(touched, codebook * mass[..., None], sums)
  centroids = state.centroids._replace(total=(mass, sums))
  return params, state.replace(codebook=codebook, centroids=centroids), {}


def make(**values: Any) -> base.Quantizer:
  """Makes the quantizer from `Config` values by name; unknown ones are errors."""
  cfg = base.make_config(Config, values, RENAMED)
  check(cfg)

  def code_prior(state):
    return base.normalize(averages.value(state.counts))

  return base.Quantizer(
    init=lambda rng, sample: _init(cfg, rng, sample),
    quantize=lambda params, state, z, **kw: _quantize(cfg, params, state, z, **kw),
    code_prior=code_prior,
    **base.explicit_codebook(_codebook),
    num_codes=(cfg.num_codes,),
    is_rate_aware=True,
    relocation=base.Relocation(
      usage=lambda state: averages.value(state.counts),
      scale=lambda state: jnp.sqrt(annealing.variances(state.covariance)),
      apply=lambda *args: _relocate(cfg, *args),
    ),
  )
