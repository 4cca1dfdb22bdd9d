"""Losses and steps of the convolutional VAE, and its runs through the loop."""

import functools
import os
import signal
import types
import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from codax import bundle as bundles
from codax import signals
from codax.data import pipeline
from codax.errors import CodaxError
from codax.training import loop, writers
from codax.vae import arch, defaults, kl_components, kl_losses, kl_task, model, task


def tiny_config(**changes):
  config = defaults.compact()
  config.total_steps, config.steps_per_call = 6, 1
  config.log_every, config.eval_every, config.checkpoint_every = 1, 3, 3
  config.writers, config.outside_image = (), ''
  config.data.update({'batch_size': 4, 'crop': 16, 'eval_crops': 4})
  # the least that compiles; `OPTIONS` and test_convolutional.py have the other parts
  config.model.update({'width': 8, 'latent_dim': 6, 'act': 'relu', 'heads': 2})
  config.model.update({'patch': 8, 'stages': 0, 'body': 0, 'color_head': ()})
  config.model.has_spade = False
  config.kl.warmup_steps = 4
  config.optimizers.vae.warmup_steps = 1
  with config.unlocked():
    config.update_from_flattened_dict(changes)
  return config


def batch():
  rng = np.random.default_rng(0)
  ramp = np.linspace(0, 200, 16)[:, None, None] + rng.integers(0, 50, (4, 1, 16, 3))
  return {'image': jnp.asarray(ramp, jnp.uint8)}


def train(workdir, **changes):
  config = tiny_config(**changes)
  data = pipeline.make(config.data, config.seed)
  batches = pipeline.eval_batches(config.data, 4) if config.eval_every else []
  return loop.train(task.make(config), data, batches, config, workdir)


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """(work directory, result) of six steps through the loop."""
  workdir = tmp_path_factory.mktemp('unbroken')
  return workdir, train(workdir)


def test_training_logs_what_would_have_shown_the_faults_of_the_report(trained):
  rows = writers.read(trained[0] / 'metrics.jsonl')
  training = [row for row in rows if 'train/loss' in row]
  assert [row['step'] for row in training] == [1, 2, 3, 4, 5, 6]
  shares = [row['train/clipped_share'] for row in training]
  clipped = [row['train/grad_norm'] > 1 for row in training]
  np.testing.assert_allclose(shares, np.cumsum(clipped) / np.arange(1, 7), rtol=1e-6)
  weights = [row['train/kl_weight'] for row in training]
  rise = np.array([0.25, 0.5, 0.75, 1, 1, 1])
  np.testing.assert_allclose(weights, 1e-4 * rise, rtol=1e-6)
  for row in training:
    assert 0 <= row['train/active_units'] <= 6 and row['train/free_dims'] == 0
    assert row['train/kl'] > 0 and row['train/learning_rate/vae'] > 0
  evaluated = [row for row in rows if 'eval/psnr' in row]
  assert [row['step'] for row in evaluated] == [3, 6]
  for row in evaluated:
    dims = [row[f'eval/kl_dim/{i:03}'] for i in range(6)]
    np.testing.assert_allclose(sum(dims), row['eval/kl'], rtol=1e-6)


def test_evaluation_is_of_quantized_latents_and_eight_bits(trained):
  state, config = trained[1].state, tiny_config()
  cfg = arch.from_section(config.model)
  networks = kl_task.eval_params(state)
  errors, images = [], pipeline.eval_batches(config.data, 4)[0]['image']
  step = np.asarray(kl_task.q_steps(state)).reshape(1, 1, 1, 6)

  @jax.jit
  def code(image):
    z = kl_task.quantize(state, model.analyze(cfg, networks['analysis'], image))
    return z, model.synthesize(cfg, networks['synthesis'], z)

  z, decoded = code(images)
  np.testing.assert_allclose(z / step, np.round(z / step), atol=1e-4)
  errors = np.asarray(decoded, np.float64) - images
  psnr = 10 * np.log10(255**2 / (errors**2).mean((1, 2, 3)))
  np.testing.assert_allclose(trained[1].metrics['psnr'], psnr.mean(), atol=0.01)


def test_rate_of_latents_is_that_of_the_logistic_law(trained):
  state = trained[1].state
  step = np.asarray(kl_task.q_steps(state), np.float64)
  prior = jax.tree.map(lambda x: np.asarray(x, np.float64), state.params['prior'])
  assert np.all(prior['log_scale'] != 0)  # it has learned
  q = np.arange(-3, 4)[:, None] * np.ones(6)
  cdf = lambda x: 1 / (1 + np.exp(-(x - prior['mean']) / np.exp(prior['log_scale'])))
  wanted = -np.log2(cdf((q + 0.5) * step) - cdf((q - 0.5) * step))
  z = jnp.asarray(q * step, jnp.float32).reshape(1, 7, 1, 6)
  found = kl_task.rate_bits(state, z).reshape(7, 6)
  np.testing.assert_allclose(found, wanted, rtol=2e-3)


