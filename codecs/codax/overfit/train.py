"""Training an overfitted codec: many images of one size, many lambdas, one program.

Stage 1 trains latents and networks together, with rounding replaced by soft rounding
with noise between (C3, Kim et al. 2023, section 3.1)::

  q = s_T(s_T(y) + u),   s_T(y) = m + tanh((y - m) / T) / (2 tanh(1 / (2 T))),
                         m = floor(y) + 1/2

where the temperature T and the width of the noise u fall over the stage. Stage 2 keeps
the rounded latents, as the decoder will have them, and trains the networks.

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

from codax.overfit import model
from codax.overfit.format import arch as archs
from codax.overfit.format import stream
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
  """

  step: jax.Array
  params: Any
  opt_state: Any
  skipped: jax.Array


def soft_round(x: jax.Array, temperature: jax.Array) -> jax.Array:
  """Rounds x the more, the lower the temperature is (Agustsson and Theis 2020)."""
  middle = jnp.floor(x) + 0.5
  scale = 0.5 / jnp.tanh(0.5 / temperature)
  return middle + scale * jnp.tanh((x - middle) / temperature)


def draw_kumaraswamy(rng: jax.Array, shape: tuple[int, ...], a: jax.Array) -> jax.Array:
  """Draws noise within +-1/2 whose density has its mode at 0 (C3, appendix).

  Kumaraswamy's distribution function on [0, 1] is 1 - (1 - x**a)**b; its mode is at 1/2
  for b = (2**a (a - 1) + 1) / a, and it is uniform for a = 1.
  """
  b = (2.0**a * (a - 1) + 1) / a
  # 1 - u is as uniform as u; so near 0 no logarithm is of 0
  log = jnp.log(jax.random.uniform(rng, shape, minval=1e-7))
  return (-jnp.expm1(log / b)) ** (1 / a) - 0.5


def round_with_noise(
  rng: jax.Array,
  latents: jax.Array,
  temperature: jax.Array,
  noise: jax.Array,
  noise_distribution: str = 'gaussian',
) -> jax.Array:
  """Rounds latent parameters [N] softly, with noise, to quantization steps [N]."""
  y = soft_round(latents * model.LATENT_GAIN, temperature)
  if noise_distribution == 'kumaraswamy':
    y = y + draw_kumaraswamy(rng, y.shape, noise)
  else:
    y = y + noise * jax.random.normal(rng, y.shape)
  return soft_round(y, temperature)


def round_latents(latents: jax.Array) -> jax.Array:
  """Rounds latent parameters [N] to the integers of a file, as float32."""
  most = stream.MAX_LATENT
  return jnp.clip(jnp.round(latents * model.LATENT_GAIN), -most, most)


