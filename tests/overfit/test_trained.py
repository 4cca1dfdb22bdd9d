"""What training leaves, from one machine to another."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from tiny import SMALL

from codax.errors import CodaxError
from codax.overfit import train, trained

KEY = jax.random.key(0)


def params():
  state = train.init(KEY, SMALL, train.Recipe(), jnp.full((2, 13, 18, 3), 0.4))
  found = jax.device_get(state.params)
  rng = np.random.default_rng(0)
  found['latents'] = rng.normal(size=found['latents'].shape).astype(np.float32)
  found['latents'][0, 0] = 1e3  # beyond what a file holds
  return found


def test_round_trip(tmp_path):
  before = params()
  trained.save(tmp_path / 'x', before, 12.5)
  group = trained.load(tmp_path / 'x')
  assert group.seconds == 12.5
  assert group.source['hardware']['platform'] == jax.default_backend()
  for module in ('synthesis', 'entropy'):
    for name, value in before[module].items():
      np.testing.assert_array_equal(group.params[module][name], value)
  # files hold rounded latents: these are the same before and after
  hard = lambda found: np.asarray(train.hard(found['latents']))
  np.testing.assert_array_equal(hard(group.params), hard(before))
  assert np.abs(hard(group.params)).max() == 255


@pytest.mark.parametrize('how', ['empty', 'cut', 'other arrays', 'other text'])
def test_damage_is_named(tmp_path, how):
  file = tmp_path / 'x'
  trained.save(file, params(), 1.0)
  data = file.read_bytes()
  file.write_bytes({
    'empty': b'',
    'cut': data[:-7],
    'other arrays': safetensors.numpy.save({'a': np.zeros(3)}),
    'other text': safetensors.numpy.save(
      {'a': np.zeros(3)}, metadata={'shape': json.dumps(3)}
    ),
  }[how])  # fmt: skip
  with pytest.raises(CodaxError, match='delete it'):
    trained.load(file)
