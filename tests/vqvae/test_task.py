"""The VQ-VAE's losses and steps."""

import functools
import importlib

import jax
import numpy as np
import pytest
from tiny_vqvae import tiny_config, train

from codax import quantize
from codax.errors import CodaxError
from codax.quantize import vq_ema
from codax.training import flags
from codax.vqvae import components, defaults, model, task


def test_training_lowers_the_error_and_learns_the_context(trained):
  _, _, _, history = trained
  mse = [m['mse'] for m in history]
  bits = [m['context_bits'] for m in history]
  assert np.mean(mse[-10:]) < 0.5 * np.mean(mse[:10])
  assert np.mean(bits[-10:]) < np.mean(bits[:10])
  assert np.isfinite([[m['loss'], m['grad_norm']] for m in history]).all()


def test_evaluation_equals_hard_codes_and_8_bit_pixels(trained, evaluate, photo):
  config, made, state, _ = trained
  batch = {'image': photo[None, :96, :96]}
  metrics = evaluate(batch)
  # the same by hand, in NumPy, from the parts
  cfg = components.model_config(config)
  z = model.Encoder(cfg).apply(
    {'params': state.params['encoder']}, model.to_model(batch['image'])
  )
  book = np.asarray(state.quantizer.codebook[0], np.float64)
  flat = np.asarray(z, np.float64).reshape(-1, book.shape[1])
  w = np.asarray(state.quantizer.log_weights[0], np.float64)
  covariance = state.quantizer.covariance
  cov = np.asarray(covariance.moments.total[1][0]) / float(covariance.moments.weight)
  beta = 60.0 / (2 * np.linalg.eigvalsh(cov)[-1])
  cost = ((flat[:, None] - book[None]) ** 2).sum(-1) - w / beta
  codes = cost.argmin(1)
  counts = np.bincount(codes, minlength=32)
  assert np.abs(counts - metrics['counts'][0]).sum() <= 0.01 * codes.size
  values = book[codes].reshape(z.shape).astype(np.float32)
  image = model.Decoder(cfg).apply({'params': state.params['decoder']}, values)
  error = np.asarray(model.to_uint8(image), np.float64) - batch['image']
  psnr = 10 * np.log10(255**2 / np.mean(error**2))
  np.testing.assert_allclose(metrics['psnr'], psnr, atol=0.05)
  summary = made.summarize(metrics)
  p = counts / counts.sum()
  entropy = -(p[p > 0] * np.log2(p[p > 0])).sum()
  np.testing.assert_allclose(summary['code_entropy_bits'], entropy, atol=0.05)
  np.testing.assert_allclose(summary['perplexity'], 2**entropy, rtol=0.04)
  assert summary['usage'] == pytest.approx((counts > 0).mean(), abs=0.04)


def test_evaluation_has_every_term_of_the_loss(trained, evaluate, photo):
  config, _, state, _ = trained
  batch = {'image': photo[None, :96, :96]}
  metrics = evaluate(batch)
  terms = ('mse', 'loss_commitment', 'loss_context')
  np.testing.assert_allclose(
    metrics['loss'], sum(float(metrics[key]) for key in terms), rtol=1e-5
  )
  # the decoder's floats: clamping them to pixels can only help
  assert 1 > metrics['mse'] > 0.99 * metrics['mse255'] / 127.5**2
  cfg = components.model_config(config)
  z = model.Encoder(cfg).apply(
    {'params': state.params['encoder']}, model.to_model(batch['image'])
  )
  z = np.asarray(z, np.float64).reshape(-1, z.shape[-1])
  book = np.asarray(state.quantizer.codebook[0], np.float64)
  nearest = ((z[:, None] - book[None]) ** 2).sum(-1).min(1).mean() / z.shape[1]
  # codes pay for their bits, so that they are near and seldom the nearest
  assert nearest <= metrics['loss_commitment'] / 0.25 < 1.5 * nearest
  assert metrics['beta_ratio'] == pytest.approx(60.0) and metrics['beta'] > 0


def test_images_hold_the_original_and_the_reconstruction(trained, photo):
  _, made, state, _ = trained
  batch = {'image': photo[None, :32, :32]}
  pair = np.asarray(jax.jit(made.images)(state, batch))
  assert pair.shape == (1, 32, 64, 3) and pair.dtype == np.uint8
  np.testing.assert_array_equal(pair[:, :, :32], batch['image'])
  assert not (pair[:, :, 32:] == pair[:, :, :32]).all()


