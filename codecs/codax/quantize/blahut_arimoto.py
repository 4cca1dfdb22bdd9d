"""The Blahut–Arimoto codebook: soft assignments that pay for the bits they use.

One family of fixed points, chosen by ``balance`` b. Over soft assignments P(k|z) with
marginal m, minimise

  E[d] + (1/beta) * (c * H(m) - H(P | z)),   c = (1 - 2b) / (1 - b).

b = 0 is Blahut–Arimoto (the bracket is the mutual information: least rate, Blahut 1972,
Arimoto 1972, Rose 1994); b = 1/2 is soft k-means (no price on codes); b -> 1 is
Sinkhorn's balanced assignment (c -> -inf forces m uniform: most use, Cuturi 2013). The
minimiser is P ~ exp(w - beta d) with log-weights w = c log m, found by

  w <- (1 - b) log m - b log f + b log(1/K),   f = m / exp(w),

with m and f debiased averages over batches (warm start), `iterations` times a batch.
The code that is sent is the mode of P: argmin d - w / beta, for b = 0 the
entropy-constrained choice argmin d + (ln 2 / beta) * (-log2 m) of Chou et al. 1989.

beta is given in units of the critical beta_c = 1 / (2 lambda_max(Cov z)) at which a
single codeword first splits (Rose 1998, section III), with the latent covariance
followed as training moves it: no constant tuned to a latent scale survives.
"""

from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp

from codax import averages
from codax.errors import CodaxError, unknown
from codax.quantize import base, kmeans, revive
from codax.quantize.straight_through import ESTIMATORS

CODEBOOKS = ('ema', 'free_energy')
CODES = ('hard', 'stochastic')
SCHEDULES = ('cosine', 'exponential', 'constant')
_LOG_FLOOR = -30.0  # log-weights stay above this: a dead code can come back


class Config(NamedTuple):
  """Knobs of the quantiser.

  Attributes:
    num_codes: K.
    groups: latents are cut into this many parts with a codebook each.
    iterations: Blahut–Arimoto steps a batch.
    balance: 0 least rate ... 1 equal use, see the module docstring.
    beta_start: first beta, in units of beta_c.
    beta_end: last beta.
    beta_steps: steps from first to last.
    beta_schedule: 'cosine', 'exponential' or 'constant' (beta_end at once).
    target_bits: if positive, beta is servoed to this rate, in bits a code, once
      `beta_steps` have passed.
    servo_gain: change of log beta a step, for each bit of rate that is missing.
    codebook: 'ema' (averages of soft centroids) or 'free_energy' (gradient).
    codes: 'hard', or 'stochastic' (drawn from P) for `stochastic_steps`.
    stochastic_steps: see `codes`.
    marginal_decay: of the averages of m, f, the counts and the covariance.
    codebook_decay: of the soft centroids.
    commitment: weight of mean (z - e)^2, codeword held fixed.
    codebook_weight: weight of the free energy ('free_energy' only).
    revive_below: a code used less than this times 1/K is moved; 0 moves none.
    revive_to: 'split' (the most used code) or 'data' (a recent latent).
    estimator: 'straight_through' or 'rotation'.
    kmeans_iterations: Lloyd steps after the k-means++ start.
    chunk: latents handled at once; 0 is all. Bounds the [N, K] memory.
  """

  num_codes: int = 256
  groups: int = 1
  iterations: int = 1
  balance: float = 0.0
  beta_start: float = 1.0
  beta_end: float = 30.0
  beta_steps: int = 1000
  beta_schedule: str = 'exponential'
  target_bits: float = 0.0
  servo_gain: float = 1e-3
  codebook: str = 'ema'
  codes: str = 'hard'
  stochastic_steps: int = 0
  marginal_decay: float = 0.99
  codebook_decay: float = 0.99
  commitment: float = 0.25
  codebook_weight: float = 1.0
  revive_below: float = 0.02
  revive_to: str = 'split'
  estimator: str = 'straight_through'
  kmeans_iterations: int = 10
  chunk: int = 0


def check(cfg: Config) -> None:
  """Raises `CodaxError` for a knob out of its range."""
  for field, valid in (
    ('codebook', CODEBOOKS),
    ('codes', CODES),
    ('beta_schedule', SCHEDULES),
    ('revive_to', ('split', 'data')),
    ('estimator', tuple(ESTIMATORS)),
  ):
    if getattr(cfg, field) not in valid:
      raise unknown(f'quantizer.{field}', getattr(cfg, field), valid)
  if not 0 <= cfg.balance <= 1:
    raise CodaxError(f'quantizer.balance = {cfg.balance} is not in [0, 1]')
  for field in ('num_codes', 'groups', 'iterations', 'beta_start', 'beta_end'):
    if getattr(cfg, field) <= 0:
      raise CodaxError(f'quantizer.{field} = {getattr(cfg, field)} must be positive')


