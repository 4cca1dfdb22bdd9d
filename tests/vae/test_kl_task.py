"""Losses and steps of the convolutional VAE, and its runs through the loop."""

import functools
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codax import bundle as bundles
from codax import signals
from codax.data import pipeline
from codax.errors import CodaxError
from codax.training import checkpoints, loop, writers
from codax.vae import arch, defaults, kl_components, kl_losses, kl_task, model, task


def tiny_config(**changes):
  config = defaults.compact()
  config.total_steps, config.steps_per_call = 6, 1
  config.log_every, config.eval_every, config.checkpoint_every = 1, 3, 3
  config.writers = ()
  config.data.update({'batch_size': 4, 'crop': 16, 'eval_crops': 4})
  config.model.update(
    {'width': 8, 'latent_dim': 6, 'color_head': (4,), 'act': 'relu', 'heads': 2}
  )
  config.kl.warmup_steps = 4
  config.optimizers.vae.warmup_steps = 1
  with config.unlocked():
    config.update_from_flattened_dict(changes)
  return config


def batch():
  rng = np.random.default_rng(0)
  ramp = np.linspace(0, 200, 16)[:, None, None] + rng.integers(0, 50, (4, 1, 16, 3))
  return {'image': jnp.asarray(ramp, jnp.uint8)}


@functools.cache
def trained(**changes):
  """(config, task, state, metrics) after three steps."""
  config = tiny_config(**changes)
  made = task.make(config)
  state = jax.jit(made.init)(jax.random.key(0), batch())
  step = jax.jit(made.train_step)
  for i in range(3):
    state, metrics = step(state, batch(), jax.random.key(i))
  return config, made, state, jax.device_get(metrics)


def test_training_logs_what_would_have_shown_the_faults_of_the_report():
  _, made, state, metrics = trained()
  found = made.summarize({k: np.asarray(v, np.float64) for k, v in metrics.items()})
  count, first, second = metrics['moments'].astype(np.float64)
  variance = second / count - (first / count) ** 2
  assert found['active_units'] == (variance > 0.01).sum() > 0 and found['kl'] > 0
  assert found['clipped_share'] == int(state.clipped) / 3
  assert 0 < found['kl_weight'] == np.float32(0.75e-4)
  assert found['learning_rate/vae'] > 0 and found['free_dims'] == 0


def test_evaluation_is_of_quantized_latents_and_eight_bits():
  _, made, state, _ = trained()
  found = jax.device_get(jax.jit(made.eval_step)(state, batch()))
  cfg = arch.from_section(tiny_config().model)
  networks = kl_task.eval_params(state)
  mean = model.analyze(cfg, networks['analysis'], batch()['image'])
  z = kl_task.quantize(state, mean)
  step = np.asarray(kl_task.q_steps(state))
  np.testing.assert_allclose(z / step, np.round(mean / step), atol=1e-4)
  image = np.asarray(model.synthesize(cfg, networks['synthesis'], z), np.float64)
  error = image - np.asarray(batch()['image'], np.float64)
  psnr = 10 * np.log10(255**2 / (error**2).mean((1, 2, 3)))
  np.testing.assert_allclose(found['psnr'], psnr.mean(), atol=0.01)
  summary = made.summarize({k: np.asarray(v, np.float64) for k, v in found.items()})
  dims = [summary[f'kl_dim/{i:03}'] for i in range(6)]
  np.testing.assert_allclose(sum(dims), summary['kl'], rtol=1e-6)


def test_rate_of_latents_is_that_of_the_logistic_law():
  _, _, state, _ = trained()
  step = np.asarray(kl_task.q_steps(state), np.float64)
  prior = jax.tree.map(lambda x: np.asarray(x, np.float64), state.params['prior'])
  q = np.arange(-3, 4)[:, None] * np.ones(6)
  cdf = lambda x: 1 / (1 + np.exp(-(x - prior['mean']) / np.exp(prior['log_scale'])))
  wanted = -np.log2(cdf((q + 0.5) * step) - cdf((q - 0.5) * step))
  z = jnp.asarray(q * step, jnp.float32).reshape(1, 7, 1, 6)
  np.testing.assert_allclose(
    kl_task.rate_bits(state, z).reshape(7, 6), wanted, rtol=2e-3
  )


def test_prior_learns_beside_the_networks_and_does_not_move_them():
  components = kl_components.make(tiny_config())
  _, _, state, _ = trained()
  noise = jnp.zeros((4, 2, 2, 6))

  def gradient(prior):
    params = {**state.params, 'prior': prior}
    loss = lambda p: kl_losses.compute(components, p, batch()['image'], noise, 9)[0]
    return jax.grad(loss)(params)

  gradient = jax.jit(gradient)
  one = gradient(state.params['prior'])
  two = gradient(jax.tree.map(lambda x: x + 1, state.params['prior']))
  same = lambda a, b: np.testing.assert_array_equal(a, b)
  jax.tree.map(same, one['vae'], two['vae'])
  assert all(np.any(g) for g in jax.tree.leaves(one['prior']))


