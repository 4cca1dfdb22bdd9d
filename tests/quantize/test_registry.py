"""The contract that every quantizer keeps, and errors that name the mistake."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codax.errors import CodaxError
from codax.quantize import REGISTRY, base, exported, get

KEY = jax.random.key(0)
Z = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 6)), jnp.float32)
# A quantizer needs one row here: its name and configuration for six channels.
ROWS = [
  ('ba_reference', {'num_codes': 5, 'groups': 2}),
  ('blahut_arimoto', {'num_codes': 5, 'groups': 2}),
  ('ema_reference', {'num_codes': 5, 'groups': 2}),
  ('fsq', {'levels': (3, 2, 4), 'groups': 2}),
  ('vq', {'num_codes': 5, 'groups': 2}),
  ('vq_ema', {'num_codes': 5, 'groups': 2}),
  # composition
  ('blahut_arimoto', {'num_codes': 5, 'groups': 2, 'stages': 2, 'revival': {}}),
  ('blahut_arimoto', {'num_codes': 5, 'revival': {'to': 'data', 'below': 0.9}}),
  ('vq_ema', {'num_codes': 5, 'stages': 3, 'estimator': 'rotation'}),
  ('fsq', {'levels': (2,) * 6, 'estimator': 'rotation'}),
  ('vq', {'num_codes': 5, 'groups': 2, 'estimator': 'diveq', 'revival': {}}),
]
IDS = ['-'.join([name, *values]) for name, values in ROWS]
HARD = [  # training decodes soft mixtures, or codewords with noise on them
  i
  for i, (name, values) in enumerate(ROWS)
  if name != 'ba_reference' and values.get('estimator') != 'diveq'
]
every_row = pytest.mark.parametrize('row', range(len(ROWS)), ids=IDS)


@functools.cache
def ready(row):
  name, values = ROWS[row]
  q = get(name, **values)
  params, state = jax.jit(q.init)(KEY, Z.reshape(-1, 6))
  return q, params, state


@functools.cache
def train_step(row):
  """Returns the compiled training step, which may be traced once."""
  q, _, _ = ready(row)

  def train(params, state, z, rng, step):
    return q.quantize(params, state, z, train=True, rng=rng, step=step)

  train.__name__ = f'train_{row}'  # chex counts by name
  return jax.jit(chex.assert_max_traces(train, n=1))


@functools.cache
def output(row, train):
  q, params, state = ready(row)
  if train:
    return train_step(row)(params, state, Z, KEY, jnp.int32(3))
  f = functools.partial(q.quantize, train=False)
  return jax.jit(f)(params, state, Z, rng=KEY, step=3)


def test_every_quantizer_has_a_row():
  assert {name for name, _ in ROWS} == set(REGISTRY)


@pytest.mark.parametrize('train', [False, True])
@every_row
def test_quantize_returns_what_the_contract_says(row, train):
  q, params, state = ready(row)
  out = output(row, train)
  chex.assert_type([out.values, out.codes], [jnp.float32, jnp.int32])
  chex.assert_equal_shape([out.values, Z])
  assert out.codes.shape == (2, 4, 4, q.groups)
  assert 0 <= out.codes.min() and out.codes.max() < q.num_codes[0]
  for scalar in (*out.losses.values(), *out.stats.values()):
    assert scalar.shape == () and np.isfinite(scalar)
  chex.assert_trees_all_equal_shapes_and_dtypes(out.state, state)  # fit for a scan
  prior = q.code_prior(out.state)
  assert prior.shape == (q.groups, q.num_codes[0]) and (prior >= 0).all()
  np.testing.assert_allclose(prior.sum(-1), 1, rtol=1e-5)


@every_row
def test_evaluation_leaves_the_state_untouched(row):
  _, _, state = ready(row)
  jax.tree.map(np.testing.assert_array_equal, output(row, False).state, state)
  trained = jax.tree.leaves(output(row, True).state)
  assert any((a != b).any() for a, b in zip(trained, jax.tree.leaves(state)))


@pytest.mark.parametrize('train', [False, True])
@pytest.mark.parametrize('row', HARD, ids=[IDS[i] for i in HARD])
def test_decode_of_codes_equals_values(row, train):
  q, params, state = ready(row)
  out = output(row, train)
  np.testing.assert_array_equal(q.decode(params, state, out.codes), out.values)


@every_row
def test_export_decodes_in_numpy_as_in_jax(row):
  q, params, state = ready(row)
  codes = output(row, False).codes
  books = exported.from_arrays(jax.device_get(q.export(params, state)))
  assert (books.groups, books.num_codes, books.dim) == (q.groups, q.num_codes[0], 6)
  np.testing.assert_array_equal(
    exported.decode(books, np.asarray(codes)), q.decode(params, state, codes)
  )
  codebook = q.codebook(params, state)
  if codebook is None:
    assert q.stages > 1 or not params
  else:
    np.testing.assert_array_equal(codebook, books.stages[0])
  assert q.code_vectors(params, state).shape[:2] == (q.groups, q.num_codes[0])


@every_row
def test_least_costs_are_the_nearest_values(row):
  """Group by group and stage by stage, against the values of every code in turn."""
  q, params, state = ready(row)
  books = exported.from_arrays(jax.device_get(q.export(params, state)))
  z = np.asarray(q.project(Z)).reshape(-1, 6)
  np.testing.assert_allclose(books.project(np.asarray(Z)).reshape(-1, 6), z, atol=1e-6)
  codes = np.zeros((len(z), 0), np.int32)
  slices = q.groups // q.stages
  for g in range(q.groups):
    cost = exported.costs(books, z, codes)
    stage, group = divmod(g, slices)
    channels = slice(group * 6 // slices, (group + 1) * 6 // slices)
    before = np.zeros_like(z)
    for s in range(stage):
      part = codes[:, s * slices : (s + 1) * slices]
      book = exported.Codebooks(books.stages[s : s + 1], books.project)
      before = before + exported.decode(book, part)
    rest = (z - before)[:, channels]
    exact = ((rest[:, None] - books.stages[stage][group]) ** 2).sum(-1)
    exact = exact - (rest**2).sum(-1, keepdims=True)
    np.testing.assert_allclose(cost, exact, atol=1e-4)
    codes = np.concatenate([codes, cost.argmin(-1)[:, None]], axis=-1)


@every_row
def test_revive_keeps_the_structure(row):
  q, params, state = ready(row)
  new_params, new_state, moved = jax.eval_shape(q.revive, params, state, KEY)
  chex.assert_trees_all_equal_shapes_and_dtypes(new_params, params)
  chex.assert_trees_all_equal_shapes_and_dtypes(new_state, state)
  chex.assert_trees_all_equal_shapes(moved, params)
  assert all(m.dtype == bool for m in jax.tree.leaves(moved))


@every_row
def test_training_is_traced_once(row):
  """Steps and keys are arrays: no value of them is a program of its own."""
  _, params, state = ready(row)
  step = train_step(row)
  for i in range(3):
    state = step(params, state, Z, jax.random.key(i), jnp.int32(i)).state


@pytest.mark.parametrize('name', sorted(set(REGISTRY) - {'fsq'}))
@pytest.mark.parametrize('codes,groups', [(1, 1), (7, 3)])
def test_num_codes_and_groups(name, codes, groups):
  q = get(name, num_codes=codes, groups=groups)
  z = Z.reshape(-1, 6)

  def both(key, z):
    params, state = q.init(key, z)
    out = q.quantize(params, state, z, train=True, rng=key)
    return out, q.code_prior(out.state)

  out, prior = jax.eval_shape(both, KEY, z)
  assert out.codes.shape == (32, groups) and prior.shape == (groups, codes)
  assert q.num_codes == (codes,) * groups


@pytest.mark.parametrize('name', REGISTRY)
def test_latents_that_do_not_split_are_refused(name):
  with pytest.raises(CodaxError, match='6 is not a multiple of groups = 4'):
    get(name, groups=4).init(KEY, Z.reshape(-1, 6))


def test_latents_that_are_no_floats_are_refused():
  q, params, state = ready(IDS.index('vq_ema-num_codes-stages-estimator'))
  with pytest.raises(AssertionError, match='float'):
    q.quantize(params, state, jnp.zeros((4, 6), jnp.int32), train=False)


def test_unknown_quantizer_names_the_nearest():
  with pytest.raises(CodaxError, match="'vq_emma'.*did you mean 'vq_ema'"):
    get('vq_emma')


@pytest.mark.parametrize('name', sorted(set(REGISTRY) - {'fsq'}))
def test_unknown_key_names_the_nearest(name):
  with pytest.raises(CodaxError, match="'num_code'.*did you mean 'num_codes'") as e:
    get(name, num_code=3)
  assert '\n' not in str(e.value)


@pytest.mark.parametrize(
  'name, key, new',
  [
    ('blahut_arimoto', 'revive_below', 'quantizer.revival.below'),
    ('vq_ema', 'revive_below', 'quantizer.revival.below'),
    ('blahut_arimoto', 'revive_to', 'quantizer.revival.to'),
    ('blahut_arimoto', 'servo_gain', 'quantizer.rate_controller_gain'),
    ('blahut_arimoto', 'codes', 'quantizer.stochastic_steps'),
    ('blahut_arimoto', 'codebook_weight', 'optimizer.groups'),
    ('vq_ema', 'start', 'quantizer.init'),
  ],
)
def test_renamed_keys_are_answered_with_their_names_today(name, key, new):
  with pytest.raises(CodaxError) as e:
    get(name, **{key: 0.5})
  assert str(e.value) == f'config key quantizer.{key} was renamed to {new}'


CODEBOOKS = ['vq_ema', 'blahut_arimoto', 'ba_reference']
BAD = [
  (CODEBOOKS, {'num_codes': 0}, 'num_codes = 0'),
  (CODEBOOKS, {'num_codes': 2.5}, 'num_codes = 2.5'),
  (CODEBOOKS, {'num_codes': '8'}, "num_codes = '8'"),
  (REGISTRY, {'groups': -1}, 'groups = -1'),
  (CODEBOOKS, {'commitment': -0.1}, 'commitment = -0.1'),
  (CODEBOOKS, {'commitment': float('nan')}, 'commitment = nan'),
  (['vq_ema'], {'decay': 1.0}, 'decay = 1.0'),
  (['vq_ema'], {'init': 'kmean'}, "did you mean 'kmeans'"),
  (REGISTRY, {'estimator': 'rotate'}, "did you mean 'rotation'"),
  (CODEBOOKS[:2], {'revival': {'below': 1.5}}, 'revival.below = 1.5'),
  (REGISTRY, {'revival': {'belo': 0.1}}, "did you mean 'revival.below'"),
  (['fsq'], {'revival': {'below': 0.1}}, 'needs a quantizer with codewords'),
  (['ba_reference'], {'revival': {'below': 0.1}}, 'needs a quantizer with codewords'),
  (REGISTRY, {'stages': 0}, 'stages = 0'),
  (['fsq'], {'levels': (3, 1)}, '2 or more'),
  (['fsq'], {'levels': (256, 256, 2)}, 'product up to 65536'),
  (['fsq'], {'levels': (2.5, 3.0)}, 'integers'),
  (['fsq'], {'levels': 5}, 'of type tuple'),
  (['ba_reference'], {'epochs': 0}, 'epochs = 0'),
  (['blahut_arimoto', 'ba_reference'], {'iterations': 0}, 'iterations = 0'),
  (['blahut_arimoto'], {'balance': 1.2}, 'balance = 1.2'),
  (['blahut_arimoto'], {'beta_end': 0}, 'beta_end = 0'),
  (['blahut_arimoto'], {'beta_schedule': 'cosin'}, "did you mean 'cosine'"),
  (['blahut_arimoto'], {'codebook': 'emma'}, "did you mean 'ema'"),
  (['blahut_arimoto'], {'codes': 'stochastic'}, 'stochastic_steps'),
  (['blahut_arimoto'], {'revival': {'to': 'dat'}}, "did you mean 'data'"),
  (['blahut_arimoto'], {'marginal_decay': 1.0}, 'marginal_decay = 1.0'),
  (['blahut_arimoto'], {'target_bits': 9.0}, 'num_codes = 256'),
  (['blahut_arimoto'], {'chunk': -1}, 'chunk = -1'),
]


@pytest.mark.parametrize('names,values,says', BAD)
def test_bad_values_are_refused(names, values, says):
  for name in names:
    with pytest.raises(CodaxError) as e:
      get(name, **values)
    assert says in str(e.value) and '\n' not in str(e.value)


def test_groups_are_slices_of_the_channels():
  groups = base.split_groups(Z, 3)
  assert groups.shape == (3, 32, 2)
  np.testing.assert_array_equal(groups[1], Z.reshape(-1, 6)[:, 2:4])
  np.testing.assert_array_equal(base.merge_groups(groups, Z.shape), Z)
  codes = base.merge_codes(jnp.arange(64).reshape(2, 32), (2, 4, 4))
  assert codes.shape == (2, 4, 4, 2) and codes[1, 2, 3].tolist() == [27, 59]


def test_entropy_is_the_mean_over_the_groups():
  p = jnp.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
  np.testing.assert_allclose(base.mean_entropy_bits(p), 0.5)
