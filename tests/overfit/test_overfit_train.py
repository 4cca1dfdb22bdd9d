"""Training: its rate estimate, its stages, many problems at once; costs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from tiny import SMALL, grids, networks, photo

from codax.layers import kan
from codax.layers.kan_spec import Spec
from codax.metrics import complexity
from codax.overfit import (
  latent_rounding,
  model,
  objective,
  presets,
  q_step_search,
  train,
)
from codax.overfit.format import arch as archs
from codax.overfit.format import stream
from codax.overfit.grids import double, filter_double
from codax.overfit.presets import Steps, TrainConfig

RECIPE = TrainConfig()
KEY = jax.random.key(0)
# one program each: operation by operation there are dozens
laplace_bits = jax.jit(model.laplace_bits)
soft_round = jax.jit(latent_rounding.soft_round)
double_axis = jax.jit(double, static_argnums=(1, 2))
filter_double_axis = jax.jit(filter_double, static_argnums=(2, 3))
draw_kumaraswamy = jax.jit(latent_rounding.draw_kumaraswamy, static_argnums=1)
round_with_noise = jax.jit(latent_rounding.round_with_noise, static_argnums=4)


def problem(count=1, size=(12, 16)):
  images = np.stack([photo(*size, seed=i) for i in range(count)])
  lmbdas = jnp.asarray(np.geomspace(1e-3, 1e-2, count), jnp.float32)
  return jnp.asarray(images, jnp.float32) / 255, lmbdas


def trained(stage_steps, targets, lmbdas, state=None, arch=SMALL):
  state = train.init(KEY, arch, RECIPE, targets) if state is None else state
  count = stage_steps.total - int(state.step)
  return train.dispatch(arch, RECIPE, stage_steps, state, targets, lmbdas, KEY, count)


def test_laplace_bits_are_those_of_scipy():
  rng = np.random.default_rng(0)
  value = rng.integers(-30, 30, 3000).astype(np.float32)
  mean = rng.normal(scale=10, size=3000).astype(np.float32)
  log2_scale = rng.uniform(-3, 6, 3000).astype(np.float32)
  found = laplace_bits(*map(jnp.asarray, (value, mean, log2_scale)))
  law = scipy.stats.laplace(mean.astype(np.float64), 2.0 ** log2_scale.astype(float))
  # sf on the far side: a difference of cdfs is zero in a tail
  low, high = np.abs(value - mean) - 0.5, np.abs(value - mean) + 0.5
  law = scipy.stats.laplace(0, 2.0 ** log2_scale.astype(np.float64))
  mass = np.where(low > 0, law.sf(low) - law.sf(high), law.cdf(high) - law.cdf(low))
  sure = mass > 1e-250
  np.testing.assert_allclose(found[sure], -np.log2(mass[sure]), rtol=2e-3, atol=2e-3)
  assert np.isfinite(found).all() and sure.mean() > 0.8


def test_laplace_bits_of_a_far_value_have_a_gradient():
  bits = lambda mean: model.laplace_bits(jnp.float32(200), mean, jnp.float32(-5))
  grad = jax.jit(jax.grad(bits))
  assert grad(jnp.float32(0)) < -10


@pytest.mark.parametrize('temperature', [0.05, 0.3, 2.0])
def test_soft_rounding_keeps_integers_and_halves(temperature):
  x = np.arange(-8, 9, dtype=np.float32) / 4
  y = soft_round(x, jnp.float32(temperature))
  exact = (x % 0.5) == 0
  np.testing.assert_allclose(y[exact], x[exact], atol=1e-5)
  assert (np.diff(y) > 0).all()


def test_training_beats_the_mean_color():
  targets, lmbdas = problem()
  _, last = trained(Steps(250, 50), targets, lmbdas)
  assert last['mse'][0] < 0.1 * float(targets.var((1, 2)).mean())
  assert 0 < last['bpp'][0] < 10


def test_second_stage_trains_the_networks_alone():
  targets, lmbdas = problem()
  state, _ = trained(Steps(30, 0), targets, lmbdas)
  before = jax.tree.map(np.array, state.params)  # the state is used up by what follows
  state = jax.tree.map(jnp.copy, state)
  state, _ = trained(Steps(30, 10), targets, lmbdas, state)
  after = jax.device_get(state.params)
  np.testing.assert_array_equal(before['latents'], after['latents'])
  for module in archs.MODULES:
    assert not np.array_equal(before[module]['w0'], after[module]['w0'])
  assert int(state.step) == 40


def test_problems_together_train_as_each_alone():
  targets, lmbdas = problem(3)
  # noise off: problems draw different numbers alone and together
  # and Adam: eigenvectors turn round at a rounding's difference
  quiet = RECIPE._replace(noise=(0.0, 0.0), optimizer='adam')
  start = train.init(KEY, SMALL, quiet, targets)
  # few steps: where gradients are near 0 Adam turns a rounding's difference into a step
  stage_steps = Steps(4, 2)
  run = lambda *args: train.dispatch(
    SMALL, quiet, stage_steps, *args, stage_steps.total
  )[0]
  alone = []
  for i in range(3):
    mine = lambda x, i=i: x[i : i + 1] + 0
    state = train.init_state(*jax.tree.map(mine, (start.params, start.opt_state)))
    state = run(state, targets[i : i + 1], lmbdas[i : i + 1], KEY)
    alone.append(jax.device_get(state.params))
  state = run(start, targets, lmbdas, KEY)
  for i, one in enumerate(alone):
    mine = jax.tree.map(lambda x, i=i: np.asarray(x[i : i + 1]), state.params)
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(one)):
      np.testing.assert_allclose(a, b, atol=5e-3)


def test_gradients_of_problems_together_are_those_of_each():
  arch = SMALL._replace(inter_grid_context=5, upsampling='learned')
  targets, lmbdas = problem(3)
  nets = [networks(arch, targets.shape[1:], seed) for seed in range(3)]
  made = [
    np.concatenate([g.ravel() for g in grids(arch, (12, 16, 3), i)]) for i in range(3)
  ]
  together = jax.tree.map(lambda *x: jnp.stack(x), *nets)
  latents = jnp.stack(made).astype(jnp.float32)
  # compiled, each once: operation by operation this takes a minute
  loss = lambda nets, latents: objective.compute_many(
    nets, arch, latents, targets, lmbdas
  )[0].sum()
  found = jax.jit(jax.grad(loss, (0, 1)))(together, latents)
  one = lambda nets, *rest: objective.compute(nets, arch, *rest)[0]
  one = jax.jit(jax.grad(one, (0, 1)))
  for i in range(3):
    wanted = one(nets[i], latents[i], targets[i], lmbdas[i])
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
      np.testing.assert_allclose(a[i], b, rtol=1e-3, atol=1e-4 * np.abs(b).max())


@pytest.mark.slow
def test_gradients_with_kernels_of_gpus_are_the_same(monkeypatch):
  """Both paths of the whole loss, the kernels being interpreted."""
  arch = archs.Arch(3, 10, inter_grid_context=4, upsampling='learned')
  targets, lmbdas = problem(2)
  params = train.init(KEY, arch, RECIPE, targets).params
  rng = np.random.default_rng(0)
  moved = lambda x: x + np.float32(0.1 * rng.normal(size=x.shape))
  params = jax.tree.map(moved, params)
  networks = {k: params[k] for k in archs.MODULES}

  def loss(networks, latents):
    return objective.compute_many(networks, arch, latents, targets, lmbdas)[0].sum()

  args = networks, latent_rounding.round_latents(params['latents'])
  # compiled (two functions: each is traced anew), which is faster than one by one
  usual = jax.jit(jax.value_and_grad(loss, (0, 1)))(*args)
  monkeypatch.setattr(model, 'is_fused', lambda arch, module: True)
  again = lambda *args: loss(*args)
  fused = jax.jit(jax.value_and_grad(again, (0, 1)))(*args)
  for a, b in zip(jax.tree.leaves(usual), jax.tree.leaves(fused)):
    np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5 * np.abs(a).max())


def test_training_of_any_number_of_steps_is_one_program():
  targets, lmbdas = problem()
  trained(Steps(3, 1), targets, lmbdas)
  count = lambda: (
    train._latents_program.programs.cache_info().misses,
    train._networks_program._cache_size(),
  )
  before = count()
  trained(Steps(5, 4), targets, lmbdas)
  assert count() == before


@pytest.mark.parametrize('conv3', [model._conv3, model._conv3_as_product])
def test_convolution_repeats_edges(conv3):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(5, 6, 3)).astype(np.float32)
  kernel = rng.normal(size=(3, 3, 3, 3)).astype(np.float32)
  found = conv3(jnp.asarray(x), jnp.asarray(kernel), jnp.zeros(3))
  wide = np.pad(x, ((1, 1), (1, 1), (0, 0)), mode='edge').astype(np.float64)
  wanted = sum(
    wide[i : i + 5, j : j + 6] @ kernel[i, j] for i in range(3) for j in range(3)
  )
  np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_doubling_keeps_straight_lines():
  ramp = np.arange(8, dtype=np.float32)
  wanted = np.clip((np.arange(16) + 0.5) / 2 - 0.5, 0, 7)
  np.testing.assert_allclose(double_axis(ramp, 0, 16), wanted, atol=1e-6)
  assert double_axis(ramp, 0, 15).shape == (15,)


@pytest.mark.parametrize('count', [1, 2, 7])
def test_filtered_doubling_is_a_mirrored_filter_with_ends_repeated(count):
  rng = np.random.default_rng(count)
  x, taps = rng.normal(size=(3, count)), rng.normal(size=4)
  wanted = np.zeros((3, 2 * count))
  for n in range(2 * count):
    middle = (n + 0.5) / 2 - 0.5  # where the sample stands among those of x
    for i in range(-2, count + 2):
      distance = abs(i - middle)
      if distance < 2:
        wanted[:, n] += taps[int(2 * distance)] * x[:, min(max(i, 0), count - 1)]
  for axis, shaped in ((1, x), (0, x.T)):
    found = filter_double_axis(
      np.float32(shaped), np.float32(taps), axis, 2 * count - 1
    )
    found = np.asarray(found) if axis else np.asarray(found).T
    np.testing.assert_allclose(found, wanted[:, :-1], atol=1e-5)


@pytest.mark.parametrize('size', [1, 2, 3, 4, 13, 14])
def test_gradient_of_filtered_doubling_is_that_of_differences(size):
  rng = np.random.default_rng(size)
  x, taps = rng.normal(size=(3, (size + 1) // 2)), rng.normal(size=4)
  weights = jnp.asarray(rng.normal(size=(3, size)), jnp.float32)
  loss = lambda x, taps: (filter_double(x, taps, 1, size) * weights).sum()
  x, taps = np.float32(x), np.float32(taps)
  found, loss = jax.jit(jax.grad(loss, (0, 1)))(x, taps), jax.jit(loss)
  # It is linear in either, so that the slope along a unit is a difference.
  for arg, (value, slopes) in enumerate(zip((x, taps), found)):
    for at in np.ndindex(value.shape):
      given = [x, taps]
      given[arg] = value.copy()
      given[arg][at] += 1.0
      wanted = loss(*given) - loss(x, taps)
      np.testing.assert_allclose(slopes[at], wanted, atol=1e-4)


def test_learned_upsampling_moves_its_filters():
  targets, lmbdas = problem()
  arch = SMALL._replace(upsampling='learned')
  state, _ = trained(Steps(60, 0), targets, lmbdas, arch=arch)
  for i in range(arch.grids - 1):
    assert np.abs(state.params['synthesis'][f'u{i}']).min() > 1e-3


@pytest.mark.parametrize('a', [1.0, 1.5, 2.0])
def test_kumaraswamy_noise_follows_its_distribution(a):
  """x**a of Kumaraswamy's x is beta distributed: SciPy's, with parameters 1 and b."""
  noise = np.asarray(draw_kumaraswamy(KEY, (20_000,), jnp.float32(a)), np.float64)
  b = (2**a * (a - 1) + 1) / a
  assert np.abs(noise).max() <= 0.5
  power = np.clip(noise + 0.5, 0, 1) ** a
  assert scipy.stats.kstest(power, scipy.stats.beta(1, b).cdf).pvalue > 0.01
  if a == 1:
    assert scipy.stats.kstest(noise, scipy.stats.uniform(-0.5, 1).cdf).pvalue > 0.01
    return
  # the density a b x**(a - 1) (1 - x**a)**(b - 1) is largest in the middle
  x = np.linspace(0.01, 0.99, 981)
  density = scipy.stats.beta(1, b).pdf(x**a) * a * x ** (a - 1)
  assert x[np.argmax(density)] == pytest.approx(0.5, abs=2e-3)


def test_noise_distribution_sets_the_noise():
  """Gaussian of a width, or C3's within half a step, where rounding is all but off."""
  latents = np.full(4000, 0.5 / model.LATENT_GAIN, np.float32)
  flat = jnp.float32(1e3)  # as good as no rounding
  gauss = np.asarray(round_with_noise(KEY, latents, flat, 0.2))
  assert float(gauss.std()) == pytest.approx(0.2, rel=0.05)
  bounded = np.asarray(round_with_noise(KEY, latents, flat, 1.0, 'kumaraswamy'))
  assert float(bounded.std()) == pytest.approx(12**-0.5, rel=0.05)
  assert float(np.abs(bounded - 0.5).max()) < 0.501


