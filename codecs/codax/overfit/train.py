"""Training an overfitted codec: many images of one size, many lambdas, one program.

Stage 1 trains latents and networks together, with rounding replaced by soft rounding
with noise between (C3, Kim et al. 2023, section 3.1)::

  q = s_T(s_T(y) + u),   s_T(y) = m + tanh((y - m) / T) / (2 tanh(1 / (2 T))),
                         m = floor(y) + 1/2

where the temperature T and the width of the noise u fall over the stage. Stage 2 has
rounded latents, as the decoder will have them: it trains the networks alone, or latents
too by a straight-through estimator, see `latent_rounding` and `stages`.

A *problem* is an image and a lambda; all arrays lead with the axis P of problems. Its
loss is MSE (of values in [0, 1]) + lambda * bits of the latents per pixel. The numbers
of steps are arguments of the compiled program, so one program serves every preset.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from codax import programs
from codax.overfit import latent_rounding, model, objective, stages
from codax.overfit.format import arch as archs
from codax.overfit.format.arch import Arch
from codax.overfit.presets import Steps, TrainConfig
from codax.training import soap


@flax.struct.dataclass
class State:
  """Training state; arrays lead with P but for the step.

  Attributes:
    step: int32 scalar, number of steps made.
    params: see `model`.
    opt_state: moments and bases of the optimizers, see `init_opt_state`.
    skipped: int32 [P], number of skipped steps, see `divergence.skip_nonfinite`.
    plateau: state of stage 2's plateau rule, see `stages`; None without it.
  """

  step: jax.Array
  params: Any
  opt_state: Any
  skipped: jax.Array
  plateau: stages.Plateau | None = None


_adam = optax.scale_by_adam(b1=0.9, b2=0.999)
# Optimizers of the networks, by name.
_OPTIMIZERS = {'soap': soap.scale_by_soap(b1=0.9, b2=0.9), 'adam': _adam}


def _select_networks(tree: Any) -> dict[str, Any]:
  return {k: tree[k] for k in archs.MODULES}


def init_opt_state(recipe: TrainConfig, params: Any) -> dict[str, Any]:
  """Makes the initial state of both optimizers; that of the latents is Adam."""
  nets = _OPTIMIZERS[recipe.optimizer].init(_select_networks(params))
  return {'networks': nets, 'latents': _adam.init(params['latents'])}


def _clip(recipe: TrainConfig, grads: Any) -> Any:
  """Clips the gradient of a problem's parameters."""
  clipped = grads if recipe.clip == 'all' else _select_networks(grads)
  if recipe.clip != 'none':
    norm = optax.tree.norm(clipped)
    factor = recipe.clip_norm / jnp.maximum(norm, recipe.clip_norm)
    clipped = jax.tree.map(lambda g: factor * g, clipped)
  return {**grads, **clipped}


def _move_latents(latents: Any, opt_state: Any, grads: Any, lr: Any):
  """Makes a step of a problem's latents: (latents, state of their optimizer)."""
  updates, opt_state = _adam.update(grads, opt_state)
  return latents - lr * updates, opt_state


def _move_networks(recipe: TrainConfig, networks: Any, opt_state: Any, grads, lr):
  """Makes a step of networks: (networks, state of their optimizer)."""
  updates, opt_state = _OPTIMIZERS[recipe.optimizer].update(grads, opt_state)
  return jax.tree.map(lambda p, u: p - lr * u, networks, updates), opt_state


def _update(recipe: TrainConfig, params: Any, opt_state: Any, grads: Any, lrs: Any):
  """Makes a step with learning rates (networks', latents'), gradients clipped."""
  grads = _clip(recipe, grads)
  latents, rest = _move_latents(
    params['latents'], opt_state['latents'], grads['latents'], lrs[1]
  )
  old, slopes = _select_networks(params), _select_networks(grads)
  networks, nets = _move_networks(recipe, old, opt_state['networks'], slopes, lrs[0])
  return {**networks, 'latents': latents}, {'networks': nets, 'latents': rest}


