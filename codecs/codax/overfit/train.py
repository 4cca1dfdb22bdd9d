"""Training an overfitted codec: many pictures of one shape, many lambdas, one program.

Stage 1 trains latents and networks together, with rounding replaced by soft rounding
with noise between (C3, Kim et al. 2023, section 3.1)::

  q = s_T(s_T(y) + u),   s_T(y) = m + tanh((y - m) / T) / (2 tanh(1 / (2 T))),
                         m = floor(y) + 1/2

where the temperature T and the width of the noise u fall over the stage. Stage 2 keeps
the rounded latents and trains the networks on what the decoder will really see.

A *problem* is a picture and a lambda; all arrays lead with the axis P of problems. The
loss of one is MSE (of values in [0, 1]) + lambda * bits of the latents a pixel. The
lengths of the stages are numbers that the compiled program is given, so one program
serves every preset.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from codax.overfit import model
from codax.overfit.format import arch as archs
from codax.overfit.format import stream
from codax.overfit.format.arch import Arch
from codax.training import soap

# What a recipe names.
CHOICES = {
  'clip': ('networks', 'all', 'none'),
  'law': ('gaussian', 'kumaraswamy'),
  'optimizer': ('soap', 'adam'),
}


class Recipe(NamedTuple):
  """How to train. Hashable, so fit for a static argument of `jax.jit`.

  Attributes:
    learning_rate: first rate in stage 1; falls to 0 along a cosine.
    hard_rate: first rate of stage 2, likewise.
    clip_norm: largest norm of a gradient.
    clip: of which: that of the 'networks', or of 'all' parameters as one; or 'none'.
    temperature: of soft rounding at the start and the end of stage 1, linear between.
    law: of the noise between, 'gaussian', or C3's 'kumaraswamy', which
      lies within +-1/2 and becomes uniform as its parameter falls to 1.
    noise: standard deviation of the first, parameter a >= 1 of the second; likewise.
      C3 has 'kumaraswamy', (2, 1), with temperatures (0.3, 0.1).
    optimizer: of the networks: 'soap' or 'adam'. The latents' is Adam.
    refresh: steps of SOAP between two looks for its bases.
  """

  learning_rate: float = 1e-2
  hard_rate: float = 1e-3
  clip_norm: float = 0.1
  clip: str = 'networks'
  temperature: tuple[float, float] = (0.35, 0.08)
  law: str = 'gaussian'
  noise: tuple[float, float] = (0.22, 0.15)
  optimizer: str = 'soap'
  refresh: int = 10


class Length(NamedTuple):
  """Steps of the two stages."""

  first: int
  second: int

  @property
  def total(self) -> int:
    return self.first + self.second


@flax.struct.dataclass
class State:
  """Training state; arrays lead with P but for the step.

  Attributes:
    step: int32 scalar.
    params: see `model`.
    moments: of the optimisers.
    undone: int32 [P], steps that were undone, see `divergence.guard`.
  """

  step: jax.Array
  params: Any
  moments: Any
  undone: jax.Array


def soft_round(x: jax.Array, temperature: jax.Array) -> jax.Array:
  """Rounds x the more, the lower the temperature is (Agustsson and Theis 2020)."""
  middle = jnp.floor(x) + 0.5
  scale = 0.5 / jnp.tanh(0.5 / temperature)
  return middle + scale * jnp.tanh((x - middle) / temperature)


def kumaraswamy(rng: jax.Array, shape: tuple[int, ...], a: jax.Array) -> jax.Array:
  """Noise within +-1/2 whose density has its mode at 0, float32 (C3, appendix).

  Kumaraswamy's distribution function on [0, 1] is 1 - (1 - x**a)**b; its mode is at 1/2
  for b = (2**a (a - 1) + 1) / a, and it is uniform for a = 1.
  """
  b = (2.0**a * (a - 1) + 1) / a
  # 1 - u is as uniform as u; so near 0 no logarithm is of 0
  log = jnp.log(jax.random.uniform(rng, shape, minval=1e-7))
  return (-jnp.expm1(log / b)) ** (1 / a) - 0.5


def noisy(
  rng: jax.Array,
  latents: jax.Array,
  temperature: jax.Array,
  noise: jax.Array,
  law: str = 'gaussian',
) -> jax.Array:
  """Latent parameters [N] to softly rounded latents [N] in quantisation steps."""
  y = soft_round(latents * model.LATENT_GAIN, temperature)
  if law == 'kumaraswamy':
    y = y + kumaraswamy(rng, y.shape, noise)
  else:
    y = y + noise * jax.random.normal(rng, y.shape)
  return soft_round(y, temperature)


def hard(latents: jax.Array) -> jax.Array:
  """Latent parameters [N] to the integers that a file holds, as float32."""
  most = stream.MAX_LATENT
  return jnp.clip(jnp.round(latents * model.LATENT_GAIN), -most, most)


def objective(
  networks: Any, arch: Arch, latents: jax.Array, target: jax.Array, lmbda: Any
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Loss of one problem, and its parts.

  Args:
    networks: dict with 'synthesis' and 'entropy'.
    arch: the shape.
    latents: [N] in quantisation steps.
    target: float [H, W, C] in [0, 1].
    lmbda: scalar.
  """
  grids = model.split(latents, archs.grid_shapes(arch, *target.shape[:2]))
  image = model.synthesise(networks['synthesis'], arch, grids)
  law = model.predict(networks['entropy'], arch, grids)
  bits = model.laplace_bits(latents, *law).sum()
  return _parts(jnp.mean((image - target) ** 2), bits, lmbda, target.shape)


