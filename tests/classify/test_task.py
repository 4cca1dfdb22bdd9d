"""Training of classifiers: it learns, and every option changes the run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from classifiers import make_batch, make_config, start

from codax import bundle as bundles
from codax import fitting
from codax.classify import bundle_io, figures, probe, task
from codax.data import pipeline
from codax.errors import CodaxError


@pytest.fixture(scope='module')
def trained():
  """A task, its state after 40 steps, and the metrics of each step."""
  made = task.make(make_config())
  batch = make_batch()
  state, step = start(made, batch)
  rows = []
  for i in range(40):
    state, metrics = step(state, make_batch(seed=i), jax.random.key(i))
    rows.append(jax.device_get(metrics))
  return made, state, rows


def test_classes_are_learnt(trained):
  made, state, rows = trained
  assert rows[0]['loss'] > 0.5 and np.mean([r['accuracy'] for r in rows[-5:]]) > 0.9
  found = jax.jit(made.eval_step)(state, make_batch(60, seed=99))
  assert found['accuracy'] > 0.9 and found['top5'] == 1.0
  assert found['confusion'].sum() == 60 and found['confusion'].shape == (3, 3)
  assert np.trace(found['confusion']) == pytest.approx(60 * found['accuracy'])
  assert int(state.step) == 40


def test_metrics_have_the_rates_of_the_groups_and_the_monitors(trained):
  _, _, rows = trained
  last = rows[20]
  assert last['learning_rate/^kan'] == pytest.approx(3 * last['learning_rate/^front'])
  assert last['learning_rate/.'] == pytest.approx(1.5 * last['learning_rate/^front'])
  for key in ('outside_grid/kan_0', 'outside_grid/kan_1', 'clipped_share', 'grad_norm'):
    assert 0 <= last[key]
  assert 'moved_share' not in last


def test_groups_learn_at_their_rates():
  """The first step of AdamW is the learning rate: KAN layers move 3 times as far."""
  made = task.make(make_config(**{'optimizer.weight_decay': 0.0}))
  state, step = start(made, make_batch())
  new, _ = step(state, make_batch(), jax.random.key(0))

  def far(name):
    key = 'scale' if 'kan' in name else 'kernel'
    before, after = (np.asarray(one.params[name][key]) for one in (state, new))
    return np.abs(after - before).max()

  assert far('kan_0') == pytest.approx(3 * far('front_0'), rel=0.05)
  assert far('dense') == pytest.approx(1.5 * far('front_0'), rel=0.05)


OPTIONS = [
  {'training.label_smoothing': 0.1},
  {'training.shift': 0},
  {'training.erase': 3},
  {'training.grid_update_prob': 1.0},
  {'training.sparsity': 0.1},
  {'training.entropy': 0.1},
  {'model.dropout': 0.5},
  {'model.has_batch_norm': False},
  {'model.has_residual': False},
  {'model.basis': 'rbf'},
  {'model.basis': 'chebyshev'},
  {'model.grid': 6},
  {'model.low': -1.0},
  {'model.high': 3.0},
  {'model.base_scale': 1.0},
  {'model.spline_init': 'noise'},
  {'model.dtype': 'bfloat16'},
  {'model.pool': 4},
  {'model.head': 'mlp', 'optimizer.groups': ()},
  {'model.front': 'none', 'optimizer.groups': ()},
  {'model.front_strides': (1, 1, 1)},
  {'model.front_kernels': (5, 3, 3)},
  {'optimizer.groups': ()},
  {'optimizer.learning_rate': 1e-3},
  {'optimizer.clip_norm': 0.1},
  {'optimizer.weight_decay': 0.1},
  {'optimizer.name': 'sgd'},
]


@pytest.fixture(scope='module')
def plain_losses():
  return losses({})


def losses(changes, count=3):
  made = task.make(make_config(**changes))
  state, step = start(made, make_batch())
  found = []
  for i in range(count):
    state, metrics = step(state, make_batch(seed=i), jax.random.key(i))
    found.append(float(metrics['loss']))
  return found


@pytest.mark.slow
@pytest.mark.parametrize(
  'changes', OPTIONS, ids=lambda c: ','.join(map(str, c.items()))
)
def test_every_option_changes_the_run(changes, plain_losses):
  """By more than the rounding of another program."""
  found = losses(changes)
  assert max(abs(a / b - 1) for a, b in zip(found, plain_losses)) > 1e-4


def test_other_forms_of_the_layer_are_the_same_run(plain_losses):
  """But for inputs outside of the grids, where the recursion's splines end."""
  np.testing.assert_allclose(losses({'model.form': 'scan'}), plain_losses, rtol=1e-3)
  found = losses({'model.form': 'recursion'})
  np.testing.assert_allclose(found, plain_losses, rtol=0.03)


