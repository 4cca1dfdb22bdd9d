"""Architectures of the guide: exact sizes, and what configurations may say."""

import jax
import numpy as np
import pytest

from codax.classify import architecture, defaults, network
from codax.errors import CodaxError


def count(config, shape=(32, 32, 3)):
  """Numbers of parameters by part of the network."""
  made = jax.eval_shape(lambda: network.init(jax.random.key(0), config, shape))
  sizes = jax.tree.map(lambda x: int(np.prod(x.shape)), made.params)
  return {name: sum(jax.tree.leaves(part)) for name, part in sizes.items()}


@pytest.mark.parametrize(
  'name, total',
  [
    ('rapid_kan_lite', 8_329_472),
    ('rapid_kan', 26_647_168),
    ('rapid_kan_power', 58_451_712),
    ('memory_safe_kan', 26_647_168),
    ('fast_exact_kan', 26_647_168),
  ],
)
@pytest.mark.parametrize('side', [32, 100])
def test_models_of_the_guide_have_their_sizes(name, total, side):
  """At 26 classes, for images of any size."""
  config = architecture.get(name)._replace(classes=26)
  assert sum(count(config, (side, side, 3)).values()) == total


def test_parts_are_those_of_the_sheet():
  """An edge has a base weight, G + 3 coefficients and a scale."""
  parts = count(architecture.get('rapid_kan_lite')._replace(classes=26))
  assert parts['kan_0'] == 1024 * 256 * (1 + 11 + 1)
  assert parts['kan_1'] == 256 * 26 * 13
  assert parts['linear_0'] == 1024 * 256 + 256 and 'linear_1' not in parts
  assert parts['front_0'] == 5 * 5 * 3 * 64 + 64 and parts['front_norm_0'] == 128
  assert parts['dense'] == 4096 * 1024 + 1024


def test_rivals_have_no_edges():
  mlp, cnn = (count(architecture.get(name)) for name in ('mlp', 'cnn'))
  assert not any(name.startswith('kan') for name in (*mlp, *cnn))
  assert mlp['linear_1'] == 512 * 128 + 128 and mlp['linear_2'] == 128 * 10 + 10
  assert [name for name in cnn if name.startswith('linear')] == ['linear_0']
  assert {k: v for k, v in mlp.items() if 'front' in k} == {
    k: v for k, v in cnn.items() if 'front' in k
  }


def test_standard_kan_sees_the_pixels():
  parts = count(architecture.get('standard_kan'))
  assert list(parts) == ['kan_0', 'kan_1']
  assert parts['kan_0'] == 32 * 32 * 3 * 64 * 10


# Of each model: epochs, images in a batch, learning rate, as the sheet has them. Epochs
# and batches of the last three are ours.
SHEET = {
  'rapid_kan': (50, 32, 3e-3),
  'rapid_kan_lite': (50, 64, 4e-3),
  'rapid_kan_power': (75, 16, 2.5e-3),
  'memory_safe_kan': (50, 32, 5e-3),
  'fast_exact_kan': (50, 16, 3e-3),
  'standard_kan': (100, 32, 1e-3),
  'mlp': (50, 32, 3e-3),
  'cnn': (50, 32, 3e-3),
}


def test_every_model_of_the_guide_is_in_the_sheet():
  assert set(defaults.GUIDE) == set(SHEET)


@pytest.mark.parametrize('name', SHEET)
def test_settings_are_those_of_the_guide(name):
  config = defaults.get(f'variant={name}')
  epochs, batch_size, learning_rate = SHEET[name]
  epoch = -(-45_000 // batch_size)  # a tenth of the images is for validation
  assert config.total_steps == epochs * epoch and config.eval_every == epoch
  assert config.optimizer.warmup_steps == 5 * epoch
  assert config.optimizer.learning_rate == learning_rate
  assert config.optimizer.weight_decay == 0.01 and config.optimizer.clip_norm == 1.0
  assert (config.optimizer.name, config.optimizer.schedule) == ('adamw', 'cosine')
  assert config.data.batch_size == batch_size
  assert config.patience == 15 and config.data.val_fraction == 0.1
  groups = dict(config.optimizer.groups)
  assert (groups.get('^kan') == 3.0) == (name not in ('mlp', 'cnn', 'standard_kan'))
  assert (groups.get('^front') == 1.0) == (name != 'standard_kan')


@pytest.mark.parametrize(
  'change, message',
  [
    ({'head': 'cnn'}, 'head.*kan'),
    ({'basis': 'splines'}, "basis 'splines'"),
    ({'grid': 0}, 'grid'),
    ({'widths': ()}, 'widths is empty'),
    ({'front_strides': (2, 2)}, 'differ in length'),
    ({'dropout': 1.0}, 'dropout'),
    ({'classes': 1}, 'classes'),
    ({'widht': 3}, 'widths'),
    ({'head': 'mlp', 'basis': 'rbf'}, "model.basis = 'rbf' changes nothing with head"),
    ({'head': 'mlp', 'has_residual': False}, 'has_residual = False changes nothing'),
    ({'head': 'mlp', 'grid': 9}, 'grid = 9 changes nothing with head'),
    ({'front': 'none', 'pool': 2}, "pool = 2 changes nothing with front 'none'"),
    ({'front': 'none', 'dropout': 0.5}, 'dropout = 0.5 changes nothing with front'),
    ({'front': 'none', 'front_widths': (3, 3, 3)}, r'front_widths = \(3, 3, 3\) ch'),
  ],
)
def test_bad_architecture_is_one_line(change, message):
  section = architecture.get('digits')._asdict() | change
  with pytest.raises(CodaxError, match=message):
    architecture.read(section)


@pytest.mark.parametrize('name', architecture.VARIANTS)
@pytest.mark.parametrize('change', [{'head': 'mlp'}, {'front': 'none'}])
def test_variants_without_a_part_are_valid(name, change):
  section = architecture.get(name)._asdict() | change
  assert architecture.read(section)._asdict() == section


def test_architectures_have_their_names():
  for name, config in architecture.VARIANTS.items():
    assert architecture.name_of(config._replace(classes=7)) == name
  changed = architecture.get('digits')._replace(widths=(3,))
  assert architecture.name_of(changed) == 'custom'


def test_unknown_variant_names_the_nearest():
  with pytest.raises(CodaxError, match='rapid_kan'):
    defaults.get('variant=rapidkan')
  with pytest.raises(CodaxError, match='variant=NAME'):
    defaults.get('rapid_kan')
