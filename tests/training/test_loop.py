"""The loop: exactness, cadences, stopping, errors."""

import json
import os
import signal
import time

import chex
import jax
import numpy as np
import pytest
import toy_task
from PIL import Image

from codax import signals
from codax.errors import CodaxError
from codax.training import (
  checkpoints,
  dispatch,
  intervals,
  loop,
  plots,
  settings,
  stopping,
  writers,
)


def _train(workdir, pipeline=None, traces=None, **changes):
  cfg = toy_task.config(**changes)
  task = toy_task.make(cfg, traces)
  data = toy_task.resident() if pipeline is None else pipeline
  return loop.train(task, data, toy_task.eval_batches(), cfg, workdir)


def _assert_same_state(a, b):
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    x, y = np.asarray(x), np.asarray(y)
    assert x.dtype == y.dtype
    assert x.tobytes() == y.tobytes()


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
  """Draws no curves, which take a third of a run; `unbroken` has them."""
  monkeypatch.setattr(plots, 'curves', lambda *_, **__: None)


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory):
  """A run of 20 steps: its directory and result."""
  workdir = tmp_path_factory.mktemp('unbroken')
  return workdir, _train(workdir)


def test_run_learns_and_leaves_every_file(unbroken):
  workdir, result = unbroken
  assert (result.step, result.stopped, int(result.state.step)) == (20, None, 20)
  rows = writers.read(workdir / 'metrics.jsonl')
  train = [r for r in rows if 'train/loss' in r]
  evals = [r for r in rows if 'eval/loss' in r]
  assert [r['step'] for r in train] == [5, 10, 15, 20]
  assert [r['step'] for r in evals] == [10, 20]
  assert train[-1]['train/loss'] < train[0]['train/loss']
  assert (
    train[0]['train/learning_rate/decoder'] == 0.5 * train[0]['train/learning_rate']
  )
  assert result.metrics == {
    k[5:]: v for k, v in evals[-1].items() if k.startswith('eval/')
  }
  assert checkpoints.steps(workdir / 'checkpoints') == [10, 15, 20]
  names = {p.name for p in workdir.iterdir()}
  assert names == {
    'config.json', 'data.json', 'metrics.jsonl', 'timing.jsonl', 'checkpoints',
    'images', 'loss.png', 'perplexity.png', 'rate.png', 'tensorboard', '.codax.lock',
  }  # fmt: skip
  images = sorted(p.name for p in (workdir / 'images').iterdir())
  assert images == ['step_000010.png', 'step_000020.png']
  with Image.open(workdir / 'images' / images[0]) as image:
    assert image.size == (16, 4 * 8 + 3 * 2)
  assert json.loads((workdir / 'config.json').read_text())['optimizer']['groups'] == [
    ['decoder', 0.5]
  ]


def test_evaluation_weighs_batches_by_size_and_sums_arrays(unbroken):
  _, result = unbroken
  cfg = toy_task.config()
  whole = {'image': np.concatenate([b['image'] for b in toy_task.eval_batches()])}
  expected = toy_task.make(cfg).eval_step(result.state, whole)
  counts = np.asarray(expected['counts'], np.float64)
  p = counts[counts > 0] / counts.sum()
  assert result.metrics['loss'] == pytest.approx(float(expected['loss']), rel=1e-5)
  assert result.metrics['perplexity'] == pytest.approx(np.exp(-np.sum(p * np.log(p))))


def test_same_seed_gives_the_same_bytes_and_another_seed_others(unbroken, tmp_path):
  workdir, result = unbroken
  again = _train(tmp_path / 'again')
  _assert_same_state(result.state, again.state)
  same = (workdir / 'metrics.jsonl').read_bytes()
  assert (tmp_path / 'again' / 'metrics.jsonl').read_bytes() == same
  other = _train(tmp_path / 'other', seed=4)
  assert other.metrics['loss'] != result.metrics['loss']