def test_grids_move_without_a_change_of_the_outputs():
  """Without learning every edge stays straight, so that all grids can move."""
  still = {'optimizer.learning_rate': 0.0, 'optimizer.weight_decay': 0.0}
  made = task.make(make_config(**still, **{'training.grid_update_prob': 1.0}))
  state, step = start(made, make_batch())
  new, metrics = step(state, make_batch(), jax.random.key(0))
  assert new.moved == 1 and metrics['moved_share'] > 0.3
  assert not np.array_equal(new.grids['kan_0']['low'], state.grids['kan_0']['low'])
  quiet = task.make(make_config(**still))
  same, _ = jax.jit(quiet.train_step)(state, make_batch(), jax.random.key(0))
  evaluate = jax.jit(made.eval_step)
  a, b = (evaluate(s, make_batch(24, 5))['loss'] for s in (new, same))
  assert a == pytest.approx(float(b), abs=1e-3)
  assert evaluate(new, make_batch())['grid_updates'] == 1
  late, metrics = step(
    state.replace(step=jnp.int32(30)), make_batch(), jax.random.key(0)
  )
  assert late.moved == 0 and metrics['moved_share'] == 0  # in the second half they rest


def test_loss_is_the_cross_entropy(trained):
  made, state, _ = trained
  batch = make_batch(30, 7)
  from codax.classify import architecture, network

  config = architecture.read(make_config().model)
  logits = network.predict(
    network.Network(state.params, state.stats, state.grids), config, batch['image']
  )
  logits, labels = np.asarray(logits, np.float64), np.asarray(batch['label'])
  log_sum = np.log(np.exp(logits).sum(1))
  wanted = (log_sum - logits[np.arange(30), labels]).mean()
  assert made.eval_step(state, batch)['loss'] == pytest.approx(wanted, rel=1e-5)
  shares = optax.smooth_labels(jax.nn.one_hot(jnp.array([1]), 3), 0.1)
  np.testing.assert_allclose(shares[0], [1 / 30, 0.9 + 1 / 30, 1 / 30], rtol=1e-5)


def test_summary_has_the_worst_class():
  counts = np.array([[8.0, 2.0, 0], [0, 10.0, 0], [5.0, 0, 5.0]])
  found = task._summarize({'confusion': counts, 'accuracy': 0.7})
  assert found == {'accuracy': 0.7, 'worst_class': 0.5}


def test_bundle_gives_the_classifier_back(trained, tmp_path):
  made, state, _ = trained
  bundles.save(made.bundle(state, {'accuracy': 0.9}), tmp_path / bundles.FILE_NAME)
  bundle = bundles.load(tmp_path)
  model = bundle_io.unpack(bundle)
  assert model.shape == (8, 8, 3) and model.config.widths == (8, 6)
  batch = make_batch(30, 3)
  found = probe.make(bundle)(np.asarray(batch['image']))
  wanted = jax.jit(made.eval_step)(state, batch)['accuracy']
  assert (found == np.asarray(batch['label'])).mean() == pytest.approx(float(wanted))


def test_bundle_of_another_model_is_refused_by_name(trained):
  made, state, _ = trained
  bundle = made.bundle(state, {})
  arrays = {k: v for k, v in bundle.arrays.items() if 'kan_1/base' not in k}
  broken = bundles.make('classify', bundle.config, arrays, {})
  with pytest.raises(CodaxError, match="not of model 'custom': params/kan_1/base"):
    bundle_io.unpack(broken)
  with pytest.raises(CodaxError, match="of family 'vae'"):
    bundle_io.unpack(bundles.make('vae', bundle.config, bundle.arrays, {}))


def test_figures_are_drawn(trained, tmp_path):
  made, state, _ = trained
  made.report(state, [jax.device_get(make_batch())], tmp_path)
  names = {p.name for p in (tmp_path / figures.FOLDER).iterdir()}
  assert names == {'confusion.png', 'edges_kan_0.png', 'edges_kan_1.png'}


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'model.basis': 'bsplines'}, "basis 'bsplines'"),
    ({'training.shift': -1}, 'training.shift'),
    ({'training.grid_update_prob': 2.0}, 'grid_update_prob'),
    (
      {'model.head': 'mlp', 'training.sparsity': 0.1},
      "training.sparsity is set, but a head 'mlp' has no edges",
    ),
    ({'optimizer.groups': (('^kna', 2.0),)}, '^kna'),
  ],
)
def test_bad_configuration_is_one_line(changes, message):
  with pytest.raises(CodaxError, match=message.replace('^', r'\^')):
    made = task.make(make_config(**changes))
    jax.eval_shape(made.init, jax.random.key(0), make_batch())


def test_images_need_labels_that_are_classes():
  config = make_config()
  made, batch = task.make(config), jax.device_get(make_batch())
  data = pipeline.Pipeline(batch, None, None, None)
  fitting.check_labels(made, data, [batch], config)
  bare = {'image': batch['image']}
  with pytest.raises(CodaxError, match="data set 'digits' has no labels"):
    fitting.check_labels(made, data._replace(arrays=bare), [bare], config)
  unlabelled = batch | {'label': np.where(batch['label'] == 2, -1, batch['label'])}
  for evaluation in (bare, unlabelled):
    with pytest.raises(CodaxError, match="'digits' has images without labels; a clas"):
      fitting.check_labels(made, data, [batch, evaluation], config)
  more = batch | {'label': batch['label'] + 4}
  with pytest.raises(CodaxError, match='has 7 classes or more, the network 3: set'):
    fitting.check_labels(made, data, [more], config)
  hosted = pipeline.Pipeline(None, None, lambda step: more, None)
  with pytest.raises(CodaxError, match='has 7 classes'):
    fitting.check_labels(made, hosted, [], config)