@flax.struct.dataclass
class State:
  """What the quantiser keeps; arrays lead with the group axis G.

  Attributes:
    codebook: [G, K, d] when ``codebook='ema'``, else None.
    centroids: average of (mass [G, K], weighted sums [G, K, d]); None for gradient.
    log_weights: w [G, K].
    marginal: average of the soft marginal m [G, K].
    factor: average of f = m / exp(w) [G, K].
    counts: average of the hard code frequencies [G, K].
    moments: average of (E z [G, d], E zz^T [G, d, d]).
    principal: [G, d] running estimate of the covariance's first eigenvector.
    log_servo: log of the servo's multiplier on beta.
    recent: [G, R, d] latents of the last batch, for ``revive_to='data'``.
  """

  codebook: jax.Array | None
  centroids: averages.Average | None
  log_weights: jax.Array
  marginal: averages.Average
  factor: averages.Average
  counts: averages.Average
  moments: averages.Average
  principal: jax.Array
  log_servo: jax.Array
  recent: jax.Array


def schedule(cfg: Config, step: jax.Array) -> jax.Array:
  """beta / beta_c at `step`, before the servo."""
  t = jnp.clip(step / max(cfg.beta_steps, 1), 0.0, 1.0)
  if cfg.beta_schedule == 'constant':
    return jnp.full_like(t, cfg.beta_end)
  if cfg.beta_schedule == 'cosine':
    return (
      cfg.beta_start + (cfg.beta_end - cfg.beta_start) * (1 - jnp.cos(jnp.pi * t)) / 2
    )
  return cfg.beta_start * (cfg.beta_end / cfg.beta_start) ** t


def posterior(z, codebook, log_weights, beta):
  """log Z_n + beta |z|^2 and P for one group: z [N, d] -> [N], [N, K].

  Scores leave out beta |z|^2, which cancels in P.
  """
  scores = log_weights + beta * (2 * (z @ codebook.T) - jnp.sum(codebook**2, -1))
  log_z = jax.nn.logsumexp(scores, axis=-1)
  return log_z, jnp.exp(scores - log_z[:, None]), scores


def next_log_weights(cfg: Config, marginal: jax.Array, factor: jax.Array) -> jax.Array:
  """The fixed-point map of the module docstring; [G, K] to [G, K]."""
  b, k = cfg.balance, marginal.shape[-1]
  log_m = jnp.log(jnp.maximum(marginal, 1e-12))
  log_f = jnp.log(jnp.maximum(factor, 1e-12))
  w = (1 - b) * log_m - b * log_f - b * jnp.log(k)
  return jnp.maximum(w - jax.nn.logsumexp(w, axis=-1, keepdims=True), _LOG_FLOOR)


def _assign_chunk(cfg, z, codebook, log_weights, beta, rng, stochastic):
  """Codes [N] and sums over n of (P, P z, one-hot, log Z) for one group."""
  log_z, post, scores = posterior(z, codebook, log_weights, beta)
  codes = jnp.argmax(scores, axis=-1)
  if cfg.codes == 'stochastic':
    drawn = jax.random.categorical(rng, scores)
    codes = jnp.where(stochastic, drawn, codes)
  hard = jnp.zeros(cfg.num_codes, z.dtype).at[codes].add(1.0)
  return codes, (post.sum(0), post.T @ z, hard, log_z.sum())


def _assign(cfg, z, codebook, log_weights, beta, rng, stochastic):
  """`_assign_chunk` over chunks of the latents, for one group; z [N, d]."""
  n = z.shape[0]
  run = lambda z, key: _assign_chunk(
    cfg, z, codebook, log_weights, beta, key, stochastic
  )
  if not cfg.chunk or n <= cfg.chunk or n % cfg.chunk:
    return run(z, rng)
  parts = n // cfg.chunk
  codes, sums = jax.lax.map(
    lambda args: run(*args),
    (z.reshape(parts, cfg.chunk, -1), jax.random.split(rng, parts)),
  )
  return codes.reshape(n), jax.tree.map(lambda s: s.sum(0), sums)


def _principal_variance(moments, principal):
  """Two power iterations: (lambda_max [G], next eigenvector [G, d])."""
  mean, second = averages.value(moments)
  cov = second - mean[:, :, None] * mean[:, None, :]
  v = principal
  for _ in range(2):
    v = jnp.einsum('gij,gj->gi', cov, v)
    v = v / jnp.maximum(jnp.linalg.norm(v, axis=-1, keepdims=True), 1e-20)
  return jnp.maximum(jnp.einsum('gi,gij,gj->g', v, cov, v), 1e-12), v