def objective_many(
  networks: Any, arch: Arch, latents: jax.Array, targets: jax.Array, lmbdas: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """`objective` for arrays that lead with P: the losses [P] and their parts."""
  shape = targets.shape[1:]
  shapes = archs.grid_shapes(arch, *shape[:2])
  grids = jax.vmap(lambda flat: model.split(flat, shapes))(latents)
  images = model.synthesise_many(networks['synthesis'], arch, grids)
  mse = jnp.mean((images - targets) ** 2, axis=(1, 2, 3))
  law = model.predict_many(networks['entropy'], arch, grids)
  return _parts(mse, model.laplace_bits(latents, *law).sum(1), lmbdas, shape)


def _parts(mse, bits, lmbda, shape):
  bpp = bits / (shape[0] * shape[1])
  loss = mse + lmbda * bpp
  return loss, {'loss': loss, 'mse': mse, 'bpp': bpp}


_adam = optax.scale_by_adam(b1=0.9, b2=0.999)
# Of the networks, by name.
_OPTIMIZERS = {'soap': soap.scale_by_soap(b1=0.9, b2=0.9), 'adam': _adam}


def _networks(tree: Any) -> dict[str, Any]:
  return {k: tree[k] for k in archs.MODULES}


def start_moments(recipe: Recipe, params: Any) -> dict[str, Any]:
  """Of both optimisers before the first step: that of the latents is Adam."""
  nets = _OPTIMIZERS[recipe.optimizer].init(_networks(params))
  return {'networks': nets, 'latents': _adam.init(params['latents'])}


def _update(recipe: Recipe, params: Any, moments: Any, grads: Any, rates: Any):
  """One step with rates (networks', latents'), gradients clipped."""
  clipped = grads if recipe.clip == 'all' else _networks(grads)
  if recipe.clip != 'none':
    norm = optax.global_norm(clipped)
    factor = recipe.clip_norm / jnp.maximum(norm, recipe.clip_norm)
    clipped = jax.tree.map(lambda g: factor * g, clipped)
  grads = {**grads, **clipped}
  optimizer = _OPTIMIZERS[recipe.optimizer]
  networks, nets = optimizer.update(_networks(grads), moments['networks'])
  latents, rest = _adam.update(grads['latents'], moments['latents'])
  move = lambda rate, p, u: p - rate * u
  moved = jax.tree.map(functools.partial(move, rates[0]), _networks(params), networks)
  params = {**moved, 'latents': move(rates[1], params['latents'], latents)}
  return params, {'networks': nets, 'latents': rest}


def _refresh(recipe: Recipe, moments: Any, step: jax.Array) -> Any:
  """What is due after a step, `step` being its number from 0."""
  if recipe.optimizer != 'soap':
    return moments
  nets = moments['networks']
  fresh = lambda: soap.refresh(nets, step == 0)
  nets = jax.lax.cond(step % recipe.refresh == 0, fresh, lambda: nets)
  return {**moments, 'networks': nets}


def _schedule(recipe: Recipe, length: tuple[jax.Array, jax.Array], step: jax.Array):
  """What a step needs to know of where it stands.

  Returns:
    in_second, (rates of networks and of latents), temperature, noise.
  """
  first, second = length
  in_second = step >= first
  part = lambda at, whole: jnp.clip(at / jnp.maximum(whole, 1), 0.0, 1.0)
  share = part(step, first)
  cosine = lambda x: 0.5 * (1 + jnp.cos(jnp.pi * x))
  rate = recipe.learning_rate * cosine(share)
  hard_rate = recipe.hard_rate * cosine(part(step - first, second))
  rates = jnp.where(in_second, hard_rate, rate), jnp.where(in_second, 0.0, rate)
  along = lambda ends: ends[0] + share * (ends[1] - ends[0])
  return in_second, rates, along(recipe.temperature), along(recipe.noise)


def shared_step(arch: Arch, recipe: Recipe, total: int) -> Callable[..., Any]:
  """A compiled step of stage 1 in which all pictures share their networks.

  Returns:
    (params, moments, targets [P, H, W, C], lmbdas [P], rng, step) -> (params, moments,
    mean loss relative to lambda). ``params['latents']`` lead with P, networks do not.
  """

  def loss(params, targets, lmbdas, rng, ends):
    def one(latents, target, lmbda, key):
      y = noisy(key, latents, *ends, recipe.law)
      value, _ = objective(params, arch, y, target, lmbda)
      # the same weight for each lambda's pictures
      return value * jnp.sqrt(1e-3 / lmbda)

    keys = jax.random.split(rng, targets.shape[0])
    return jax.vmap(one)(params['latents'], targets, lmbdas, keys).mean()

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, moments, targets, lmbdas, rng, at):
    _, rates, *ends = _schedule(recipe, (total, 0), at)
    value, grads = jax.value_and_grad(loss)(
      params, targets, lmbdas, jax.random.fold_in(rng, at), ends
    )
    params, moments = _update(recipe, params, moments, grads, rates)
    return params, _refresh(recipe, moments, at), value

  return step


