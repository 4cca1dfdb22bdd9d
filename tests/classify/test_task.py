"""Training of classifiers: it learns, and every option changes the run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from classifiers import make_batch, make_config, start

from codax import bundle as bundles
from codax import fitting
from codax.classify import architecture, bundle_io, figures, network, probe, task
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
  assert found['accuracy'] > 0.9
  assert found['confusion'].sum() == 60 and found['confusion'].shape == (3, 3)
  assert np.trace(found['confusion']) == pytest.approx(60 * found['accuracy'])
  assert int(state.step) == 40


def test_metrics_have_the_rates_of_the_groups_and_the_monitors(trained):
  _, _, rows = trained
  last = rows[20]
  assert last['learning_rate/^kan'] == pytest.approx(3 * last['learning_rate/^front'])
  assert last['learning_rate/.'] == pytest.approx(1.5 * last['learning_rate/^front'])
  norms = np.array([row['grad_norm'] for row in rows[:21]])
  assert norms.min() < 1 < norms.max()  # clipped at 1, some of them
  assert last['clipped_share'] == pytest.approx((norms > 1).mean())
  assert 'moved_share' not in last


def test_share_outside_of_the_grids_is_that_of_the_inputs():
  setup = task.make(make_config(**{'training.shift': 0, 'model.high': 0.5}))
  state, step = start(setup, make_batch())
  _, metrics = step(state, make_batch(), jax.random.key(0))
  seen = run_network(state, make_batch(), {'model.high': 0.5}, jax.random.key(0)).seen
  for name, x in seen.items():
    share = float(np.mean((x < -2) | (x > 0.5)))
    assert 0.1 < share < 0.9
    assert metrics[f'outside_grid/{name}'] == pytest.approx(share, abs=0.02)


def run_network(state, batch, changes, rng=None):
  """Runs the network of a state; with the key of a step as that step does."""
  config = architecture.read(make_config(**changes).model)
  rng = None if rng is None else jax.random.split(rng, 4)[2]
  weights = network.Network(state.params, state.stats, state.grids)
  return network.apply(weights, config, batch['image'], rng)


def test_top5_counts_the_classes_of_the_five_largest_logits():
  changes = {'model.classes': 9}
  setup, batch = task.make(make_config(**changes)), make_batch(90, labels=9)
  state, _ = start(setup, batch)
  logits = np.asarray(run_network(state, batch, changes).logits)
  rank = logits > np.take_along_axis(logits, np.asarray(batch['label'])[:, None], 1)
  shares = [(rank.sum(1) < k).mean() for k in (1, 5)]
  assert 0 < shares[0] < shares[1] < 1
  found = jax.jit(setup.eval_step)(state, batch)
  assert found['accuracy'] == pytest.approx(shares[0], abs=0.02)
  assert found['top5'] == pytest.approx(shares[1], abs=0.02)


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


MOVES = {'training.grid_update_prob': 1.0}
SHORT = {'total_steps': 3, 'optimizer.warmup_steps': 0}
DECAYS = {'optimizer.weight_decay': 1.0}
# Changes, and what the run to compare with has too.
OPTIONS = [
  ({'training.label_smoothing': 0.1}, {}),
  ({'training.shift': 0}, {}),
  ({'training.erase': 3}, {}),
  (MOVES, {}),
  ({'training.grid_update_until': 0.01}, MOVES),
  ({'training.grid_tolerance': 1e-4}, MOVES),
  ({'training.sparsity': 0.1}, {}),
  ({'training.entropy': 0.1}, {}),
  ({'model.dropout': 0.5}, {}),
  ({'model.has_batch_norm': False}, {}),
  ({'model.has_residual': False}, {}),
  ({'model.basis': 'rbf'}, {}),
  ({'model.basis': 'chebyshev'}, {}),
  ({'model.grid': 6}, {}),
  ({'model.low': -1.0}, {}),
  ({'model.high': 3.0}, {}),
  ({'model.base_scale': 1.0}, {}),
  ({'model.spline_init': 'noise'}, {}),
  ({'model.dtype': 'bfloat16'}, {}),
  ({'model.pool': 4}, {}),
  ({'model.head': 'mlp'}, {'model.grid': 8, 'optimizer.groups': ()}),
  ({'model.front': 'none', 'model.front_widths': (16, 32, 64), 'model.pool': 4},
   {'optimizer.groups': ()}),
  ({'model.front_strides': (1, 1, 1)}, {}),
  ({'model.front_kernels': (5, 3, 3)}, {}),
  ({'optimizer.groups': ()}, {}),
  ({'optimizer.learning_rate': 1e-3}, {}),
  ({'optimizer.schedule': 'constant'}, SHORT),
  ({'optimizer.warmup_steps': 3}, SHORT),
  ({'optimizer.end_factor': 0.5}, SHORT),
  ({'optimizer.clip_norm': 0.1}, {'optimizer.name': 'sgd'}),
  ({'optimizer.weight_decay': 0.1}, {}),
  ({'optimizer.decay_pattern': '^kan'}, DECAYS),
  ({'optimizer.name': 'sgd'}, {}),
]  # fmt: skip


@functools.cache
def run_losses(changes=(), count=3):
  """Trains a little with changes, pairs of key and value; returns the losses."""
  setup = task.make(make_config(**dict(changes)))
  state, step = start(setup, make_batch())
  losses = []
  for i in range(count):
    state, metrics = step(state, make_batch(seed=i), jax.random.key(i))
    losses.append(float(metrics['loss']))
  return losses


@pytest.mark.slow
@pytest.mark.parametrize(
  'changes, others', OPTIONS, ids=lambda c: ','.join(map(str, c))
)
def test_every_option_changes_the_run(changes, others):
  """By more than the rounding of another program."""
  before, after = (
    run_losses(tuple(options.items())) for options in (others, others | changes)
  )
  assert max(abs(a / b - 1) for a, b in zip(after, before)) > 1e-4


def test_other_forms_of_the_layer_are_the_same_run():
  """But for inputs outside of the grids, where the recursion's splines end."""
  plain = run_losses()
  scan, recursion = (
    run_losses((('model.form', form),)) for form in ('scan', 'recursion')
  )
  np.testing.assert_allclose(scan, plain, rtol=1e-3)
  np.testing.assert_allclose(recursion, plain, rtol=0.03)


