"""Training an overfitted codec: many pictures of one shape, many lambdas, one program.

Stage 1 trains latents and networks together, with rounding replaced by soft rounding
with noise between (C3, Kim et al. 2023, section 3.1)::

  q = s_T(s_T(y) + u),   s_T(y) = floor(y) + 1/2 + tanh((y - floor(y) - 1/2) / T) / ...

where temperature T and the width of the noise u fall over the stage. Stage 2 keeps the
rounded latents and trains the networks on what the decoder will really see.

A *problem* is a picture and a lambda; all arrays lead with the axis P of problems. The
loss of one is MSE (of values in [0, 1]) + lambda * bits of the latents a pixel.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax
import jax
import jax.numpy as jnp
import optax

from codax.overfit import arch as archs
from codax.overfit import model
from codax.overfit.arch import Arch

# Latents stay in what an alphabet of the format can hold.
MAX_LATENT = 255


class Recipe(NamedTuple):
  """How to train. Hashable, so fit for a static argument of `jax.jit`.

  Attributes:
    steps: of both stages together.
    hard_share: share of the steps that stage 2 gets.
    learning_rate: first rate of Adam; falls to 0 along a cosine.
    warmup: share of the steps over which the rate rises.
    hard_rate: first learning rate of stage 2, likewise.
    clip_norm: largest norm of the networks' gradient.
    temperature: of soft rounding at the start and the end of stage 1, linear between.
    noise: standard deviation of the noise, likewise.
  """

  steps: int = 1000
  hard_share: float = 0.1
  learning_rate: float = 1e-2
  warmup: float = 0.0
  hard_rate: float = 1e-3
  clip_norm: float = 0.1
  temperature: tuple[float, float] = (0.35, 0.08)
  noise: tuple[float, float] = (0.22, 0.15)


@flax.struct.dataclass
class State:
  """Training state; arrays lead with P but for the step.

  Attributes:
    step: int32 scalar.
    params: see `model`.
    moments: of Adam.
  """

  step: jax.Array
  params: Any
  moments: Any


def soft_round(x: jax.Array, temperature: jax.Array) -> jax.Array:
  """Rounds x the more, the lower the temperature is (Agustsson and Theis 2020)."""
  middle = jnp.floor(x) + 0.5
  return middle + 0.5 * jnp.tanh((x - middle) / temperature) / jnp.tanh(
    0.5 / temperature
  )


def noisy(
  rng: jax.Array, latents: Any, temperature: jax.Array, noise: jax.Array
) -> tuple[jax.Array, ...]:
  """Latent parameters to softly rounded latents in quantisation steps."""
  out = []
  for i, y in enumerate(latents):
    y = soft_round(y * model.LATENT_GAIN, temperature)
    u = noise * jax.random.normal(jax.random.fold_in(rng, i), y.shape)
    out.append(soft_round(y + u, temperature))
  return tuple(out)


def hard(latents: Any) -> tuple[jax.Array, ...]:
  """Latent parameters to the integers that a file holds, as float32."""
  round_one = lambda y: jnp.clip(
    jnp.round(y * model.LATENT_GAIN), -MAX_LATENT, MAX_LATENT
  )
  return tuple(round_one(y) for y in latents)


def objective(
  networks: Any, arch: Arch, grids: Any, target: jax.Array, lmbda: Any, batched: bool
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Loss of one problem, and its parts.

  Args:
    networks: dict with 'synthesis' and 'entropy'.
    arch: the shape.
    grids: latents in quantisation steps.
    target: float [H, W, C] in [0, 1].
    lmbda: scalar.
    batched: see `model.synthesise`.
  """
  image = model.synthesise(networks['synthesis'], arch, grids, batched)
  mse = jnp.mean((image - target) ** 2)
  bpp = model.rate(networks['entropy'], arch, grids) / (target.shape[0] * target.shape[1])
  loss = mse + lmbda * bpp
  return loss, {'loss': loss, 'mse': mse, 'bpp': bpp}


_adam = optax.scale_by_adam(b1=0.9, b2=0.999)


def _update(recipe: Recipe, params: Any, moments: Any, grads: Any, rate: jax.Array):
  """One step of Adam, the networks' gradient clipped."""
  networks = {k: grads[k] for k in archs.MODULES}
  norm = optax.global_norm(networks)
  factor = recipe.clip_norm / jnp.maximum(norm, recipe.clip_norm)
  clipped = jax.tree.map(lambda g: factor * g, networks)
  updates, moments = _adam.update({**grads, **clipped}, moments)
  params = jax.tree.map(lambda p, u: p - rate * u, params, updates)
  return params, moments


def _stage_1(arch, recipe, batched, share, params, moments, target, lmbda, rng):
  """One step of one problem; `share` in [0, 1] is how far the stage has come."""
  along = lambda ends: ends[0] + share * (ends[1] - ends[0])
  rate = recipe.learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * share))
  if recipe.warmup:
    rate = rate * jnp.minimum(1.0, (share + 1e-3) / recipe.warmup)

  def loss(params):
    grids = noisy(rng, params['latents'], along(recipe.temperature), along(recipe.noise))
    return objective(params, arch, grids, target, lmbda, batched)

  grads, metrics = jax.grad(loss, has_aux=True)(params)
  return *_update(recipe, params, moments, grads, rate), metrics