def init(
  rng: jax.Array, arch: Arch, recipe: Recipe, targets: jax.Array, start: Any = None
) -> State:
  """The state before the first step.

  Args:
    rng: key.
    arch: the shape.
    recipe: how to train.
    targets: float32 [P, H, W, C].
    start: networks to start from (without P), or None for random ones.
  """

  count, *size, channels = targets.shape
  shapes = archs.grid_shapes(arch, *size)
  keys = jax.random.split(rng, count)
  params, moments = _fresh(keys, arch, recipe, len(shapes), channels)
  if start is not None:
    every = lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x)))
    params = {**params, **jax.tree.map(every, start)}
  else:
    last = f'b{archs.layers(arch, "synthesis") - 1}'
    net = {**params['synthesis'], last: targets.mean((1, 2))}
    params = {**params, 'synthesis': net}
  latents = jnp.zeros((count, sum(h * w for h, w in shapes)))
  params = {**params, 'latents': latents}
  moments = {'networks': moments, 'latents': jax.vmap(_adam.init)(latents)}
  return begin(params, moments)


def begin(params: Any, moments: Any) -> State:
  """The state before the first step with parameters and moments that lead with P."""
  undone = jnp.zeros(params['latents'].shape[0], jnp.int32)
  return State(jnp.zeros((), jnp.int32), params, moments, undone)