@pytest.mark.parametrize('clip', presets.CHOICES['clip'])
def test_clip_scales_the_chosen_gradients(clip):
  """Adam's first moment is 0.1 of the gradient that it was given."""
  recipe = RECIPE._replace(clip=clip, clip_norm=0.5, optimizer='adam')
  ones = lambda n: np.ones(n, np.float32)
  params = {k: {'x': ones(2)} for k in archs.MODULES} | {'latents': ones(4)}
  grads = jax.tree.map(lambda x: 3 * x, params)

  @jax.jit
  def update(params, grads):
    opt_state = train.init_opt_state(recipe, params)
    return train._update(recipe, params, opt_state, grads, (0.1, 0.1))

  _, after = update(params, grads)
  means = {**after['networks'].mu, 'latents': after['latents'].mu}
  given = jax.tree.map(lambda m: np.asarray(10 * m), means)
  networks_norm, norm = 3 * np.sqrt(4), 3 * np.sqrt(8)
  factor = {'networks': 0.5 / networks_norm, 'all': 0.5 / norm, 'none': 1.0}[clip]
  np.testing.assert_allclose(given['entropy']['x'], 3 * factor, rtol=1e-5)
  latents = factor if clip == 'all' else 1.0
  np.testing.assert_allclose(given['latents'], 3 * latents, rtol=1e-5)