def smallest_config(**quantizer):
  """Returns the configuration that is changed by one key and compiled for each."""
  config = tiny_config(**quantizer)
  config.model.update({'encoder_blocks': 0, 'decoder_blocks': 0})
  config.quantizer.revival.below = 0.9
  return config


@functools.cache
def two_steps(key='', value=None):
  """Returns (task, state) after two steps with one key changed."""
  config = smallest_config()
  if key:
    node, _, leaf = key.rpartition('.')
    (config[node] if node else config)[leaf] = value
  return train(config, 2)[:2]


@pytest.mark.parametrize(
  'key, value',
  [
    ('average_decay', 0.9),
    ('context.enabled', False),
    # each is a program of its own, which takes seconds to compile
    *[
      pytest.param(*one, marks=pytest.mark.slow)
      for one in (
        ('context.weight', 0.5),
        ('model.activation', 'gelu'),
        ('quantizer.commitment', 1.0),
        ('quantizer.encoder_loss', 'free_energy'),
        ('context.lr_factor', 1.0),
        ('context.context_cost_from', 0.0),
        ('context.weight_decay', 0.0),
        ('revive_steps', 0),
      )
    ],
  ],
)
def test_config_key_changed_alone_changes_the_run(key, value):
  state, before = two_steps(key, value)[1], two_steps()[1]
  same = jax.tree.structure(state) == jax.tree.structure(before) and all(
    np.array_equal(a, b)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(before))
  )
  assert not same


def test_codes_without_cost_make_the_same_run_with_context_costs():
  """results/ give one row for both from balance 1/2 on."""
  runs = []
  for cost_from in (0.0, 1.0):
    config = smallest_config(balance=0.9, encoder_loss='free_energy')
    config.context.context_cost_from = cost_from
    runs.append(train(config, 4)[2])
  for priced, free in zip(*runs):
    np.testing.assert_array_equal(priced['counts'], free['counts'])
    np.testing.assert_allclose(priced['loss'], free['loss'], rtol=1e-5)


def test_averaged_parameters_go_into_the_bundle():
  made, state = two_steps('average_decay', 0.9)
  got = made.bundle(jax.device_get(state), {})
  average = np.asarray(
    state.average.total['decoder']['Conv_0']['kernel'] / state.average.weight
  )
  name = 'decoder/Conv_0/kernel'
  np.testing.assert_allclose(got.arrays[name], average, rtol=1e-6)
  assert not np.allclose(
    got.arrays[name], np.asarray(state.params['decoder']['Conv_0']['kernel'])
  )


@pytest.mark.parametrize(
  'key, value, text',
  [
    ('model', {'hiden': 3}, "'model.hiden'"),
    ('model', {'resample': 'pach'}, "did you mean 'patch'"),
    ('model', {'factor': 3}, 'power of two'),
    ('model', {'hidden': 0}, 'model.hidden is 0'),
    ('data', {**tiny_config().data.to_dict(), 'crop': 18}, 'multiple of model.factor'),
    ('context', {'offset': ((0, -1),)}, "did you mean 'context.offsets'"),
    ('context', {'enabled': True, 'context_cost_from': 0.5}, 'needs quantizer.name'),
    (
      'context',
      {'enabled': True, 'price_from': 0.5},
      'renamed to context.cont',
    ),
    ('quantizer', {'name': 'vq_ema', 'start': 'uniform'}, 'renamed to quantizer.init'),
    ('quantizer', {'name': 'vq_emma', 'num_codes': 4}, "did you mean 'vq_ema'"),
    ('quantizer', {'name': 'vq_ema', 'num_codes': 4, 'dekay': 4}, 'did you mean'),
  ],
)
def test_wrong_keys_are_refused_by_name(key, value, text):
  config = tiny_config()
  with config.unlocked():
    if 'context_cost_from' in value:
      config.quantizer = {'name': 'vq_ema', 'num_codes': 4}
    config[key] = value
  with pytest.raises(CodaxError, match=text):
    task.make(config)


def test_renamed_keys_of_the_family_and_its_quantizers_agree():
  renames = dict(quantize.RENAMED)
  for module in map(importlib.import_module, quantize.REGISTRY.values()):
    renames |= getattr(module, 'RENAMED', {})
  family = {k: v for k, v in defaults.RENAMED.items() if k.startswith('quantizer.')}
  assert family == {f'quantizer.{old}': new for old, new in renames.items()}
  configs = [tiny_config(), defaults.small()]
  configs[1].quantizer = defaults.quantizer('vq_ema', vq_ema.Config()._asdict())
  keys = {key for config in configs for key in flags._list_keys(config)}
  assert set(defaults.RENAMED.values()) <= keys and not set(defaults.RENAMED) & keys