@pytest.mark.parametrize('kind', ['resident', 'hosted'])
def test_resumed_run_equals_the_unbroken_one_to_the_bit(kind, unbroken, tmp_path):
  make = getattr(toy_task, kind)
  if kind == 'resident':
    workdir, whole = unbroken
  else:
    workdir = tmp_path / 'whole'
    whole = _train(workdir, make())
  broken = tmp_path / 'broken'
  # As kill -9 leaves it: metrics after the newest checkpoint, a line cut short, a
  # checkpoint without manifest and one half written.
  with pytest.raises(CodaxError, match='non-finite loss'):
    _train(broken, make(), nan_at=13)
  (broken / 'config.json').write_bytes((workdir / 'config.json').read_bytes())
  assert checkpoints.newest(broken / 'checkpoints') == 10
  with open(broken / 'metrics.jsonl', 'a') as f:
    f.write('{"step": 12, "train/loss": 1.0}\n{"step": 13, "tr')
  (broken / 'checkpoints' / '15').mkdir()
  (broken / 'checkpoints' / '15.orbax-checkpoint-tmp').mkdir()
  resumed = _train(broken, make())
  assert resumed.step == 20
  _assert_same_state(whole.state, resumed.state)
  lines = (broken / 'metrics.jsonl').read_text().splitlines()
  expected = (workdir / 'metrics.jsonl').read_text().splitlines()
  assert lines == expected
  for line, text in zip(lines, expected, strict=True):
    floats = [
      {k: float(v).hex() for k, v in json.loads(t).items()} for t in (line, text)
    ]
    assert floats[0] == floats[1]


def test_line_of_the_log_holds_the_means_since_the_line_before(tmp_path):
  """Also where its dispatches are short and a checkpoint lies in between."""
  options = {'log_every': 8, 'checkpoint_every': 5, 'steps_per_call': 2}
  whole = _train(tmp_path / 'whole', **options)
  singles = _train(tmp_path / 'singles', log_every=1)
  _assert_same_state(whole.state, singles.state)
  read = lambda name: (tmp_path / name / 'metrics.jsonl').read_text()
  lines = [json.loads(line) for line in read('singles').splitlines()]
  losses = [line['train/loss'] for line in lines if 'train/loss' in line]
  found = {
    line['step']: line['train/loss']
    for line in map(json.loads, read('whole').splitlines())
    if 'train/loss' in line
  }
  expected = {8: losses[:8], 16: losses[8:16], 20: losses[16:]}
  assert found == {step: pytest.approx(np.mean(x)) for step, x in expected.items()}
  with pytest.raises(CodaxError, match='non-finite loss'):
    _train(tmp_path / 'broken', nan_at=15, **options)
  assert checkpoints.newest(tmp_path / 'broken' / 'checkpoints') == 10
  config = tmp_path / 'broken' / 'config.json'
  config.write_bytes((tmp_path / 'whole' / 'config.json').read_bytes())
  _train(tmp_path / 'broken', **options)
  assert read('broken') == read('whole')


def test_damaged_sums_cost_part_of_a_line_and_no_more(tmp_path):
  metrics = {'loss': np.float32([1, 2]), 'counts': np.ones((2, 3), np.float32)}
  interval = intervals.add(intervals.Interval(), metrics)
  intervals.save(tmp_path, 10, interval, kept=())
  found = intervals.load(tmp_path, 10)
  assert found.count == 2 and found.totals['loss'] == 3
  np.testing.assert_array_equal(found.totals['counts'], [2, 2, 2])
  assert not intervals.load(tmp_path, 5).count
  intervals.save(tmp_path, 15, intervals.Interval(), kept=[10])
  assert intervals.load(tmp_path, 10).count == 2
  for text in ('{"10": {"count": 2}}', '[]', '{"10"', '{"10": 3}'):
    (tmp_path / intervals.FILE_NAME).write_text(text)
    assert intervals.load(tmp_path, 10) == intervals.Interval()


def test_complete_run_is_left_alone(unbroken):
  workdir, result = unbroken
  before = (workdir / 'metrics.jsonl').read_bytes()
  traces = {}
  again = _train(workdir, traces=traces)
  assert traces == {'init': 1}  # its shapes only; nothing is compiled
  assert again.step == 20 and again.metrics == result.metrics
  _assert_same_state(result.state, again.state)
  assert (workdir / 'metrics.jsonl').read_bytes() == before


def test_steps_per_call_change_nothing_but_the_means(unbroken, tmp_path):
  _, one = unbroken
  traces = {}
  five = _train(tmp_path / 'five', traces=traces, steps_per_call=5)
  _assert_same_state(one.state, five.state)
  rows = writers.read(tmp_path / 'five' / 'metrics.jsonl')
  singles = _train(tmp_path / 'single', log_every=1)
  losses = [
    r['train/loss']
    for r in writers.read(tmp_path / 'single' / 'metrics.jsonl')
    if 'train/loss' in r
  ]
  assert rows[0]['train/loss'] == np.mean(losses[:5])
  _assert_same_state(one.state, singles.state)