class Shrink:
  """A compressor of one matrix: means of blocks of 8 x 8 pixels."""

  def apply(self, variables, x):
    params, (b, h, w, _) = variables['params'], x.shape
    blocks = x.reshape(b, h // 8, 8, w // 8, 8, 3).mean((2, 4))
    mean = blocks @ params['kernel']
    return mean, jnp.zeros_like(mean) + params['log_var'].reshape(1, 1, 1, -1)


class Grow:
  """An expander of one matrix."""

  def apply(self, variables, z):
    return (z @ variables['params']['kernel']).repeat(8, 1).repeat(8, 2)


def linear_vae(**changes):
  """(components, parameters) of a VAE of two matrices: it compiles in a moment."""
  components = kl_components.make(tiny_config(**changes))
  components = components._replace(compressor=Shrink(), expander=Grow())
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
  params = {
    'vae': {
      'analysis': {'kernel': draw(3, 6), 'log_var': draw(6)},
      'synthesis': {'kernel': draw(6, 3)},
    },
    'prior': {'mean': draw(6), 'log_scale': draw(6)},
  }
  return components, params


def test_accumulated_gradient_is_that_of_the_whole_batch():
  found = []
  for accumulate in (1, 2, 4):
    components, params = linear_vae(accumulate=accumulate)

    def gradients(params, image, components=components):
      state = types.SimpleNamespace(params=params, step=jnp.int32(9))
      return kl_task._gradients(components, state, image, jax.random.key(0))

    found.append(jax.jit(gradients)(params, batch()['image']))
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
  for parts in found[1:]:
    jax.tree.map(close, found[0], parts)


def test_prior_learns_from_latents_and_does_not_move_them():
  components, params = linear_vae()
  noise = jnp.zeros((4, 2, 2, 6))

  @jax.jit
  def gradient(prior):
    changed = {**params, 'prior': prior}
    loss = lambda p: kl_losses.compute(components, p, batch()['image'], noise, 9)[0]
    return jax.grad(loss)(changed)

  one = gradient(params['prior'])
  two = gradient(jax.tree.map(lambda x: x + 1, params['prior']))
  jax.tree.map(np.testing.assert_array_equal, one['vae'], two['vae'])
  assert all(np.all(g != 0) for g in jax.tree.leaves(one['prior']))


OPTIONS = [
  {'model.act': 'bezier_split'},
  {'model.act_options': (('inverse', True),)},
  {'model.latent_dim': 5},
  {'model.width': 10},
  {'model.patch': 4},
  {'model.stages': 1},
  {'model.kernels': (1, 4, 4, 3)},
  {'model.dilation': 2},
  {'model.body': 1},
  {'model.color_head': (4,)},
  {'model.has_coordinates': True},
  {'model.attention_blocks': 1},
  {'model.has_spade': True},
  {'model.has_linear_path': False},
  {'model.norm': 'group'},
  {'model.ends': 'bezier'},
  {'model.dtype': 'bfloat16'},
  {'model.remat': True},
  {'loss.l1': 1.0},
  {'loss.mse': 0.5},
  {'loss.gan': 0.5, 'loss.gan_depth': 1, 'loss.gan_width': 4},
  {'kl.weight': 2e-4},
  {'kl.warmup_steps': 0},
  {'kl.free_bits': 0.3},
]


NEEDS = {
  'model.act_options': {'model.act': 'gdn'},
  'model.norm': {'model.body': 1},
}


@functools.cache
def trace(changes):
  """The program of a loss, as text."""
  config = tiny_config(**dict(changes))
  components = kl_components.make(config)
  state = jax.eval_shape(task.make(config).init, jax.random.key(0), batch())
  side = 16 // components.model.factor
  noise = jax.ShapeDtypeStruct((4, side, side, config.model.latent_dim), jnp.float32)
  loss = functools.partial(kl_losses.compute, components)
  image, step = batch()['image'], jnp.int32(0)
  return str(jax.make_jaxpr(loss)(state.params, image, noise, step))


@pytest.mark.parametrize('changes', OPTIONS, ids=lambda c: ','.join(c))
def test_option_changes_the_loss(changes):
  base = {k: v for key in changes for k, v in NEEDS.get(key, {}).items()}
  assert trace(tuple({**base, **changes}.items())) != trace(tuple(base.items()))


def test_preserve_lr_false_starts_the_learning_rates_again_on_resuming(trained):
  state = trained[1].state
  assert task.make(tiny_config()).resume(state) is state
  again = task.make(tiny_config(preserve_lr=False)).resume(state)

  def counts(opt_state):
    is_schedule = lambda x: isinstance(x, optax.ScaleByScheduleState)
    leaves = jax.tree.leaves(opt_state, is_leaf=is_schedule)
    return [int(x.count) for x in leaves if is_schedule(x)]

  assert counts(state.opt_state) == [6, 6] and counts(again.opt_state) == [0, 0]
  assert (int(again.lr_step), int(again.step)) == (0, 6)
  optimizer = kl_components.make(tiny_config()).optimizer(state.params)[0]
  zeros = jax.tree.map(jnp.zeros_like, state.params)
  jax.eval_shape(optimizer.update, zeros, again.opt_state, state.params)


def test_bundle_decodes_to_images(trained):
  config, state = tiny_config(), trained[1].state
  found = task.make(config).bundle(jax.device_get(state), {'psnr': 20.0})
  assert found.family == 'vae' and found.config['model']['act'] == 'relu'
  tree = bundles.unflatten(found.arrays)
  np.testing.assert_array_equal(tree['step'], kl_task.q_steps(state))
  assert arch.from_section(found.config['model']) == arch.from_section(config.model)
  same = lambda a, b: np.testing.assert_array_equal(a, b)
  for name in ('analysis', 'synthesis'):
    jax.tree.map(same, tree[name], dict(kl_task.eval_params(state)[name]))


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'objective': 'mse'}, "unknown config.objective 'mse'"),
    ({'data.crop': 20}, 'data.crop = 20 is not a multiple of 8'),
    ({'accumulate': 3}, 'accumulate = 3 does not divide data.batch_size = 4'),
    ({'loss.mse': 0.0}, 'nothing is learned'),
    ({'loss.lpips': 1.0}, 'loss.lpips_weights names no file'),
    ({'loss.gan': 1.0}, 'loss.gan needs a data.crop of 24 or more'),
    ({'kl.weight': -1.0}, 'config.kl.weight is -1.0'),
    ({'kl.free_bit': 1.0}, "did you mean 'kl.free_bits'"),
    ({'average_decay': 1.0}, 'below 1'),
    ({'optimizers.vae.name': 'rmsprob'}, "optimizers.vae: unknown optimiser 'rmsprob'"),
  ],
)
def test_bad_configuration_is_named(changes, message):
  with pytest.raises(CodaxError) as e:
    made = task.make(tiny_config(**changes))
    jax.eval_shape(made.init, jax.random.key(0), batch())
  assert message in str(e.value)