def _refresh(recipe: TrainConfig, opt_state: Any, step: jax.Array) -> Any:
  """Computes new bases of SOAP after step number `step`, from 0, where due.

  Args:
    recipe: settings.
    opt_state: state of the networks' optimizer.
    step: int32 scalar.
  """
  if recipe.optimizer != 'soap':
    return opt_state
  fresh = lambda: soap.refresh(opt_state, step == 0)
  return jax.lax.cond(step % recipe.refresh == 0, fresh, lambda: opt_state)


def shared_step(arch: Arch, recipe: TrainConfig, total: int) -> Callable[..., Any]:
  """Makes a compiled step of stage 1 in which all images share their networks.

  Returns:
    (params, opt_state, targets [P, H, W, C], lmbdas [P], rng, step) -> (params,
    opt_state, mean loss relative to lambda). ``params['latents']`` lead with P,
    networks do not.
  """

  def loss(params, targets, lmbdas, rng, ends):
    def image_loss(latents, target, lmbda, key):
      y = latent_rounding.round_with_noise(
        key, latents, *ends, recipe.noise_distribution
      )
      value, _ = objective.compute(params, arch, y, target, lmbda)
      # the same weight for each lambda's images
      return value * jnp.sqrt(1e-3 / lmbda)

    keys = jax.random.split(rng, targets.shape[0])
    return jax.vmap(image_loss)(params['latents'], targets, lmbdas, keys).mean()

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, opt_state, targets, lmbdas, rng, at):
    _, lrs, *ends = stages.schedule(recipe, (total, 0), at)
    value, grads = jax.value_and_grad(loss)(
      params, targets, lmbdas, jax.random.fold_in(rng, at), ends
    )
    params, opt_state = _update(recipe, params, opt_state, grads, lrs)
    nets = _refresh(recipe, opt_state['networks'], at)
    return params, {**opt_state, 'networks': nets}, value

  return step


def init(
  rng: jax.Array,
  arch: Arch,
  recipe: TrainConfig,
  targets: jax.Array,
  networks: Any = None,
) -> State:
  """Makes the state before the first step.

  Args:
    rng: key.
    arch: architecture.
    recipe: settings.
    targets: float32 [P, H, W, C]. For a NumPy array the latents are NumPy arrays too,
      and only their mean is compiled for the image's size.
    networks: initial networks (without P), or None for random ones.
  """
  xp = np if isinstance(targets, np.ndarray) else jnp
  count, *size, channels = targets.shape
  shapes = archs.grid_shapes(arch, *size)
  keys = jax.random.split(rng, count)
  params, opt_state = _init_networks(keys, arch, recipe, len(shapes), channels)
  if networks is not None:
    repeat = lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x)))
    params = {**params, **jax.tree.map(repeat, networks)}
  else:
    last = f'b{archs.layers(arch, "synthesis") - 1}'
    net = {**params['synthesis'], last: jnp.mean(targets, (1, 2))}
    params = {**params, 'synthesis': net}
  latents = xp.zeros((count, sum(h * w for h, w in shapes)), xp.float32)
  params = {**params, 'latents': latents}
  moments = optax.ScaleByAdamState(
    xp.zeros(count, xp.int32), xp.zeros_like(latents), xp.zeros_like(latents)
  )
  opt_state = {'networks': opt_state, 'latents': moments}
  return init_state(params, opt_state, recipe)


def init_state(params: Any, opt_state: Any, recipe: TrainConfig | None = None) -> State:
  """Makes the state before the first step; params and opt_state lead with P.

  Without a recipe it has no plateau rule.
  """
  skipped = jnp.zeros(params['latents'].shape[0], jnp.int32)
  plateau = recipe and stages.init(recipe, params, opt_state)
  return State(jnp.zeros((), jnp.int32), params, opt_state, skipped, plateau)


# Compiled as a whole: its hundred small programs would take longer, one by one.
@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _init_networks(
  keys: jax.Array, arch: Arch, recipe: TrainConfig, grids: int, channels: int
):
  """Draws networks for each key, and makes their optimizer's state."""

  def init_one(key):
    networks = model.init(key, arch, grids, channels)
    return networks, _OPTIMIZERS[recipe.optimizer].init(networks)

  return jax.vmap(init_one)(keys)