@pytest.mark.parametrize('kind', ['resident', 'hosted'])
@pytest.mark.parametrize('scans', [False, True])
def test_step_is_compiled_once_and_for_a_remainder(kind, scans, tmp_path, monkeypatch):
  monkeypatch.setattr(dispatch, 'scans', lambda _: scans)
  traces = {}
  pipeline = getattr(toy_task, kind)()
  _train(tmp_path, pipeline, traces, total_steps=18, steps_per_call=4)
  # Two batch sizes in the evaluation; one shorter dispatch of two steps, which needs
  # no other program where steps are dispatched one by one from resident data.
  train = 1 if kind == 'resident' and not scans else 2
  assert traces == {'init': 1, 'train': train, 'eval': 2}
  rows = writers.read(tmp_path / 'metrics.jsonl')
  assert [r['step'] for r in rows if 'train/loss' in r] == [8, 12, 16, 18]


@pytest.mark.parametrize('kind', ['resident', 'hosted'])
def test_program_of_several_steps_equals_single_steps(kind, tmp_path, monkeypatch):
  make = getattr(toy_task, kind)
  one = _train(tmp_path / 'a', make(), steps_per_call=4)
  monkeypatch.setattr(dispatch, 'scans', lambda _: True)
  five = _train(tmp_path / 'b', make(), steps_per_call=4)
  for x, y in zip(*map(jax.tree.leaves, (one.state, five.state)), strict=True):
    np.testing.assert_allclose(
      np.asarray(x, np.float64), np.asarray(y, np.float64), rtol=1e-5, atol=1e-6
    )
  rows = zip(*(writers.read(tmp_path / n / 'metrics.jsonl') for n in 'ab'), strict=True)
  for x, y in rows:
    assert x.keys() == y.keys()
    np.testing.assert_allclose(list(x.values()), list(y.values()), rtol=1e-4)


@pytest.fixture
def ctrl_c():
  """SIGINT as in a terminal: a shell starts background jobs with it ignored."""
  before = signal.signal(signal.SIGINT, signal.default_int_handler)
  yield
  signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_run_stopped_by_a_signal_saves_and_goes_on_exactly(
  unbroken, tmp_path, monkeypatch, ctrl_c, number
):
  workdir, whole = unbroken
  pipeline = toy_task.resident()
  write = writers.write

  def write_and_signal(writer, step, metrics):
    write(writer, step, metrics)
    if step == 5:
      os.kill(os.getpid(), number)

  before = signal.getsignal(number)
  with monkeypatch.context() as patched, signals.listen():
    patched.setattr(writers, 'write', write_and_signal)
    first = _train(tmp_path, pipeline, checkpoint_every=1000)
  assert signal.getsignal(number) is before
  assert first.stopped == 'signal' and first.step == 6
  assert checkpoints.steps(tmp_path / 'checkpoints') == [first.step]
  second = _train(tmp_path, pipeline)
  assert second.stopped is None
  _assert_same_state(whole.state, second.state)
  expected = (workdir / 'metrics.jsonl').read_bytes()
  assert (tmp_path / 'metrics.jsonl').read_bytes() == expected


def test_training_outside_of_a_command_raises_on_ctrl_c(tmp_path, monkeypatch, ctrl_c):
  """No normal return, after which a caller would go on with half a training."""
  interrupt = lambda *_: os.kill(os.getpid(), signal.SIGINT)
  monkeypatch.setattr(writers, 'write', interrupt)
  with pytest.raises(KeyboardInterrupt):
    _train(tmp_path, toy_task.resident())
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_second_signal_does_not_wait_and_an_ignored_one_stays_so(ctrl_c, monkeypatch):
  monkeypatch.setattr(signals, '_SAME_PRESS', 0.0)
  monkeypatch.setattr(signals, '_PATIENCE', 30.0)  # then the process would end
  with signals.listen(), stopping.watch(0) as reason:
    assert reason() is None
    os.kill(os.getpid(), signal.SIGINT)
    assert reason() == 'signal'
    with pytest.raises(KeyboardInterrupt):
      os.kill(os.getpid(), signal.SIGINT)
      time.sleep(1)
  before = signal.signal(signal.SIGINT, signal.SIG_IGN)
  try:
    with signals.listen(), stopping.watch(0) as reason:
      os.kill(os.getpid(), signal.SIGINT)
      assert reason() is None
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
  finally:
    signal.signal(signal.SIGINT, before)


def test_run_out_of_time_saves_and_goes_on(unbroken, tmp_path):
  _, whole = unbroken
  first = _train(tmp_path, max_seconds=1e-6)
  assert (first.stopped, first.step) == ('max_seconds', 1)
  second = _train(tmp_path, max_seconds=600.0)
  assert (second.stopped, second.step) == (None, 20)
  _assert_same_state(whole.state, second.state)