@pytest.mark.parametrize(
  ('argument', 'message'),
  [
    ('act=relu,act=silu', 'exclude each other'),
    ('photos,folder', 'exclude each other'),
    ('referense', "did you mean 'reference'"),
    ('tfds:', 'unknown configuration argument'),
  ],
)
def test_bad_argument_of_the_configuration_is_named(argument, message):
  with pytest.raises(CodaxError, match=message):
    defaults.get(argument)


def test_arguments_of_the_configuration_are_taken_in_any_order():
  config = defaults.get('tfds:cifar10,reference,act=glu')
  assert (config.data.name, config.data.dataset) == ('tfds', 'cifar10')
  assert (config.model.act, config.model.arch) == ('glu', 'reference')
  assert config.optimizers.vae.name == 'rmsprop' and config.optimizers.vae.centered
  assert defaults.get('act=relu').data.name == 'photos'


def test_batch_that_does_not_fit_names_what_to_lower(tmp_path, monkeypatch):
  made = task.make(tiny_config())

  class State(typing.NamedTuple):
    step: typing.Any

  def init(rng, batch):
    huge = jax.random.normal(rng, (2**20, 2**20))  # 4 TiB
    return State((huge.sum() > 1e9).astype(jnp.int32))

  monkeypatch.setattr(task, 'make', lambda config: made._replace(init=init))
  with pytest.raises(CodaxError) as e:
    train(tmp_path)
  text = 'the batch does not fit into memory: lower data.batch_size = 4 or data.crop = '
  assert text in str(e.value) and 'set model.remat = True' in str(e.value)


def test_run_stopped_by_its_budget_and_by_sigterm_resumes_bit_identically(
  trained, tmp_path, monkeypatch
):
  first = train(tmp_path, max_seconds=1e-6)
  assert (first.stopped, first.step) == ('max_seconds', 1)
  write = writers.write

  def write_and_signal(writer, step, metrics):
    write(writer, step, metrics)
    if step == 4:
      os.kill(os.getpid(), signal.SIGTERM)

  with monkeypatch.context() as patched, signals.listen():
    patched.setattr(writers, 'write', write_and_signal)
    second = train(tmp_path)
  assert (second.stopped, second.step) == ('signal', 5)
  result = train(tmp_path)
  workdir, unbroken = trained
  expected = (workdir / 'metrics.jsonl').read_bytes()
  assert (tmp_path / 'metrics.jsonl').read_bytes() == expected
  pairs = zip(jax.tree.leaves(unbroken.state), jax.tree.leaves(result.state))
  for a, b in pairs:
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