def test_accumulated_gradient_is_that_of_the_whole_batch():
  _, _, whole, _ = trained()
  _, _, parts, _ = trained(accumulate=2)
  close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-3)
  jax.tree.map(close, whole.params['prior'], parts.params['prior'])
  close(kl_task.q_steps(whole), kl_task.q_steps(parts))


OPTIONS = [
  {'model.act': 'bezier_split'},
  {'model.act_options': (('inverse', True),), 'model.act': 'gdn'},
  {'model.latent_dim': 5},
  {'model.width': 10},
  {'model.patch': 2},
  {'model.stages': 0},
  {'model.kernels': (1, 4, 4, 3)},
  {'model.dilation': 2},
  {'model.body': 1},
  {'model.color_head': ()},
  {'model.has_coordinates': True},
  {'model.attention_blocks': 1},
  {'model.has_spade': False},
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
  key = tuple((k, v) for k, v in changes.items())
  assert trace(key) != trace(())


def test_preserve_lr_false_starts_the_learning_rates_again_on_resuming():
  _, made, state, _ = trained()
  same = made.resume(state)
  assert same.lr_step == 3 and same is state
  again = task.make(tiny_config(preserve_lr=False)).resume(state)
  counts = lambda s: [
    int(x) for x in jax.tree.leaves(s.opt_state) if x.dtype == 'int32'
  ]
  assert again.lr_step == 0 and again.step == 3
  assert counts(state) == [3, 3, 3, 3]  # Adam's and the schedule's, two components
  assert counts(again) == [3, 0, 3, 0]


def test_bundle_holds_networks_steps_and_prior():
  config, made, state, _ = trained()
  found = made.bundle(jax.device_get(state), {'psnr': 20.0})
  assert found.family == 'vae' and found.config['model']['act'] == 'relu'
  tree = bundles.unflatten(found.arrays)
  assert set(tree) == {'analysis', 'synthesis', 'step', 'prior'}
  np.testing.assert_array_equal(tree['step'], kl_task.q_steps(state))
  np.testing.assert_array_equal(tree['prior']['mean'], state.params['prior']['mean'])
  cfg = arch.from_section(found.config['model'])
  assert cfg == arch.from_section(config.model)
  mean = model.analyze(cfg, tree['analysis'], batch()['image'])
  assert model.synthesize(cfg, tree['synthesis'], mean).shape == (4, 16, 16, 3)


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


def train(workdir, **changes):
  config = tiny_config(**changes)
  data = pipeline.make(config.data, config.seed)
  batches = pipeline.eval_batches(config.data, 4)
  return loop.train(task.make(config), data, batches, config, workdir)


def test_batch_that_does_not_fit_names_what_to_lower(tmp_path, monkeypatch):
  made = task.make(tiny_config())

  def init(rng, batch):
    state = made.init(rng, batch)
    huge = jax.random.normal(rng, (2**20, 2**20))  # 4 TiB
    return state.replace(step=state.step + (huge.sum() > 1e9).astype(jnp.int32))

  monkeypatch.setattr(task, 'make', lambda config: made._replace(init=init))
  with pytest.raises(CodaxError) as e:
    train(tmp_path)
  text = 'the batch does not fit into memory: lower data.batch_size = 4 or data.crop = '
  assert text in str(e.value) and 'set model.remat = True' in str(e.value)


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('unbroken')
  return workdir, train(workdir)


def assert_same_run(unbroken, workdir, result):
  expected = (unbroken[0] / 'metrics.jsonl').read_bytes()
  assert (workdir / 'metrics.jsonl').read_bytes() == expected
  pairs = zip(jax.tree.leaves(unbroken[1].state), jax.tree.leaves(result.state))
  for a, b in pairs:
    assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_run_out_of_time_resumes_bit_identically(unbroken, tmp_path):
  first = train(tmp_path, max_seconds=1e-6)
  assert (first.stopped, first.step) == ('max_seconds', 1)
  assert_same_run(unbroken, tmp_path, train(tmp_path, max_seconds=0.0))


def test_run_stopped_by_sigterm_resumes_bit_identically(
  unbroken, tmp_path, monkeypatch
):
  write = writers.write

  def write_and_signal(writer, step, metrics):
    write(writer, step, metrics)
    if step == 4:
      os.kill(os.getpid(), signal.SIGTERM)

  with monkeypatch.context() as patched, signals.listen():
    patched.setattr(writers, 'write', write_and_signal)
    first = train(tmp_path)
  assert first.stopped == 'signal' and first.step == 5
  assert checkpoints.newest(tmp_path / 'checkpoints') == 5
  assert_same_run(unbroken, tmp_path, train(tmp_path))
  rows = writers.read(tmp_path / 'metrics.jsonl')
  assert all('train/active_units' in row for row in rows if 'train/loss' in row)
  assert any('eval/kl_dim/000' in row for row in rows)