def test_non_finite_loss_is_named_and_never_saved(tmp_path):
  with pytest.raises(CodaxError) as e:
    _train(tmp_path, nan_at=13, steps_per_call=3, checkpoint_every=6)
  assert str(e.value) == (
    'non-finite loss in step 14, between steps 12 and 15; last good checkpoint: step 12'
  )
  assert checkpoints.steps(tmp_path / 'checkpoints') == [6, 12]
  with pytest.raises(CodaxError, match='step 1, .*; no checkpoint yet'):
    _train(tmp_path / 'b', nan_at=0, checkpoint_every=1)
  assert checkpoints.steps(tmp_path / 'b' / 'checkpoints') == []


def test_non_finite_state_is_named_and_never_saved(tmp_path):
  cfg = toy_task.config()
  task = toy_task.make(cfg)

  def train_step(state, batch, rng):
    state, metrics = task.train_step(state, batch, rng)
    half = jax.numpy.where(state.step == 9, jax.numpy.nan, state.half)
    return state.replace(half=half.astype(state.half.dtype)), metrics

  bad = task._replace(train_step=train_step)
  with pytest.raises(CodaxError, match='non-finite state half after step 10;.*step 5'):
    loop.train(bad, toy_task.resident(), [], cfg, tmp_path)
  assert checkpoints.steps(tmp_path / 'checkpoints') == [5]