def step(
  arch: Arch,
  recipe: TrainConfig,
  stage_steps: tuple[jax.Array, jax.Array],
  state: State,
  targets: jax.Array,
  lmbdas: jax.Array,
  rng: jax.Array,
) -> tuple[State, dict[str, jax.Array]]:
  """Makes one step of every problem.

  Args:
    arch, recipe: architecture and settings, static.
    stage_steps: numbers of steps of the two stages.
    state: state of P problems.
    targets: float32 [P, H, W, C].
    lmbdas: weights of the rate, float32 [P].
    rng: key of this step.

  Returns:
    The next state and metrics, float32 [P] each: loss, mse, bpp.
  """
  parts, data = (_step_latents, _step_networks), (targets, lmbdas, rng)
  if state.plateau is None:
    return _step_in_parts(parts, arch, recipe, stage_steps, state, *data)
  parts = [functools.partial(part, stage2_lr=state.plateau.lr) for part in parts]

  def make_step(state):
    made = _step_in_parts(parts, arch, recipe, stage_steps, state, *data)
    return stages.follow(recipe, stage_steps, state, *made)

  if jax.default_backend() == 'cpu':  # branches are slow there, like loops
    return make_step(state)
  keep = lambda state: (state.replace(step=state.step + 1), state.plateau.best_metrics)
  return jax.lax.cond((state.plateau.ended_at > 0).all(), keep, make_step, state)


def _step_in_parts(
  parts: tuple[Callable, Callable], arch, recipe, stage_steps, state, *data
):
  """Makes a step as `step` does, by a function for latents and one for networks."""
  step_latents, step_networks = parts
  networks, latents = _select_networks(state.params), state.params['latents']
  latents, rest, grads, metrics = step_latents(
    arch, recipe, stage_steps, state.step, networks, latents,
    state.opt_state['latents'], *data,
  )  # fmt: skip
  networks, nets, at = step_networks(
    recipe, stage_steps, state.step, networks, state.opt_state['networks'], grads
  )
  params = {**networks, 'latents': latents}
  opt_state = {'networks': nets, 'latents': rest}
  return state.replace(step=at, params=params, opt_state=opt_state), metrics


def _step_latents(
  arch: Arch,
  recipe: TrainConfig,
  stage_steps: tuple[jax.Array, jax.Array],
  at: jax.Array,
  networks: Any,
  latents: jax.Array,
  opt_state: Any,
  targets: jax.Array,
  lmbdas: jax.Array,
  rng: jax.Array,
  stage2_lr: jax.Array | None = None,
):
  """Makes the step of the latents, and computes the gradient of the networks.

  Args:
    arch, recipe, stage_steps, targets, lmbdas, rng: see `step`.
    at: int32 scalar, number of steps made.
    networks: parameters of the networks.
    latents: float32 [P, N].
    opt_state: state of the latents' optimizer.
    stage2_lr: see `stages.schedule`.

  Returns:
    (latents, opt_state, clipped gradients of the networks, metrics).
  """
  count = targets.shape[0]
  is_stage2, lrs, temperature, noise = stages.schedule(
    recipe, stage_steps, at, stage2_lr
  )
  keys = jax.random.split(rng, count)

  def loss(params):
    # Both stages are one program, which computes latents of both.
    soften = lambda key, flat: latent_rounding.round_with_noise(
      key, flat, temperature, noise, recipe.noise_distribution
    )
    soft = jax.vmap(soften)(keys, params['latents'])
    rounded = latent_rounding.round_in_stage2(recipe, params['latents'])
    losses, metrics = objective.compute_fastest(
      arch, params, jnp.where(is_stage2, rounded, soft), targets, lmbdas
    )
    # No loss depends on another's parameters, so the sum's gradient is each one's.
    return losses.sum(), metrics

  params = {**networks, 'latents': latents}
  grads, metrics = jax.grad(loss, has_aux=True)(params)
  grads = jax.vmap(functools.partial(_clip, recipe))(grads)
  latents, opt_state = jax.vmap(_move_latents, (0, 0, 0, _axis(lrs[1])))(
    latents, opt_state, grads['latents'], lrs[1]
  )
  return latents, opt_state, _select_networks(grads), metrics


