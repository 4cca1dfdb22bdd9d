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
from codax.quantize import annealing, assignment, base, kmeans, revive
from codax.quantize.straight_through import ESTIMATORS, with_gradient

CODEBOOKS = ('ema', 'free_energy')
CODES = ('hard', 'stochastic')
ENCODER_LOSSES = ('commitment', 'free_energy')


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
    commitment: weight of the pull on latents, see `encoder_loss`.
    encoder_loss: what pulls latents: 'commitment', mean (z - e)^2 to the code that was
      chosen, or 'free_energy', whose gradient is that to the mean codeword under P, at
      the prices that P is made with: latents between codes lean to the cheap ones.
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
  encoder_loss: str = 'commitment'
  codebook_weight: float = 1.0
  revive_below: float = 0.02
  revive_to: str = 'split'
  estimator: str = 'straight_through'
  kmeans_iterations: int = 10
  chunk: int = 0


def check(cfg: Config) -> None:
  """Raises `CodaxError` for a knob out of its range."""
  choices = {
    'codebook': CODEBOOKS,
    'codes': CODES,
    'encoder_loss': ENCODER_LOSSES,
    'beta_schedule': annealing.SCHEDULES,
    'revive_to': ('split', 'data'),
    'estimator': ESTIMATORS,
  }
  base.check_choices(cfg, choices)
  base.check_numbers(
    cfg,
    positive=('num_codes', 'groups', 'iterations', 'beta_start', 'beta_end'),
    not_negative=('beta_steps', 'stochastic_steps', 'kmeans_iterations', 'chunk')
    + ('target_bits', 'servo_gain', 'commitment', 'codebook_weight'),
    fractions=('marginal_decay', 'codebook_decay', 'revive_below'),
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
  if cfg.codes == 'stochastic' and not cfg.stochastic_steps:
    raise CodaxError("quantizer.codes = 'stochastic' needs stochastic_steps > 0")


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
    spread: the latents' covariance, see `annealing`.
    log_servo: log of the servo's multiplier on beta.
    recent: [G, R, d] latents of the last batch, for ``revive_to='data'``.
  """

  codebook: jax.Array | None
  centroids: averages.Average | None
  log_weights: jax.Array
  marginal: averages.Average
  factor: averages.Average
  counts: averages.Average
  spread: annealing.Spread
  log_servo: jax.Array
  recent: jax.Array


def critical_beta(state: State) -> jax.Array:
  """beta_c = 1 / (2 lambda_max) of each group, [G]."""
  return annealing.critical_beta(state.spread)


def _recent(cfg, z):
  """Some latents of z [G, N, d], evenly spaced: neighbours are alike."""
  count = min(cfg.num_codes, z.shape[1]) if cfg.revive_to == 'data' else 1
  return z[:, :: z.shape[1] // count][:, :count]


def _init(cfg: Config, rng: jax.Array, sample: jax.Array):
  z = base.split_groups(sample, cfg.groups)
  keys = jax.random.split(rng, cfg.groups)
  codebook = jax.vmap(
    lambda key, x: kmeans.fit(key, x, cfg.num_codes, cfg.kmeans_iterations)
  )(keys, z)
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
    spread=annealing.start(z, cfg.marginal_decay),
    log_servo=jnp.zeros((), jnp.float32),
    recent=_recent(cfg, z),
  )
  return ({} if ema else {'codebook': codebook}), state


def _codebook(params, state):
  return params['codebook'] if state.codebook is None else state.codebook


def _next_state(cfg, state, z, sums, log_weights, log_servo):
  """Folds one batch's sums into the averages. z [G, N, d]."""
  n = z.shape[1]
  m = sums.mass / n
  fold = lambda avg, x: averages.update(avg, x, cfg.marginal_decay)
  marginal = fold(state.marginal, m)
  factor = fold(state.factor, m * jnp.exp(-log_weights))
  state = state.replace(
    marginal=marginal,
    factor=factor,
    counts=fold(state.counts, sums.hard / n),
    spread=annealing.follow(state.spread, z, cfg.marginal_decay),
    log_weights=assignment.next_log_weights(
      cfg.balance, averages.value(marginal), averages.value(factor)
    ),
    log_servo=log_servo,
  )
  if cfg.revive_to == 'data':
    recent = _recent(cfg, z)[:, : state.recent.shape[1]]
    recent = state.recent.at[:, : recent.shape[1]].set(recent)
    state = state.replace(recent=recent)
  if cfg.codebook == 'ema':
    origin = state.codebook.mean(1, keepdims=True)
    batch = m, sums.weighted / n + m[..., None] * origin
    centroids = averages.update(state.centroids, batch, cfg.codebook_decay)
    mass, total = averages.value(centroids)
    seen = mass[..., None] > 1e-6 / cfg.num_codes
    moved = total / jnp.maximum(mass, 1e-20)[..., None]
    codebook = jnp.where(seen, moved, state.codebook)
    state = state.replace(centroids=centroids, codebook=codebook)
  return state


def _free_energy(n, sums, codebook, beta):
  """Sum over groups of -(1/beta) mean_n log sum_k exp(w_k - beta d[n, k]).

  Its gradient in e_k is 2 mean_n P[n, k] (e_k - z_n), formed from the sums: nothing is
  differentiated through the iterations that made w, and no [N, K] array is kept.
  """
  value = -jnp.sum(sums.log_z / beta) / n
  centred = jax.lax.stop_gradient(codebook - codebook.mean(1, keepdims=True))
  gradient = 2 * (sums.mass[..., None] * centred - sums.weighted) / n
  return with_gradient(codebook, value, gradient)


def _pull(z, codebook, log_weights, beta):
  """Mean over latent values of -(1/beta) log sum_k exp(w_k - beta d[n, k]).

  For one group: z [N, d], codebook [K, d], log_weights [K] or [N, K]. Its gradient,
  2 (z_n - sum_k P[n, k] e_k) / (N d), goes to z alone; prices and codewords are held.
  As beta rises it becomes the commitment loss plus a constant.
  """
  held = jax.lax.stop_gradient(z)
  log_z, post, _ = assignment.posterior(held, codebook, log_weights, beta)
  # about the codewords' mean: far from the origin float32 has no digits to spare
  centred, book, _ = kmeans.centred(held, codebook)
  away = centred - kmeans.products(post, book.T)
  return with_gradient(z, -jnp.sum(log_z) / beta / z.size, 2 * away / z.size)


def _with_side_information(cfg: Config, w, marginal, log_prior):
  """w [G, K] with the marginal in it replaced by a conditional prior [G, N, K].

  Log-weights are c log m; where codes are priced (c > 0) and the coder will know more
  than m, the price is what it will charge. Elsewhere they stay as they are.
  """
  b = cfg.balance
  price = max((1 - 2 * b) / (1 - b), 0.0) if b < 1 else 0.0
  log_m = jnp.log(jnp.maximum(marginal, 1e-9))
  more = jnp.maximum(log_prior, assignment.LOG_FLOOR) - log_m[:, None]
  return w[:, None] + price * more


def _quantize(
  cfg: Config, params, state, z, *, train, rng=None, step=0, log_prior=None
):
  fixed = jax.lax.stop_gradient(base.split_groups(z, cfg.groups))
  codebook = _codebook(params, state)
  held = jax.lax.stop_gradient(codebook)
  step = jnp.asarray(step, jnp.float32)
  draw = None
  if train and cfg.codes == 'stochastic':
    if rng is None:
      raise ValueError('stochastic codes are drawn: quantize needs rng')
    draw = step < cfg.stochastic_steps
  keys = jax.random.split(jax.random.key(0) if rng is None else rng, cfg.groups)
  ratio = annealing.schedule(cfg, step) * jnp.exp(state.log_servo)
  beta = ratio * critical_beta(state)
  w = state.log_weights
  if train and cfg.iterations > 1:
    iterate = lambda *group: assignment.iterate(
      *group, cfg.balance, cfg.iterations - 1, cfg.chunk
    )
    w = jax.vmap(iterate)(fixed, held, w, beta)
  assign = lambda *group: assignment.assign(*group, draw=draw, chunk=cfg.chunk)
  prior = averages.value(state.counts)
  weights = w
  if log_prior is not None:
    log_prior = jnp.moveaxis(log_prior.reshape(-1, *log_prior.shape[-2:]), 1, 0)
    weights = _with_side_information(cfg, w, prior, log_prior)
  codes, sums = jax.vmap(assign)(fixed, held, weights, beta, keys)
  picked = jax.vmap(lambda book, c: book[c])(held, codes)
  values = base.merge_groups(picked, z.shape)
  bits = -jnp.log2(jnp.maximum(jnp.take_along_axis(prior, codes, axis=1), 1e-9)).mean()
  n = fixed.shape[1]
  losses = {'commitment': cfg.commitment * jnp.mean((z - values) ** 2)}
  if cfg.encoder_loss == 'free_energy':
    pull = jax.vmap(_pull)(base.split_groups(z, cfg.groups), held, weights, beta)
    losses['commitment'] = cfg.commitment * pull.mean()
  if cfg.codebook == 'free_energy':
    free = _free_energy(n, sums, codebook, beta)
    losses['free_energy'] = cfg.codebook_weight * free
  stats = {
    'beta_ratio': ratio,
    'beta': beta.mean(),
    'rate_bits': bits,
    'soft_entropy_bits': base.mean_entropy_bits(sums.mass / n),
  }
  if train:
    log_servo = annealing.servo(cfg, state.log_servo, bits, step)
    state = _next_state(cfg, state, fixed, sums, w, log_servo)
  return base.Quantized(
    values=base.estimate(ESTIMATORS[cfg.estimator], z, values, cfg.groups),
    codes=base.merge_codes(codes, z.shape[:-1]),
    losses=losses,
    stats=stats,
    state=jax.lax.stop_gradient(state),
  )


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
    pool = jax.random.permutation(rng, state.recent, axis=1)
    target = pool[:, jnp.arange(cfg.num_codes) % pool.shape[1]]
    codebook = jnp.where(moves.dead[..., None], target, codebook)
  else:
    scale = jnp.sqrt(annealing.variances(state.spread))
    codebook = revive.split(rng, codebook, moves, scale)
  shared = lambda avg: avg._replace(total=revive.share(avg.total, moves))
  marginal = shared(state.marginal)
  factor = state.factor._replace(total=revive.inherit(state.factor.total, moves))
  w = assignment.next_log_weights(
    cfg.balance, averages.value(marginal), averages.value(factor)
  )
  state = state.replace(
    marginal=marginal,
    factor=factor,
    counts=shared(state.counts),
    log_weights=jnp.where(moves.dead | moves.given, w, state.log_weights),
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
