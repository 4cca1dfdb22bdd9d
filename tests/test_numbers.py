"""Every number of every family's configuration: silly values are named at once."""

import importlib.util
from pathlib import Path

import pytest

from codax.classify import task as classify_task
from codax.config import check_present
from codax.data import pipeline
from codax.errors import CodaxError
from codax.overfit import task as overfit_task
from codax.per_image import run
from codax.splat import task as splat_task
from codax.training import flags, optim, settings
from codax.vae import kl_components
from codax.vqvae import components

ROOT = Path(__file__).parents[1]
NAN, INF = float('nan'), float('inf')
# No key of any family takes these. ConfigDict turns True into a float by itself.
NEVER = {int: (-(2**40), 2**40, True, 2.5, NAN, INF, '1'), float: (NAN, INF, 1e30, '1')}
NO_TUPLE = (NAN, -1.0, True, (1,))  # nothing that a tuple of any key holds
# Keys that may be 0, and those that may not be 0 although they are lists of numbers.
ZERO_IS_OFF = set(
  'seed eval_every outside_every report_images revive_steps max_batch stage2_steps'
  ' patience training.shift training.erase'
  ' data.eval_crops'
  ' data.leaves_seed data.crop data.limit model.encoder_blocks model.decoder_blocks'
  ' model.attention_blocks model.attention_window model.body model.stages'
  ' kl.warmup_steps loss.gan_start optimizers.vae.warmup_steps'
  ' optimizers.prior.warmup_steps optimizers.discriminator.warmup_steps'
  ' optimizer.warmup_steps quantizer.beta_steps quantizer.chunk'
  ' quantizer.kmeans_iterations quantizer.stochastic_steps arch.convs'
  ' arch.inter_grid_context recipe.cg_iterations recipe.codebook_size'
  ' recipe.q_steps.fine recipe.rdo_sweeps recipe.stage2_patience'.split()
)


def check_vqvae(config):
  check_present(config, ('data',))  # in the order of `fitting.fit_model`
  settings.read(config)
  pipeline.settings(config.data)
  made = components.make(config)
  made.optimizer({'encoder': 0.0, 'context': 0.0})


def check_vae(config):
  check_present(config, ('data',))
  settings.read(config)
  pipeline.settings(config.data)
  made = kl_components.make(config)
  made.optimizer({name: 0.0 for name in ('vae', 'prior', 'discriminator')})


def check_classify(config):
  check_present(config, ('data',))
  settings.read(config)
  pipeline.settings(config.data)
  classify_task.make(config)
  params = {name: 0.0 for name in ('front_0', 'kan_0', 'dense')}
  optim.make(config.optimizer, config.total_steps, params)


def check_per_image(task):
  def check(config):
    settings.read(config)
    run._read_max_batch(config)
    task.plan(config)

  return check


CHECKS = {
  'vqvae_ba': check_vqvae,
  'vqvae_ema': check_vqvae,
  'vqvae_fsq': check_vqvae,
  'vae_bezier': check_vae,
  'rapid_kan': check_classify,
  'overfit_kan': check_per_image(overfit_task),
  'splat': check_per_image(splat_task),
}


def make_config(name):
  spec = importlib.util.spec_from_file_location(name, ROOT / 'configs' / f'{name}.py')
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config()
  if name in ('overfit_kan', 'splat'):
    config.data.update({'limit': 1, 'crop': 32})
  elif name not in ('vae_bezier', 'rapid_kan'):
    config.context.weight_decay = 0.0  # its pattern names parameters
    config.context.lr_factor = 1.0
  return config


def is_refused(name, key, value):
  """A value is answered by one line; True unless it is taken."""
  config = section = make_config(name)
  *path, last = key.split('.')
  for part in path:
    section = section[part]
  with section.ignore_type():
    section[last] = value
  try:
    CHECKS[name](config)
  except CodaxError as e:
    assert '\n' not in str(e), key
    return True
  return False


def numbers(name, kind):
  keys = flags._list_keys(make_config(name)).items()
  return [key for key, value in keys if type(value) is kind]


@pytest.mark.parametrize('name', CHECKS)
def test_configuration_as_it_is_passes(name):
  CHECKS[name](make_config(name))


@pytest.mark.parametrize('kind', [int, float])
@pytest.mark.parametrize('name', CHECKS)
def test_silly_number_is_refused(name, kind):
  taken = [
    (key, value)
    for key in numbers(name, kind)
    for value in NEVER[kind]
    if not is_refused(name, key, value)
  ]
  assert not taken


@pytest.mark.parametrize('name', CHECKS)
def test_negative_number_is_refused(name):
  keys = numbers(name, int) + numbers(name, float)
  taken = [key for key in keys if not is_refused(name, key, -1)]
  # an end of the grid of a spline may lie anywhere below the other
  ends = ('_kan.low', 'model.low', 'model.high')
  assert [key for key in taken if not key.endswith(ends)] == []


@pytest.mark.parametrize('name', CHECKS)
def test_zero_is_refused_where_it_means_nothing(name):
  taken = {key for key in numbers(name, int) if not is_refused(name, key, 0)}
  assert taken <= ZERO_IS_OFF


@pytest.mark.parametrize('name', CHECKS)
def test_tuple_of_other_things_is_refused(name):
  keys = [*numbers(name, tuple), *numbers(name, type(None))]
  keys = [key for key in keys if not key.endswith('_kan')]
  taken = [
    (key, value)
    for key in keys
    for value in NO_TUPLE
    if not is_refused(name, key, (value,))
  ]
  assert not taken
  assert all(is_refused(name, 'writers', value) for value in (3, True, NAN))


@pytest.mark.parametrize('name', CHECKS)
def test_missing_section_and_unknown_key_are_named(name):
  others = {'vqv': 'optimizer', 'vae': 'optimizers', 'rap': 'optimizer'}
  other = others.get(name[:3], 'recipe')
  for section in ('data', other):
    config = make_config(name)
    del config[section]
    with pytest.raises(CodaxError, match=f'config.{section} is missing'):
      CHECKS[name](config)
  config = make_config(name)
  with config.unlocked():
    config.total_step = 3
  with pytest.raises(CodaxError, match="'total_step'; did you mean 'total_steps'"):
    CHECKS[name](config)