def _moments(z):
  return z.mean(1), jnp.einsum('gni,gnj->gij', z, z) / z.shape[1]


def critical_beta(state: State) -> jax.Array:
  """beta_c = 1 / (2 lambda_max) of each group, [G]."""
  variance, _ = _principal_variance(state.moments, state.principal)
  return 1.0 / (2.0 * variance)


def _init(cfg: Config, rng: jax.Array, sample: jax.Array):
  z = base.split_groups(sample, cfg.groups)
  keys = jax.random.split(rng, cfg.groups)
  codebook = jax.vmap(
    lambda key, x: kmeans.fit(key, x, cfg.num_codes, cfg.kmeans_iterations)
  )(keys, z)
  moments = averages.started(_moments(z), cfg.marginal_decay)
  mean, second = _moments(z)
  cov = second - mean[:, :, None] * mean[:, None, :]
  uniform = jnp.full(codebook.shape[:2], 1.0 / cfg.num_codes)
  started = lambda x: averages.started(x, cfg.marginal_decay)
  ema = cfg.codebook == 'ema'
  state = State(
    codebook=codebook if ema else None,
    centroids=averages.started(
      (uniform, codebook * uniform[..., None]), cfg.codebook_decay
    )
    if ema
    else None,
    log_weights=jnp.log(uniform),
    marginal=started(uniform),
    factor=started(jnp.ones_like(uniform)),
    counts=started(uniform),
    moments=moments,
    principal=jnp.linalg.eigh(cov)[1][:, :, -1],
    log_servo=jnp.zeros(()),
    recent=z[:, : cfg.num_codes] if cfg.revive_to == 'data' else z[:, :1],
  )
  return ({} if ema else {'codebook': codebook}), state


def _codebook(params, state):
  return params['codebook'] if state.codebook is None else state.codebook


def _next_state(cfg, state, z, sums, log_weights, bits, settled):
  """Folds one batch's sums into the averages. z [G, N, d]."""
  n = z.shape[1]
  mass, weighted, hard, _ = sums
  m = mass / n
  fold = lambda avg, x: averages.update(avg, x, cfg.marginal_decay)
  marginal = fold(state.marginal, m)
  factor = fold(state.factor, m * jnp.exp(-log_weights))
  moments = fold(state.moments, _moments(z))
  _, principal = _principal_variance(moments, state.principal)
  state = state.replace(
    marginal=marginal,
    factor=factor,
    counts=fold(state.counts, hard / n),
    moments=moments,
    principal=principal,
    log_weights=next_log_weights(cfg, averages.value(marginal), averages.value(factor)),
    log_servo=jnp.where(
      settled & (cfg.target_bits > 0),
      state.log_servo + cfg.servo_gain * (cfg.target_bits - bits),
      state.log_servo,
    ),
  )
  if cfg.revive_to == 'data':
    state = state.replace(recent=z[:, : state.recent.shape[1]])
  if cfg.codebook == 'ema':
    centroids = averages.update(state.centroids, (m, weighted / n), cfg.codebook_decay)
    c_mass, c_sum = averages.value(centroids)
    seen = c_mass > 1e-6 / cfg.num_codes
    moved = c_sum / jnp.maximum(c_mass, 1e-20)[..., None]
    state = state.replace(
      centroids=centroids,
      codebook=jnp.where(seen[..., None], moved, state.codebook),
    )
  return state


def _warm_iterations(cfg, z, codebook, state, beta):
  """The steps before the last one, on this batch alone; returns w [G, K]."""

  def step(w, _):
    def one(z, book, w, beta):
      _, post, _ = posterior(z, book, w, beta)
      return post.mean(0)

    m = jax.vmap(one)(z, codebook, w, beta)
    return next_log_weights(cfg, m, m * jnp.exp(-w)), None

  w = state.log_weights
  if cfg.iterations > 1:
    w, _ = jax.lax.scan(step, w, None, length=cfg.iterations - 1)
  return w