def test_damaged_newest_checkpoint_is_named_and_the_one_before_used(tmp_path, caplog):
  whole = _train(tmp_path)
  expected = (tmp_path / 'metrics.jsonl').read_bytes()
  step = tmp_path / 'checkpoints' / '20'
  arrays = max(step.rglob('*'), key=lambda p: p.stat().st_size if p.is_file() else 0)
  data = bytearray(arrays.read_bytes())
  data[len(data) // 2] ^= 1
  arrays.write_bytes(data)
  with caplog.at_level('WARNING', logger='absl'):
    again = _train(tmp_path)
  assert f'{step} is damaged ({arrays.relative_to(step)}' in caplog.text
  _assert_same_state(whole.state, again.state)
  assert (tmp_path / 'metrics.jsonl').read_bytes() == expected
  assert checkpoints.damage(tmp_path / 'checkpoints', 20) is None


def test_run_with_all_checkpoints_damaged_starts_again(tmp_path, caplog):
  whole = _train(tmp_path)
  for step in (10, 15, 20):
    (tmp_path / 'checkpoints' / str(step) / 'manifest.ocdbt').unlink()
  with caplog.at_level('WARNING', logger='absl'):
    again = _train(tmp_path)
  assert 'starting again' in caplog.text
  _assert_same_state(whole.state, again.state)


def test_another_configuration_is_refused_by_name(unbroken):
  workdir, _ = unbroken
  with pytest.raises(CodaxError) as e:
    _train(workdir, **{'optimizer.learning_rate': 0.5, 'seed': 7})
  text = str(e.value)
  assert 'optimizer.learning_rate (0.01 there, 0.5 here)' in text
  assert 'seed (3 there, 7 here)' in text and '--workdir' in text
  _train(workdir, max_seconds=5.0, keep_checkpoints=1)  # these may change


@pytest.mark.parametrize('changed', ['patience', 'data.val_fraction'])
def test_run_of_an_earlier_version_goes_on_while_new_keys_are_neutral(
  changed, tmp_path
):
  new = settings.defaults(total_steps=9) | {'data': {'crop': 8, 'val_fraction': 0.0}}
  later = ('patience', 'init_from', 'outside_image', 'outside_every', 'outside_size')
  old = {key: value for key, value in new.items() if key not in later}
  settings.save(old | {'data': {'crop': 8}}, tmp_path)
  settings.check_same(new, tmp_path)
  section, _, key = changed.rpartition('.')
  (new[section] if section else new)[key] = 1
  with pytest.raises(CodaxError, match=rf'{changed} \(0(\.0)? there, 1 here\)'):
    settings.check_same(new, tmp_path)


def test_another_model_is_refused_by_name(unbroken):
  workdir, _ = unbroken
  cfg = toy_task.config()
  task = toy_task.make(cfg)

  def init(rng, batch):
    return task.init(rng, batch).replace(half=jax.numpy.ones((4,)))

  with pytest.raises(CodaxError, match=r'half is bfloat16\[3\] there and float32\[4\]'):
    bad = task._replace(init=init)
    loop.train(bad, toy_task.resident(), toy_task.eval_batches(), cfg, workdir)


def test_error_of_the_host_pipeline_surfaces(tmp_path):
  with pytest.raises(ValueError, match='no batch 7'):
    _train(tmp_path, toy_task.hosted(fail_at=7))


@pytest.mark.parametrize(
  ('changes', 'text'),
  [
    ({'total_steps': -1}, 'total_steps is -1; valid: 1 to 2147483647'),
    ({'total_steps': 0}, 'total_steps is 0; valid: 1 to 2147483647'),
    ({'steps_per_call': 0}, 'steps_per_call is 0; valid: 1 to'),
    ({'log_every': True}, 'log_every'),
    ({'keep_checkpoints': 0}, 'keep_checkpoints is 0; valid: 1 to'),
    ({'seed': 2**32}, 'seed is 4294967296; valid: 0 to 4294967295'),
    ({'seed': -1}, 'seed is -1; valid: 0 to 4294967295'),
    ({'writers': ('tensorbord',)}, "'tensorbord'; did you mean 'tensorboard'"),
    ({'profile_steps': (1, 2, 3)}, 'profile_steps'),
    ({'profile_steps': (-1, 2)}, 'profile_steps'),
  ],
)
def test_bad_setting_is_named(tmp_path, changes, text):
  with pytest.raises(CodaxError, match=text):
    _train(tmp_path, **changes)


def test_renamed_setting_is_answered_with_its_new_name(tmp_path):
  cfg = toy_task.config().to_dict() | {'keep_pictures': 3}
  with pytest.raises(CodaxError, match='keep_pictures was renamed to keep_images'):
    loop.train(toy_task.make(toy_task.config()), toy_task.resident(), [], cfg, tmp_path)


def test_state_that_changes_its_type_is_refused(tmp_path):
  cfg = toy_task.config()
  task = toy_task.make(cfg)

  def train_step(state, batch, rng):
    state, metrics = task.train_step(state, batch, rng)
    return state.replace(half=state.half.astype(jax.numpy.float32)), metrics

  bad = task._replace(train_step=train_step)
  with pytest.raises(ValueError, match='train_step changes the type of the state'):
    loop.train(bad, toy_task.resident(), [], cfg, tmp_path)


def test_whole_run_compiles_its_step_once(tmp_path):
  cfg = toy_task.config()
  task = toy_task.make(cfg)
  train_step = chex.assert_max_traces(task.train_step, n=1)
  once = task._replace(train_step=train_step)
  result = loop.train(once, toy_task.resident(), toy_task.eval_batches(), cfg, tmp_path)
  assert result.step == 20


def test_profile_steps_leave_a_trace_and_change_no_metric(unbroken, tmp_path):
  _train(tmp_path, profile_steps=(2, 3), steps_per_call=1)
  traces = list((tmp_path / 'profile').rglob('*.xplane.pb'))
  assert len(traces) == 1 and traces[0].stat().st_size > 1000
  expected = (unbroken[0] / 'metrics.jsonl').read_bytes()
  assert (tmp_path / 'metrics.jsonl').read_bytes() == expected


@pytest.mark.parametrize('kind', ['pixels', 'held_out'])
def test_resuming_on_other_images_is_refused(kind, tmp_path):
  cfg = toy_task.config(total_steps=5)
  pipeline, batches = toy_task.resident(), toy_task.eval_batches()
  loop.train(toy_task.make(cfg), pipeline, batches, cfg, tmp_path)
  before = (tmp_path / 'metrics.jsonl').read_bytes()
  if kind == 'pixels':
    images = pipeline.arrays['images'].copy()
    images[0, 0, 0, 0] ^= 1
    pipeline = pipeline._replace(arrays={'images': images})
  else:
    batches = batches[:1]
  with pytest.raises(CodaxError, match='holds a run on other data: the .*--workdir'):
    loop.train(toy_task.make(cfg), pipeline, batches, cfg, tmp_path)
  assert (tmp_path / 'metrics.jsonl').read_bytes() == before


def test_missing_setting_is_named(tmp_path):
  cfg = toy_task.config().to_dict()
  del cfg['seed']
  with pytest.raises(CodaxError, match='config.seed is missing'):
    loop.train(toy_task.make(toy_task.config()), toy_task.resident(), [], cfg, tmp_path)


def test_step_that_does_not_count_is_refused(tmp_path):
  cfg = toy_task.config()
  task = toy_task.make(cfg)

  def train_step(state, batch, rng):
    state, metrics = task.train_step(state, batch, rng)
    return state.replace(step=state.step * 0), metrics

  with pytest.raises(ValueError, match='state.step'):
    bad = task._replace(train_step=train_step)
    loop.train(bad, toy_task.resident(), [], cfg, tmp_path)