def objective(
  networks: Any, arch: Arch, latents: jax.Array, target: jax.Array, lmbda: Any
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Computes the loss of one problem, and its parts.

  Args:
    networks: dict with 'synthesis' and 'entropy'.
    arch: architecture.
    latents: [N] in quantization steps.
    target: float [H, W, C] in [0, 1].
    lmbda: scalar.
  """
  grids = model.split(latents, archs.grid_shapes(arch, *target.shape[:2]))
  image = model.synthesize(networks['synthesis'], arch, grids)
  distribution = model.predict(networks['entropy'], arch, grids)
  bits = model.laplace_bits(latents, *distribution).sum()
  return _loss_terms(jnp.mean((image - target) ** 2), bits, lmbda, target.shape)


def objective_many(
  networks: Any, arch: Arch, latents: jax.Array, targets: jax.Array, lmbdas: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Computes `objective` for arrays that lead with P: losses [P] and their parts."""
  shape = targets.shape[1:]
  shapes = archs.grid_shapes(arch, *shape[:2])
  grids = jax.vmap(lambda flat: model.split(flat, shapes))(latents)
  images = model.synthesize_many(networks['synthesis'], arch, grids)
  mse = jnp.mean((images - targets) ** 2, axis=(1, 2, 3))
  distribution = model.predict_many(networks['entropy'], arch, grids)
  bits = model.laplace_bits(latents, *distribution).sum(1)
  return _loss_terms(mse, bits, lmbdas, shape)


def _loss_terms(mse, bits, lmbda, shape):
  bpp = bits / (shape[0] * shape[1])
  loss = mse + lmbda * bpp
  return loss, {'loss': loss, 'mse': mse, 'bpp': bpp}


_adam = optax.scale_by_adam(b1=0.9, b2=0.999)
# Optimizers of the networks, by name.
_OPTIMIZERS = {'soap': soap.scale_by_soap(b1=0.9, b2=0.9), 'adam': _adam}


def _select_networks(tree: Any) -> dict[str, Any]:
  return {k: tree[k] for k in archs.MODULES}


def init_opt_state(recipe: TrainConfig, params: Any) -> dict[str, Any]:
  """Makes the initial state of both optimizers; that of the latents is Adam."""
  nets = _OPTIMIZERS[recipe.optimizer].init(_select_networks(params))
  return {'networks': nets, 'latents': _adam.init(params['latents'])}


def _update(recipe: TrainConfig, params: Any, opt_state: Any, grads: Any, lrs: Any):
  """Makes a step with learning rates (networks', latents'), gradients clipped."""
  clipped = grads if recipe.clip == 'all' else _select_networks(grads)
  if recipe.clip != 'none':
    norm = optax.tree.norm(clipped)
    factor = recipe.clip_norm / jnp.maximum(norm, recipe.clip_norm)
    clipped = jax.tree.map(lambda g: factor * g, clipped)
  grads = {**grads, **clipped}
  optimizer = _OPTIMIZERS[recipe.optimizer]
  networks, nets = optimizer.update(_select_networks(grads), opt_state['networks'])
  latents, rest = _adam.update(grads['latents'], opt_state['latents'])
  move = lambda lr, p, u: p - lr * u
  old = _select_networks(params)
  new = jax.tree.map(functools.partial(move, lrs[0]), old, networks)
  params = {**new, 'latents': move(lrs[1], params['latents'], latents)}
  return params, {'networks': nets, 'latents': rest}


def _refresh(recipe: TrainConfig, opt_state: Any, step: jax.Array) -> Any:
  """Computes new bases of SOAP after step number `step`, from 0, where due."""
  if recipe.optimizer != 'soap':
    return opt_state
  nets = opt_state['networks']
  fresh = lambda: soap.refresh(nets, step == 0)
  nets = jax.lax.cond(step % recipe.refresh == 0, fresh, lambda: nets)
  return {**opt_state, 'networks': nets}


def _schedule(
  recipe: TrainConfig, stage_steps: tuple[jax.Array, jax.Array], step: jax.Array
):
  """Computes the settings of a step.

  Returns:
    is_stage2, (learning rates of networks and of latents), temperature, noise.
  """
  stage1, stage2 = stage_steps
  is_stage2 = step >= stage1
  progress = lambda at, whole: jnp.clip(at / jnp.maximum(whole, 1), 0.0, 1.0)
  share = progress(step, stage1)
  cosine = lambda x: 0.5 * (1 + jnp.cos(jnp.pi * x))
  lr = recipe.learning_rate * cosine(share)
  stage2_lr = recipe.stage2_lr * cosine(progress(step - stage1, stage2))
  lrs = jnp.where(is_stage2, stage2_lr, lr), jnp.where(is_stage2, 0.0, lr)
  along = lambda ends: ends[0] + share * (ends[1] - ends[0])
  return is_stage2, lrs, along(recipe.temperature), along(recipe.noise)


def shared_step(arch: Arch, recipe: TrainConfig, total: int) -> Callable[..., Any]:
  """Makes a compiled step of stage 1 in which all images share their networks.

  Returns:
    (params, opt_state, targets [P, H, W, C], lmbdas [P], rng, step) -> (params,
    opt_state, mean loss relative to lambda). ``params['latents']`` lead with P,
    networks do not.
  """

  def loss(params, targets, lmbdas, rng, ends):
    def image_loss(latents, target, lmbda, key):
      y = round_with_noise(key, latents, *ends, recipe.noise_distribution)
      value, _ = objective(params, arch, y, target, lmbda)
      # the same weight for each lambda's images
      return value * jnp.sqrt(1e-3 / lmbda)

    keys = jax.random.split(rng, targets.shape[0])
    return jax.vmap(image_loss)(params['latents'], targets, lmbdas, keys).mean()

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, opt_state, targets, lmbdas, rng, at):
    _, lrs, *ends = _schedule(recipe, (total, 0), at)
    value, grads = jax.value_and_grad(loss)(
      params, targets, lmbdas, jax.random.fold_in(rng, at), ends
    )
    params, opt_state = _update(recipe, params, opt_state, grads, lrs)
    return params, _refresh(recipe, opt_state, at), value

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
    targets: float32 [P, H, W, C].
    networks: initial networks (without P), or None for random ones.
  """
  count, *size, channels = targets.shape
  shapes = archs.grid_shapes(arch, *size)
  keys = jax.random.split(rng, count)
  params, opt_state = _init_networks(keys, arch, recipe, len(shapes), channels)
  if networks is not None:
    repeat = lambda x: jnp.broadcast_to(x, (count, *jnp.shape(x)))
    params = {**params, **jax.tree.map(repeat, networks)}
  else:
    last = f'b{archs.layers(arch, "synthesis") - 1}'
    net = {**params['synthesis'], last: targets.mean((1, 2))}
    params = {**params, 'synthesis': net}
  latents = jnp.zeros((count, sum(h * w for h, w in shapes)))
  params = {**params, 'latents': latents}
  opt_state = {'networks': opt_state, 'latents': jax.vmap(_adam.init)(latents)}
  return init_state(params, opt_state)


def init_state(params: Any, opt_state: Any) -> State:
  """Makes the state before the first step; both arguments lead with P."""
  skipped = jnp.zeros(params['latents'].shape[0], jnp.int32)
  return State(jnp.zeros((), jnp.int32), params, opt_state, skipped)


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
  count = targets.shape[0]
  is_stage2, lrs, temperature, noise = _schedule(recipe, stage_steps, state.step)
  keys = jax.random.split(rng, count)

  def loss(params):
    # Both stages are one program: in stage 2 latents are rounded and their rate is 0.
    soften = lambda key, flat: round_with_noise(
      key, flat, temperature, noise, recipe.noise_distribution
    )
    soft = jax.vmap(soften)(keys, params['latents'])
    latents = jnp.where(is_stage2, round_latents(params['latents']), soft)
    if (
      count > 1 or model.is_fused(arch, 'synthesis') or model.is_fused(arch, 'entropy')
    ):
      losses, metrics = objective_many(params, arch, latents, targets, lmbdas)
    else:  # XLA has faster routines without the axis
      networks, *rest = jax.tree.map(lambda x: x[0], (params, latents, targets, lmbdas))
      single = objective(networks, arch, *rest)
      losses, metrics = jax.tree.map(lambda x: x[None], single)
    # No loss depends on another's parameters, so the sum's gradient is each one's.
    return losses.sum(), metrics

  grads, metrics = jax.grad(loss, has_aux=True)(state.params)
  params, opt_state = jax.vmap(functools.partial(_update, recipe), (0, 0, 0, None))(
    state.params, state.opt_state, grads, lrs
  )
  opt_state = _refresh(recipe, opt_state, state.step)
  return State(state.step + 1, params, opt_state, state.skipped), metrics


# CPUs run convolutions slowly inside loops: there each step is a dispatch of its own.
@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _single(arch, recipe, stage_steps, state, targets, lmbdas, rng):
  rng = jax.random.fold_in(rng, state.step)
  return step(arch, recipe, stage_steps, state, targets, lmbdas, rng)


# The count is an argument of the program, so that one serves every count.
@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _many(arch, recipe, stage_steps, state, targets, lmbdas, rng, count):
  def body(_, carry):
    s = carry[0]
    key = jax.random.fold_in(rng, s.step)
    return step(arch, recipe, stage_steps, s, targets, lmbdas, key)

  metrics = {name: jnp.zeros(targets.shape[0]) for name in ('loss', 'mse', 'bpp')}
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