def test_grids_move_without_a_change_of_the_outputs():
  """Without learning every edge stays straight, so that all grids can move."""
  still = {'optimizer.learning_rate': 0.0, 'optimizer.weight_decay': 0.0}
  made = task.make(make_config(**still, **{'training.grid_update_prob': 1.0}))
  state, step = start(made, make_batch())
  new, metrics = step(state, make_batch(), jax.random.key(0))
  assert (new.tries, new.moves) == (1, 1) and metrics['moved_share'] > 0.3
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
  assert (late.tries, late.moves) == (0, 0) and metrics[
    'moved_share'
  ] == 0  # in the second half they rest


def test_moved_share_is_the_mean_over_the_moves_so_far():
  setup = task.make(make_config(**MOVES))
  state, step = start(setup, make_batch())
  shares = []
  for i in range(3):
    new, metrics = step(state, make_batch(seed=i), jax.random.key(i))
    is_moved = [
      np.asarray(state.grids[name][end] != new.grids[name][end])
      for name in state.grids
      for end in ('low', 'high')
    ]
    shares.append((is_moved[0] | is_moved[1]).sum() + (is_moved[2] | is_moved[3]).sum())
    state = new
  assert metrics['moved_share'] == pytest.approx(np.mean(shares) / (8 + 6))
  assert state.tries == 3 and 0 < np.mean(shares) < 14


def test_updates_after_a_move_are_no_larger_than_the_learning_rate():
  """Of Adam late in a run, on a constant gradient: 1 without a move."""
  setup = task.make(make_config(**MOVES, **{'optimizer.groups': ()}))
  components = setup.train_step.args[0]
  state, _ = start(setup, make_batch())
  tx = optax.scale_by_adam()
  slope = jax.tree.map(jnp.ones_like, state.params)
  late = optax.tree.map_params(tx, jnp.ones_like, tx.init(state.params))
  late = late._replace(count=jnp.int32(5000))
  seen = run_network(state, make_batch(), {}).seen
  moved = task._maybe_move(
    components, state.replace(opt_state=late), seen, jax.random.key(0)
  )
  name, rows = 'kan_0', moved.grids['kan_0']['low'] != state.grids['kan_0']['low']
  assert 0 < rows.sum()
  opt_state, sizes = moved.opt_state, []
  for _ in range(30):
    updates, opt_state = tx.update(slope, opt_state, state.params)
    sizes.append(np.abs(updates[name]['spline']).max((0, 2)))
  assert np.max(sizes) <= 1.01
  assert np.max(np.array(sizes)[0, np.asarray(rows)]) == pytest.approx(0.1, rel=0.01)
  np.testing.assert_allclose(np.array(sizes)[:, ~np.asarray(rows)], 1, rtol=0.01)


def test_loss_is_the_cross_entropy(trained):
  setup, state, _ = trained
  batch = make_batch(30, 7)
  logits = np.asarray(run_network(state, batch, {}).logits, np.float64)
  labels = np.asarray(batch['label'])
  log_sum = np.log(np.exp(logits).sum(1))
  wanted = (log_sum - logits[np.arange(30), labels]).mean()
  assert setup.eval_step(state, batch)['loss'] == pytest.approx(wanted, rel=1e-5)


def test_smoothing_gives_a_share_of_the_probability_to_all_classes():
  changes = {'training.label_smoothing': 0.3, 'training.shift': 0}
  setup, batch = task.make(make_config(**changes)), make_batch()
  state, step = start(setup, batch)
  _, metrics = step(state, batch, jax.random.key(0))
  logits = run_network(state, batch, changes, jax.random.key(0)).logits
  logits = np.asarray(logits, np.float64)
  shares = np.full((12, 3), 0.1)
  shares[np.arange(12), np.asarray(batch['label'])] += 0.7
  log_sum = np.log(np.exp(logits).sum(1, keepdims=True))
  wanted = (shares * (log_sum - logits)).sum(1).mean()
  assert metrics['loss'] == pytest.approx(wanted, rel=1e-4)


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
      {'model.head': 'mlp', 'model.grid': 8, 'training.sparsity': 0.1},
      "training.sparsity is set, but a head 'mlp' has no edges",
    ),
    ({'optimizer.groups': (('^kna', 2.0),)}, '^kna'),
    (
      {'training.grid_tolerance': 0.1},
      'grid_tolerance is set, but config.training.grid_update_prob is 0',
    ),
    (MOVES | {'training.grid_tolerance': 0.0}, 'no grid moves: grid_tolerance is 0'),
    (MOVES | {'training.grid_update_until': 0.0}, 'grid moves: grid_update_until is 0'),
    (MOVES | {'model.form': 'recursion'}, "form 'recursion' end with their grid"),
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