# Compiled as a whole: its hundred small programs would take longer, one by one.
@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _fresh(keys: jax.Array, arch: Arch, recipe: Recipe, grids: int, channels: int):
  """Networks of random weights for each key, and their optimiser's moments."""

  def one(key):
    networks = model.init(key, arch, grids, channels)
    return networks, _OPTIMIZERS[recipe.optimizer].init(networks)

  return jax.vmap(one)(keys)


def step(
  arch: Arch,
  recipe: Recipe,
  length: tuple[jax.Array, jax.Array],
  state: State,
  targets: jax.Array,
  lmbdas: jax.Array,
  rng: jax.Array,
) -> tuple[State, dict[str, jax.Array]]:
  """One step of every problem.

  Args:
    arch, recipe: static.
    length: steps of the two stages.
    state: of P problems.
    targets: float32 [P, H, W, C].
    lmbdas: float32 [P].
    rng: key of this step.

  Returns:
    The next state and metrics, float32 [P] each: loss, mse, bpp.
  """
  count = targets.shape[0]
  in_second, rates, temperature, noise = _schedule(recipe, length, state.step)
  keys = jax.random.split(rng, count)

  def loss(params):
    # Both stages are one program: in stage 2 latents are rounded and their rate is 0.
    one = lambda key, flat: noisy(key, flat, temperature, noise, recipe.law)
    soft = jax.vmap(one)(keys, params['latents'])
    latents = jnp.where(in_second, hard(params['latents']), soft)
    if count > 1 or model.fused(arch, 'synthesis') or model.fused(arch, 'entropy'):
      losses, metrics = objective_many(params, arch, latents, targets, lmbdas)
    else:  # XLA has faster routines without the axis
      one = jax.tree.map(lambda x: x[0], (params, latents, targets, lmbdas))
      found, metrics = objective(one[0], arch, *one[1:])
      losses, metrics = jax.tree.map(lambda x: x[None], (found, metrics))
    # No loss depends on another's parameters, so the sum's gradient is each one's.
    return losses.sum(), metrics

  grads, metrics = jax.grad(loss, has_aux=True)(state.params)
  params, moments = jax.vmap(functools.partial(_update, recipe), (0, 0, 0, None))(
    state.params, state.moments, grads, rates
  )
  moments = _refresh(recipe, moments, state.step)
  return State(state.step + 1, params, moments, state.undone), metrics


# CPUs run convolutions slowly inside loops: there each step is a dispatch of its own.
@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _single(arch, recipe, length, state, targets, lmbdas, rng):
  rng = jax.random.fold_in(rng, state.step)
  return step(arch, recipe, length, state, targets, lmbdas, rng)


# One program, whatever the count: it is not worth a compilation.
@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _many(arch, recipe, length, state, targets, lmbdas, rng, count):
  def body(_, carry):
    s = carry[0]
    key = jax.random.fold_in(rng, s.step)
    return step(arch, recipe, length, s, targets, lmbdas, key)

  metrics = {name: jnp.zeros(targets.shape[0]) for name in ('loss', 'mse', 'bpp')}
  return jax.lax.fori_loop(0, count, body, (state, metrics))


def dispatch(
  arch: Arch,
  recipe: Recipe,
  length: Length,
  state: State,
  targets: jax.Array,
  lmbdas: jax.Array,
  rng: jax.Array,
  count: int,
) -> tuple[State, dict[str, np.ndarray]]:
  """`count` steps; `state` is used up. Metrics are those of the last step, on the host.

  `rng` is the key of the whole run: each step takes its own from it.
  """
  length = np.int32(length.first), np.int32(length.second)
  args = targets, jnp.asarray(lmbdas, jnp.float32), rng
  if jax.default_backend() == 'cpu':
    for _ in range(count):
      state, metrics = _single(arch, recipe, length, state, *args)
  else:
    state, metrics = _many(arch, recipe, length, state, *args, np.int32(count))
  return state, jax.device_get(metrics)