# --- costs ----------------------------------------------------------------------------


def perceptron_cost(arch, module, inputs):
  nets = networks(arch, (16, 16, 3))
  run = lambda x: model._perceptron(nets[module], arch, module, x)
  return complexity.cost(run, jax.ShapeDtypeStruct((1, inputs), jnp.float32))


@pytest.mark.parametrize(
  'arch',
  [archs.Arch(5), archs.C3._replace(grids=5), archs.Arch(5, inter_grid_context=4)],
)
def test_macs_are_those_of_the_traced_program(arch):
  found = archs.macs(arch, 16, 16)
  shapes = archs.grid_shapes(arch, 16, 16)
  latents = sum(h * w for h, w in shapes)
  entropy = perceptron_cost(arch, 'entropy', arch.inputs).macs
  assert found.entropy == entropy * latents / 256
  synthesis = perceptron_cost(arch, 'synthesis', len(shapes)).macs
  assert found.synthesis == synthesis + arch.convs * 81


@pytest.mark.parametrize('widths', [(18, 18), (8, 8)])
def test_macs_of_splines_follow_the_formulas_and_the_compiled_layers(widths):
  cubic = Spec(5, 3, -2.5, 2.5, 'relu')
  arch = archs.Arch(5, 24, widths, widths, 0, 'relu', False, cubic, cubic)
  g, k, n = 5, 3, 4096
  for module, inputs in (('synthesis', 5), ('entropy', 24)):
    outputs = 3 if module == 'synthesis' else 2
    sizes = [(inputs, widths[0]), widths, (widths[1], outputs)]
    dense = sum(a * b * (g + k + 1) + a * 3 * k * (g + k) for a, b in sizes)
    sparse = sum(a * b * (k + 1) + a * b + a * k * (k + 1) for a, b in sizes)
    scale = 1 if module == 'synthesis' else 341 / 256
    assert getattr(archs.macs(arch, 16, 16), module) == pytest.approx(sparse * scale)
    full = archs.macs(arch, 16, 16, dense=True)
    assert getattr(full, module) == pytest.approx(dense * scale)
    # Layer by layer: XLA fuses whole networks in ways that compute some things twice.
    flops = 0.0
    for i, (a, b) in enumerate(sizes):
      spec = archs.splines(arch, module, i)
      layer = kan.init(KEY, a, b, spec)
      run = lambda x, layer=layer, spec=spec: kan.apply(layer, x, spec)
      x = jax.ShapeDtypeStruct((n, a), jnp.float32)
      flops += complexity.compiled_flops(run, x)
    assert flops / n / 2 == pytest.approx(dense, rel=0.05)


def test_estimated_bits_agree_with_the_integer_tables():
  """Bits by the float network against those of the integer one on the same latents."""
  shape = (40, 48, 3)
  nets = networks(SMALL, shape, spread=0.03)
  # a likely scale: what is far in a tail costs 24 bits at most in a file
  nets['entropy']['b1'] = np.array([0.2, 2.5], np.float32)
  latents = grids(SMALL, shape)
  listed = archs.tensors(SMALL, len(latents), 3)
  modules = {
    name: q_step_search.quantize(
      nets[name], [t for t in listed if t.module == name], 9, 10
    )
    for name in archs.MODULES
  }
  mine = [t for t in listed if t.module == 'entropy']
  net = q_step_search.dequantize(modules['entropy'], mine)
  _, bits = stream.encode(stream.Payload(SMALL, shape, modules, latents))
  float_grids = tuple(jnp.asarray(g, jnp.float32) for g in latents)
  found = float(jax.jit(model.rate, static_argnums=1)(net, SMALL, float_grids))
  assert found == pytest.approx(sum(bits.latents), rel=0.01)