def _step_networks(
  recipe: TrainConfig,
  stage_steps: tuple[jax.Array, jax.Array],
  at: jax.Array,
  networks: Any,
  opt_state: Any,
  grads: Any,
  stage2_lr: jax.Array | None = None,
):
  """Makes the step of the networks: (networks, opt_state, number of steps made)."""
  _, lrs, *_ = stages.schedule(recipe, stage_steps, at, stage2_lr)
  networks, opt_state = jax.vmap(
    functools.partial(_move_networks, recipe), (0, 0, 0, _axis(lrs[0]))
  )(networks, opt_state, grads, lrs[0])
  return networks, _refresh(recipe, opt_state, at), at + 1


def _axis(lr: jax.Array) -> int | None:
  """Returns the axis of problems of a learning rate; None for one of all problems."""
  return 0 if jnp.ndim(lr) else None


# CPUs run convolutions slowly inside loops: there each step is two dispatches. Only the
# first program depends on the image's size; half the compilation is in the second.
@programs.jit_by_shape(static=('arch', 'recipe'), donate=('latents', 'opt_state'))
def _latents_program(
  arch, recipe, stage_steps, at, networks, latents, opt_state, targets, lmbdas, rng
):
  rng = jax.random.fold_in(rng, at)
  return _step_latents(
    arch, recipe, stage_steps, at, networks, latents, opt_state, targets, lmbdas, rng
  )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=(2, 3, 4))
def _networks_program(recipe, stage_steps, at, networks, opt_state, grads):
  return _step_networks(recipe, stage_steps, at, networks, opt_state, grads)


_plateau_step = programs.jit_by_shape(static=('arch', 'recipe'), donate=('state',))(
  step
)


def _single(arch, recipe, stage_steps, state, targets, lmbdas, rng):
  """Makes a step on CPUs, by two programs without a plateau rule."""
  if state.plateau is not None:
    rng = jax.random.fold_in(rng, state.step)
    return _plateau_step(arch, recipe, stage_steps, state, targets, lmbdas, rng)
  parts = _latents_program, _networks_program
  return _step_in_parts(parts, arch, recipe, stage_steps, state, targets, lmbdas, rng)


# The count is an argument of the program, so that one serves every count.
@programs.jit_by_shape(static=('arch', 'recipe'), donate=('state',))
def _many(arch, recipe, stage_steps, state, targets, lmbdas, rng, count):
  def body(_, carry):
    s = carry[0]
    key = jax.random.fold_in(rng, s.step)
    return step(arch, recipe, stage_steps, s, targets, lmbdas, key)

  metrics = {name: jnp.zeros(targets.shape[0]) for name in stages.METRICS}
  return jax.lax.fori_loop(0, count, body, (state, metrics))


def dispatch(
  arch: Arch,
  recipe: TrainConfig,
  stage_steps: Steps,
  state: State,
  targets: jax.Array,
  lmbdas: jax.Array,
  rng: jax.Array,
  count: int,
) -> tuple[State, dict[str, np.ndarray]]:
  """Makes `count` steps; the buffers of `state` are used up.

  Args:
    arch, recipe: architecture and settings.
    stage_steps: numbers of steps of the two stages.
    state: state of P problems.
    targets: float32 [P, H, W, C].
    lmbdas: weights of the rate, [P].
    rng: key of the whole run; each step takes its own from it.
    count: number of steps, 1 or more.

  Returns:
    The next state, and the metrics of the last step on the host, float32 [P] each.
  """
  stage_steps = np.int32(stage_steps.noise), np.int32(stage_steps.ste)
  args = targets, jnp.asarray(lmbdas, jnp.float32), rng
  if jax.default_backend() == 'cpu':
    for _ in range(count):
      state, metrics = _single(arch, recipe, stage_steps, state, *args)
  else:
    state, metrics = _many(arch, recipe, stage_steps, state, *args, np.int32(count))
  return state, jax.device_get(metrics)
