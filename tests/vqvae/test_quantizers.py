"""Quantizers other than one explicit codebook, from training to files."""

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_vqvae import tiny_config, train

import codax
from codax import bundle as bundles
from codax import codec, families
from codax.errors import CodaxError
from codax.quantize import fsq, vq_ema
from codax.vqvae import codec as vqvae_codec
from codax.vqvae import components, defaults

STEPS = 60
CONFIG = Path(__file__).parents[2] / 'configs' / 'vqvae_ba.py'


def configure(name, values, latent_dim=4, **composition):
  config = tiny_config()
  config.model.latent_dim = latent_dim
  config.quantizer = defaults.quantizer(name, values, below=0.0)
  with config.unlocked():
    config.quantizer.update(composition)
  return config


CONFIGS = {
  'residual': lambda: configure(
    'vq_ema', {**vq_ema.Config()._asdict(), 'num_codes': 16}, stages=2, groups=2
  ),
  'fsq': lambda: configure(
    'fsq', {**fsq.Config()._asdict(), 'levels': (5, 5, 5)}, latent_dim=3
  ),
}


@pytest.fixture(scope='module', params=CONFIGS)
def trained(request):
  """(name, metrics of each step, bundle) of a tiny run."""
  made, state, history = train(CONFIGS[request.param](), STEPS)
  assert made.diagnose(jax.device_get(state), []) == {}
  return request.param, history, made.bundle(jax.device_get(state), {'psnr': 20.0})


def encode(bundle, photo, **options):
  made = families.get('vqvae', model=bundle, options=codec.Options(**options))
  return made.encode(photo)


def psnr(a, b):
  return 10 * np.log10(255**2 / np.mean((a.astype(np.float64) - b) ** 2))


def test_training_lowers_the_error_and_learns_the_context(trained):
  _, history, _ = trained
  mse = [m['mse'] for m in history]
  bits = [m['context_bits'] for m in history]
  assert np.mean(mse[-5:]) < 0.6 * np.mean(mse[:5])
  assert np.mean(bits[-5:]) < np.mean(bits[:5])


def test_files_decode_to_the_reconstruction(trained, photo, tmp_path):
  name, _, bundle = trained
  path = tmp_path / bundles.FILE_NAME
  bundles.save(bundle, path)
  encoded = encode(bundle, photo, preset='medium')
  np.testing.assert_array_equal(
    codax.decode(encoded.data, model=path), encoded.reconstruction
  )
  flat = np.broadcast_to(photo.mean((0, 1), keepdims=True), photo.shape)
  assert psnr(encoded.reconstruction, photo) > psnr(flat, photo) + 2
  arrays = {n for n in bundle.arrays if n.startswith('quantizer/')}
  assert 'codebook' not in bundle.arrays
  assert arrays == {
    'fsq': {'quantizer/fsq/levels'},
    'residual': {f'quantizer/residual/{i}/codebook' for i in range(2)},
  }[name]  # fmt: skip


def test_selection_at_no_cost_is_what_training_quantizes_to(trained, photo):
  """The static choice at lmbda 0 on the NumPy side, against `Quantizer.quantize`."""
  name, _, bundle = trained
  if name != 'fsq':
    pytest.skip('test_registry.py does so for explicit and summed codebooks')
  model = vqvae_codec.unpack(bundle)
  z = vqvae_codec.latents(model, photo[:32, :32])
  assert np.abs(z).max() <= 1  # in the space of the codewords
  codes = vqvae_codec.rd_select_codes(model, z, 0.0)
  levels = model.codebooks.stages[0][0]
  nearest = ((z[:, :, None] - levels) ** 2).sum(-1).argmin(-1)
  np.testing.assert_array_equal(codes[..., 0], nearest)


def test_weight_of_bits_and_refinement_work_as_for_a_codebook(trained, photo):
  _, _, bundle = trained
  sizes = [len(encode(bundle, photo, preset='fast', lmbda=l).data) for l in (1e-6, 3.0)]
  assert sizes[1] < 0.95 * sizes[0]
  fast, medium = (
    encode(bundle, photo, preset=p, lmbda=1e-6) for p in ('fast', 'medium')
  )
  assert psnr(medium.reconstruction, photo) > psnr(fast.reconstruction, photo) + 0.05


def test_bundles_with_two_or_damaged_quantizers_are_refused(trained):
  _, _, bundle = trained
  name = next(n for n in bundle.arrays if n.startswith('quantizer/'))
  changed = {**bundle.arrays, 'codebook': np.zeros((1, 4, 4), np.float32)}
  fewer = {n: a for n, a in bundle.arrays.items() if n != name}
  other = {**bundle.arrays, name: bundle.arrays[name][..., :1]}
  unknown = {**fewer, 'quantizer/lfq/levels': bundle.arrays[name]}
  for arrays in (changed, fewer, other, unknown):
    with pytest.raises(CodaxError):
      families.get('vqvae', model=bundles.make('vqvae', bundle.config, arrays, {}))


def test_latents_that_do_not_fit_the_levels_are_refused():
  config = CONFIGS['fsq']()
  config.quantizer.levels = (3, 3)
  with pytest.raises(CodaxError, match=r'levels = \(3, 3\) do not fit 3 latent'):
    train(config, 0)


@pytest.mark.parametrize('total_steps', [40, 101, 2400, 19_500])
def test_described_beta_rises_over_a_run_of_any_length(total_steps):
  """Epochs of 195 steps would leave a short run at the first beta, unnoticed."""
  config = runpy.run_path(str(CONFIG))['get_config']('reference')
  config.total_steps = total_steps
  quantizer = components.make_quantizer(config)
  z = jnp.ones((8, 2))
  params, state = jax.jit(quantizer.init)(jax.random.key(0), z)
  beta = jax.jit(
    lambda step: quantizer.quantize(params, state, z, train=False, step=step).stats
  )
  first, half, last = (
    float(beta(jnp.int32(s))['beta']) for s in (0, total_steps // 2, total_steps - 1)
  )
  assert first == pytest.approx(0.1) and half == pytest.approx(2.55, abs=0.2)
  # one epoch short of its end, as the source has it
  assert 4.95 < last < 5.0