def _stage_2(arch, recipe, batched, share, params, moments, target, lmbda, rng):
  """As `_stage_1`, for the networks alone."""
  del rng
  rate = recipe.hard_rate * 0.5 * (1 + jnp.cos(jnp.pi * share))
  grids = hard(params['latents'])

  def loss(networks):
    return objective(networks, arch, grids, target, lmbda, batched)

  networks = {k: params[k] for k in archs.MODULES}
  grads, metrics = jax.grad(loss, has_aux=True)(networks)
  still = jax.tree.map(jnp.zeros_like, params['latents'])
  new, moments = _update(recipe, params, moments, {**grads, 'latents': still}, rate)
  return {**new, 'latents': params['latents']}, moments, metrics


def init(rng: jax.Array, arch: Arch, targets: jax.Array, start: Any = None) -> State:
  """The state before the first step.

  Args:
    rng: key.
    arch: the shape.
    targets: float32 [P, H, W, C].
    start: networks to start from (without P), or None for random ones.
  """

  def one(key, target):
    params = model.init(key, arch, target.shape)
    if start is not None:
      params = {**params, **start}
    else:
      count = archs.layers(arch, 'synthesis')
      colour = target.mean((0, 1))
      net = {**params['synthesis'], f'b{count - 1}': colour}
      params = {**params, 'synthesis': net}
    return params, _adam.init(params)

  keys = jax.random.split(rng, targets.shape[0])
  params, moments = jax.vmap(one)(keys, targets)
  return State(jnp.zeros((), jnp.int32), params, moments)


def boundaries(recipe: Recipe) -> tuple[int, int]:
  """(steps of stage 1, all steps)."""
  second = round(recipe.steps * recipe.hard_share)
  return recipe.steps - second, recipe.steps


def step(
  arch: Arch,
  recipe: Recipe,
  state: State,
  targets: jax.Array,
  lmbdas: jax.Array,
  rng: jax.Array,
  second: bool,
) -> tuple[State, dict[str, jax.Array]]:
  """One step of every problem.

  Args:
    arch, recipe: static.
    state: of P problems.
    targets: float32 [P, H, W, C].
    lmbdas: float32 [P].
    rng: key of the whole run; each step and problem takes its own from it.
    second: static; whether this is stage 2.

  Returns:
    The next state and metrics, float32 [P] each: loss, mse, bpp.
  """
  first, total = boundaries(recipe)
  at, length = (state.step - first, total - first) if second else (state.step, first)
  share = at.astype(jnp.float32) / max(length, 1)
  count = targets.shape[0]
  one = functools.partial(
    _stage_2 if second else _stage_1, arch, recipe, count > 1, share
  )
  keys = jax.random.split(jax.random.fold_in(rng, state.step), count)
  args = state.params, state.moments, targets, lmbdas, keys
  if count > 1:
    params, moments, metrics = jax.vmap(one)(*args)
  else:  # XLA has faster routines without the axis
    out = one(*jax.tree.map(lambda x: x[0], args))
    params, moments, metrics = jax.tree.map(lambda x: x[None], out)
  return State(state.step + 1, params, moments), metrics


# CPUs run convolutions slowly inside loops: there each step is a dispatch of its own.
@functools.partial(jax.jit, static_argnums=(0, 1, 6), donate_argnums=2)
def _single(arch, recipe, state, targets, lmbdas, rng, second):
  return step(arch, recipe, state, targets, lmbdas, rng, second)


@functools.partial(jax.jit, static_argnums=(0, 1, 6, 7), donate_argnums=2)
def _many(arch, recipe, state, targets, lmbdas, rng, second, count):
  body = lambda s, _: step(arch, recipe, s, targets, lmbdas, rng, second)
  state, metrics = jax.lax.scan(body, state, length=count)
  return state, jax.tree.map(lambda x: x[-1], metrics)


def run(
  arch: Arch,
  recipe: Recipe,
  state: State,
  targets: jax.Array,
  lmbdas: jax.Array,
  rng: jax.Array,
  report: Callable[[int, dict], bool] = lambda step, metrics: True,
  every: int = 50,
) -> State:
  """Trains from `state` to the end of the recipe.

  Args:
    report: called as ``report(steps done, metrics of the last one)`` about every
      `every` steps; training stops early when it returns False.
    every: steps in one dispatch on an accelerator.

  Returns:
    The trained state; `state` is used up.
  """
  first, total = boundaries(recipe)
  done = int(state.step)
  on_cpu = jax.default_backend() == 'cpu'
  while done < total:
    second = done >= first
    count = min(every, (total if second else first) - done)
    if on_cpu:
      for _ in range(count):
        state, metrics = _single(arch, recipe, state, targets, lmbdas, rng, second)
    else:
      state, metrics = _many(arch, recipe, state, targets, lmbdas, rng, second, count)
    done += count
    if not report(done, jax.device_get(metrics)):
      break
  return state