def _quantize(cfg: Config, params, state, z, *, train, rng=None, step=0):
  groups = base.split_groups(z, cfg.groups)
  fixed = jax.lax.stop_gradient(groups)
  codebook = _codebook(params, state)
  held = jax.lax.stop_gradient(codebook)
  step = jnp.asarray(step, jnp.float32)
  rng = jax.random.key(0) if rng is None else rng
  ratio = schedule(cfg, step) * jnp.exp(state.log_servo)
  beta = ratio * critical_beta(state)
  w = _warm_iterations(cfg, fixed, held, state, beta) if train else state.log_weights
  stochastic = jnp.asarray(train) & (step < cfg.stochastic_steps)
  codes, sums = jax.vmap(
    lambda z, book, w, beta, key: _assign(cfg, z, book, w, beta, key, stochastic)
  )(fixed, held, w, beta, jax.random.split(rng, cfg.groups))
  picked = jax.vmap(lambda book, c: book[c])(held, codes)
  values = base.merge_groups(picked, z.shape)
  prior = averages.value(state.counts)
  bits = -jnp.log2(jnp.maximum(jnp.take_along_axis(prior, codes, axis=1), 1e-9)).mean()
  losses = {'commitment': cfg.commitment * jnp.mean((z - values) ** 2)}
  if cfg.codebook == 'free_energy':
    losses['free_energy'] = cfg.codebook_weight * _free_energy(
      cfg, fixed, codebook, jax.lax.stop_gradient(w), beta
    )
  stats = {
    'beta_ratio': ratio,
    'beta': beta.mean(),
    'rate_bits': bits,
    'soft_entropy_bits': base.mean_entropy_bits(sums[0] / fixed.shape[1]),
  }
  if train:
    settled = step >= cfg.beta_steps
    state = _next_state(cfg, state, fixed, sums, w, bits, settled)
  return base.Quantized(
    values=ESTIMATORS[cfg.estimator](z, values),
    codes=base.merge_codes(codes, z.shape[:-1]),
    losses=losses,
    stats=stats,
    state=jax.lax.stop_gradient(state),
  )


def _free_energy(cfg, z, codebook, log_weights, beta):
  """Sum over groups of -(1/beta) mean_n log sum_k exp(w_k - beta d[n, k]).

  Its gradient in e_k is 2 mean_n P[n, k] (e_k - z_n): the closed form, with nothing
  differentiated through the iterations that made w.
  """
  del cfg

  def one(z, book, w, beta):
    log_z, _, _ = posterior(z, book, w, beta)
    return jnp.mean(jnp.sum(z**2, -1)) - jnp.mean(log_z) / beta

  beta = jax.lax.stop_gradient(beta)
  return jnp.sum(jax.vmap(one)(z, codebook, log_weights, beta))


def _revive(cfg: Config, params, state, rng):
  """Moves codes that are hardly used; resets what the quantiser knew of them."""
  codebook = _codebook(params, state)
  marked = lambda mask: jax.tree.map(
    lambda p: jnp.broadcast_to(mask[..., None], p.shape), params
  )
  if cfg.revive_below <= 0:
    return params, state, marked(jnp.zeros(codebook.shape[:2], bool))
  moves = revive.plan(averages.value(state.counts), cfg.revive_below)
  if cfg.revive_to == 'data':
    pick = jax.random.randint(rng, moves.donor.shape, 0, state.recent.shape[1])
    target = jnp.take_along_axis(state.recent, pick[..., None], axis=1)
    codebook = jnp.where(moves.dead[..., None], target, codebook)
  else:
    codebook = revive.split(rng, codebook, moves)
  shared = lambda avg: avg._replace(total=revive.share(avg.total, moves))
  log_half = jnp.where(moves.dead | moves.given, jnp.log(2.0), 0.0)
  state = state.replace(
    marginal=shared(state.marginal),
    counts=shared(state.counts),
    factor=state.factor._replace(total=revive.inherit(state.factor.total, moves)),
    log_weights=revive.inherit(state.log_weights, moves) - log_half,
  )
  if cfg.codebook == 'free_energy':
    return {**params, 'codebook': codebook}, state, marked(moves.dead)
  mass, sums = state.centroids.total
  mass = revive.share(mass, moves)
  # sums follow from mass and place, for moved codes and their donors alike
  touched = (moves.dead | moves.given)[..., None]
  sums = jnp.where(touched, codebook * mass[..., None], sums)
  centroids = state.centroids._replace(total=(mass, sums))
  return params, state.replace(codebook=codebook, centroids=centroids), {}


def make(**knobs: Any) -> base.Quantizer:
  """The quantiser with `Config` knobs given by name; unknown ones are errors."""
  cfg = base.config(Config, knobs)
  check(cfg)

  def decode(params, state, codes):
    return base.look_up(_codebook(params, state), codes)

  def code_prior(state):
    return base.normalised(averages.value(state.counts))

  return base.Quantizer(
    init=lambda rng, sample: _init(cfg, rng, sample),
    quantize=lambda params, state, z, **kw: _quantize(cfg, params, state, z, **kw),
    decode=decode,
    code_prior=code_prior,
    revive=lambda params, state, rng: _revive(cfg, params, state, rng),
  )
