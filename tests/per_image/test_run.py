"""The runtime of per-image families, with a family whose fits are running sums."""

import csv
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from codax import files, signals
from codax.codec import Encoded
from codax.data import checks
from codax.errors import CodaxError, Diverged, OutOfReach
from codax.per_image import result, run, store
from codax.per_image.task import FitOutcome, Job, PerImageTask
from codax.training import writers

CONFIG = {
  'family': 'toy', 'seed': 0, 'total_steps': 6, 'log_every': 2, 'checkpoint_every': 2,
  'keep_checkpoints': 1, 'max_batch': 0, 'max_seconds': 0.0, 'gains': (1, 2),
}  # fmt: skip


def images():
  rng = np.random.default_rng(0)
  draw = lambda *size: rng.integers(0, 255, (*size, 3), np.uint8)
  return [('a', draw(4, 5)), ('b', draw(4, 5)), ('c', draw(3, 3))]


class Toy:
  """The task, and a count of the steps and files that it made."""

  def __init__(self, stop_at=None, missed=(), found=None):
    self.steps, self.written = 0, []
    self.stop_at, self.missed = stop_at, missed
    self.images = images() if found is None else found
    self.task = PerImageTask(
      plan=self.plan, fit=self.fit, pack=self.pack, unpack=self.unpack,
      write=self.write, decode=lambda data: np.frombuffer(data, np.uint8),
      row_facts=lambda job, details: {'gain': job.settings}, columns=('sum',),
      report=lambda details, label: f'# {label}\n',
    )  # fmt: skip

  def plan(self, config, pass_over):
    return [
      Job(f'{name}_{gain}', name, image, gain)
      for name, image in self.images
      for gain in config['gains']
    ]

  def fit(self, config, jobs, session):
    found = store.load_checkpoint(session.folder)
    step, sums = (0, np.zeros(len(jobs))) if found is None else found[:2]
    sums = sums if found is None else sums['sums']
    writer = writers.open_run(session.folder, step)
    try:
      while step < config['total_steps']:
        step, self.steps = step + 1, self.steps + 1
        sums = sums + [job.settings * float(job.image.sum()) for job in jobs]
        writers.write(writer, step, {'train/sum': sums.sum()})
        stop = self.steps == self.stop_at
        if step % session.chosen.checkpoint_every == 0 or stop:
          store.save_checkpoint(session.folder, step, {'sums': sums}, {}, 1)
        if stop:
          return FitOutcome(None, 1.0, 'max_seconds')
    finally:
      writers.close(writer)
    return FitOutcome(list(sums), 1.0)

  def pack(self, fits):
    return {'sums': np.array(fits)}, {'count': len(fits)}

  def unpack(self, arrays, facts):
    return list(arrays['sums'][: facts['count']])

  def write(self, config, job, fit, session):
    self.written.append(job.label)
    if job.label in self.missed:
      raise OutOfReach('the least is 7')
    data = str(fit).encode()
    return Encoded(data, job.image, 8.0, {'sum': float(fit)})


def made(workdir):
  return {p.name: p.read_bytes() for p in (workdir / 'files').glob('*.cdx')}


@pytest.fixture
def whole(tmp_path):
  toy = Toy()
  found = run.run(toy.task, CONFIG, tmp_path / 'whole')
  assert found.stopped is None and toy.steps == 2 * 6
  return tmp_path / 'whole'


def test_run_complete_leaves_one_file_of_each_kind(whole):
  labels = [f'{name}_{gain}' for name in 'abc' for gain in (1, 2)]
  assert sorted(made(whole)) == [f'{label}.cdx' for label in labels]
  assert len(list(whole.rglob('*.cdx'))) == len(labels)
  for label in labels:
    assert (whole / 'files' / f'{label}.md').read_text() == f'# {label}\n'
  rows = list(csv.DictReader((whole / 'metrics.csv').open()))
  assert [row['label'] for row in rows] == labels
  assert float(rows[1]['sum']) == 2 * float(rows[0]['sum'])
  assert {p.name for p in (whole / 'buckets').iterdir()} == {'5x4', '3x3'}


def test_run_again_makes_nothing_twice(whole):
  toy = Toy()
  before = made(whole)
  found = run.run(toy.task, CONFIG, whole)
  assert not toy.steps and not toy.written and made(whole) == before
  assert [one.label for one in found.images][:2] == ['a_1', 'a_2']
  assert found.images[1].facts == {'image': 'a', 'gain': 2}
  assert found.metrics['seconds_a_file'] > 0


def test_signal_in_a_fit_is_asked_for_and_one_in_a_file_raises(whole, tmp_path):
  """The fit saves its state; a file is made again from its fit."""
  workdir, fit, write = tmp_path / 'cut', Toy(), Toy()

  def ask(config, jobs, session):
    signal.raise_signal(signal.SIGTERM)
    return FitOutcome(None, 1.0, session.reason())

  with signals.listen():
    found = run.run(fit.task._replace(fit=ask), CONFIG, workdir)
  assert found.stopped == 'signal'
  interrupt = lambda *_: signal.raise_signal(signal.SIGTERM)
  with pytest.raises(signals.Interrupted), signals.listen():
    run.run(write.task._replace(write=interrupt), CONFIG, workdir)
  assert write.steps == 6 and not made(workdir)
  again = Toy()
  assert run.run(again.task, CONFIG, workdir).stopped is None
  assert again.steps == 6 and made(workdir) == made(whole)


def test_run_outside_of_a_command_raises_on_ctrl_c(tmp_path):
  """No normal return, after which a caller would go on with half a run."""
  interrupt = lambda *_: signal.raise_signal(signal.SIGINT)
  with pytest.raises(KeyboardInterrupt):
    run.run(Toy().task._replace(fit=interrupt), CONFIG, tmp_path)


@pytest.mark.parametrize('stop_at', [1, 3, 6, 8])
def test_run_stopped_goes_on_inside_the_fit(whole, tmp_path, stop_at):
  workdir = tmp_path / 'cut'
  found = run.run(Toy(stop_at).task, CONFIG, workdir)
  if stop_at != 6:
    assert found.stopped == 'max_seconds' and not found.images
  toy = Toy()
  assert run.run(toy.task, CONFIG, workdir).stopped is None
  assert toy.steps <= 12 - stop_at + (stop_at == 6)
  assert made(workdir) == made(whole)
  for bucket in ('5x4', '3x3'):
    lines = [(w / 'buckets' / bucket / writers.METRICS).read_bytes()
             for w in (whole, workdir)]  # fmt: skip
    assert lines[0] == lines[1]


@pytest.mark.parametrize(
  'damage',
  ['empty json', 'cut cdx', 'changed number', 'no cdx', 'list', 'empty missed'],
)
def test_damaged_file_is_named_and_made_again(whole, caplog, damage):
  before, folder = made(whole), whole / 'files'
  facts, data = folder / 'b_1.json', folder / 'b_1.cdx'
  named = {'empty json': facts, 'list': facts}.get(damage, data)
  if damage == 'empty json':
    facts.write_bytes(b'')
  elif damage == 'list':
    facts.write_text('[]')
  elif damage == 'cut cdx':
    data.write_bytes(data.read_bytes()[:-1])
  elif damage == 'no cdx':
    data.unlink()
  elif damage == 'changed number':
    content = json.loads(facts.read_text())
    facts.write_text(json.dumps({**content, 'sum': 1.0}))
  else:
    facts.unlink()
    named = folder / 'b_1.missed.json'
    named.write_bytes(b'')
  assert result.has_damage(whole)
  toy = Toy()
  run.run(toy.task, CONFIG, whole)
  assert toy.written == ['b_1'] and not toy.steps and made(whole) == before
  assert not result.has_damage(whole)
  assert f'{named} is damaged' in caplog.text
  run.run(toy.task, CONFIG, whole)
  assert toy.written == ['b_1']


@pytest.mark.parametrize('damage', ['cut', 'flipped', 'other'])
def test_damaged_store_is_named_and_fitted_again(whole, caplog, damage):
  before, file = made(whole), whole / 'buckets' / '5x4' / store.FILE
  (whole / 'files' / 'a_1.json').unlink()
  data = bytearray(file.read_bytes())
  if damage == 'cut':
    del data[-9:]
  elif damage == 'flipped':
    data[-3] ^= 4
  else:
    data = bytearray((whole / 'buckets' / '3x3' / store.FILE).read_bytes())
  file.write_bytes(data)
  toy = Toy()
  run.run(toy.task, CONFIG, whole)
  assert toy.written == ['a_1'] and made(whole) == before
  assert f'{file} is damaged' in caplog.text and 'made again' in caplog.text


def test_target_out_of_reach_is_passed_over(tmp_path):
  for times in (1, 0):
    toy = Toy(missed=('a_1',))
    found = run.run(toy.task, CONFIG, tmp_path)
    assert toy.written.count('a_1') == times
    assert list(found.missed) == ['a_1: the least is 7'] and len(found.images) == 5
  row = next(csv.DictReader((tmp_path / 'metrics.csv').open()))
  assert (row['label'], row['sum'], row['missed']) == ('a_1', '', 'the least is 7')
  with pytest.raises(CodaxError, match='no target is in reach; a_1: the least is 7'):
    toy = Toy(missed=[f'{name}_{gain}' for name in 'abc' for gain in (1, 2)])
    run.run(toy.task, CONFIG, tmp_path / 'none')


def test_workdir_without_results_is_free(tmp_path):
  """A first command that failed does not block the corrected one."""
  toy = Toy()
  toy.task = toy.task._replace(fit=lambda *_: 1 / 0)
  with pytest.raises(ZeroDivisionError):
    run.run(toy.task, CONFIG, tmp_path)
  assert (tmp_path / 'config.json').is_file()
  other = Toy(found=images()[:2])
  assert len(run.run(other.task, {**CONFIG, 'seed': 3}, tmp_path).images) == 4


def test_failed_plan_leaves_no_config(tmp_path):
  def plan(config, pass_over):
    raise CodaxError('bad image')

  with pytest.raises(CodaxError, match='bad image'):
    run.run(Toy().task._replace(plan=plan), CONFIG, tmp_path / 'w')
  assert not (tmp_path / 'w').exists()


def refuse_b(*_):
  raise CodaxError('training diverged 4 times')


def test_image_that_the_family_refuses_is_named_and_passed_over_if_asked(tmp_path):
  """Without the option the same command, with it, goes on with what is there."""
  toy, write = Toy(), Toy().write
  toy.task = toy.task._replace(
    write=lambda config, job, fit, session: (
      refuse_b() if job.label == 'b_2' else write(config, job, fit, session)
    )
  )
  config = {**CONFIG, 'data': {'skip_bad': False}}
  with pytest.raises(CodaxError, match='^b_2: training diverged .*skip_bad=True'):
    run.run(toy.task, config, tmp_path)
  steps = toy.steps
  found = run.run(toy.task, {**CONFIG, 'data': {'skip_bad': True}}, tmp_path)
  assert [one.label for one in found.images] == ['a_1', 'a_2', 'b_1', 'c_1', 'c_2']
  assert found.missed == ['b_2: training diverged 4 times']
  assert toy.steps == steps + CONFIG['total_steps']  # of the bucket that was to come
  rows = list(csv.DictReader((tmp_path / 'metrics.csv').open()))
  assert [r['label'] for r in rows if r['missed']] == ['b_2']


def test_fit_that_diverges_is_passed_over_if_asked(tmp_path):
  """Alone in its bucket; for several images a smaller bucket is advised."""
  toy = Toy()

  def fit(config, jobs, session):
    if 'c_1' in [job.label for job in jobs]:
      raise Diverged('the fit diverged by step 2')
    return toy.fit(config, jobs, session)

  toy_task = toy.task._replace(fit=fit)
  config = {**CONFIG, 'max_batch': 1, 'data': {'skip_bad': True}}
  found = run.run(toy_task, config, tmp_path / 'one')
  assert found.missed == ['c_1: the fit diverged by step 2']
  assert [one.label for one in found.images] == ['a_1', 'a_2', 'b_1', 'b_2', 'c_2']
  config['max_batch'] = 0
  with pytest.raises(CodaxError, match='^bucket 3x3: the fit div.*max_batch=1'):
    run.run(toy_task, config, tmp_path / 'many')


def test_images_passed_over_are_in_the_result(tmp_path):
  toy = Toy()

  def plan(config, pass_over):
    pass_over(checks.BadImage('z.png', 'z.png: cut'))
    return toy.plan(config, pass_over)

  found = run.run(toy.task._replace(plan=plan), CONFIG, tmp_path)
  assert found.passed_over == [('z.png', 'z.png: cut')]


def test_file_of_nearly_one_color_is_noted_and_measured(tmp_path, caplog):
  """Three quarters of the contrast are gone: 20 log10(4 / 3) dB above one color."""
  image = np.full((4, 4, 3), 100, np.uint8)
  image[:2] += 8
  decoded = np.full((4, 4, 3), 103, np.uint8)
  decoded[:2] += 2
  toy = Toy(found=[('faint', image), ('sharp', image[:, :2])])

  def write(config, job, fit, session):
    lossy = job.image_name == 'faint'
    seen = decoded if lossy else job.image
    return Encoded(b'1', seen, 8.0, {'sum': 1.0})

  run.run(toy.task._replace(write=write), {**CONFIG, 'gains': (1,)}, tmp_path)
  (text,) = [r.getMessage() for r in caplog.records if 'one color' in r.getMessage()]
  assert text.startswith('faint_1: the image has become nearly one color: ')
  rows = list(csv.DictReader((tmp_path / 'metrics.csv').open()))
  gain = {row['label']: float(row['psnr_above_one_color']) for row in rows}
  assert gain['faint_1'] == pytest.approx(20 * np.log10(4 / 3))
  assert gain['sharp_1'] == np.inf


@pytest.mark.parametrize('change', ['pixel', 'new', 'gone'])
def test_workdir_of_other_images_is_refused(whole, change):
  found = images()
  if change == 'pixel':
    found[1][1][0, 0, 0] ^= 1
  elif change == 'new':
    found.append(('d', found[0][1]))
  else:
    found.pop()
  text = {'pixel': 'b changed', 'new': 'd is new', 'gone': 'c is gone'}[change]
  with pytest.raises(CodaxError, match=text):
    run.run(Toy(found=found).task, CONFIG, whole)
  with pytest.raises(CodaxError, match='another configuration: seed'):
    run.run(Toy().task, {**CONFIG, 'seed': 1}, whole)


@pytest.mark.parametrize('value', [-1, 1.5, True])
def test_bad_max_batch_is_refused(tmp_path, value):
  with pytest.raises(CodaxError, match='config.max_batch is .*valid: 0'):
    run.run(Toy().task, {**CONFIG, 'max_batch': value}, tmp_path)


def test_buckets_are_bounded_and_named_by_size():
  jobs = Toy().plan(CONFIG, print)
  sizes = lambda n: {k: len(v) for k, v in run.make_buckets(jobs, n).items()}
  assert sizes(0) == {'5x4': 4, '3x3': 2}
  assert sizes(3) == {'5x4_0': 3, '5x4_1': 1, '3x3': 2}
  assert sizes(1) == {job.label: 1 for job in jobs}
  keyed = [job._replace(program_key=(job.settings,)) for job in jobs]
  assert list(run.make_buckets(keyed, 0)) == ['5x4_1', '5x4_2', '3x3_1', '3x3_2']


def test_file_of_a_name_that_is_no_utf_8_has_a_bucket_of_one_that_is(tmp_path):
  names = [os.fsdecode(b'a\xff'), os.fsdecode(b'a\xfe'), 'b\nc', 'd']
  toy = Toy(found=[(name, images()[0][1]) for name in names])
  assert run.run(toy.task, {**CONFIG, 'max_batch': 1}, tmp_path).stopped is None
  buckets = sorted(p.name for p in (tmp_path / 'buckets').iterdir())
  assert len(buckets) == 8 and all(name.isprintable() for name in buckets)
  assert 'd_1' in buckets and any(name.startswith('b_c_1_') for name in buckets)
  for name in names:
    assert (tmp_path / 'files' / f'{name}_2.cdx').is_file()
  text = (tmp_path / 'metrics.csv').read_bytes()
  assert b'a\xff_1,' in text and b'a\xfe_2,' in text
  assert not result.has_damage(tmp_path, 8)


def test_name_too_long_for_the_files_of_a_run_is_found_before_the_work(tmp_path):
  for size in (243, 238):
    toy = Toy(found=[(size * 'x', images()[0][1])])
    if size == 238:
      assert run.run(toy.task, CONFIG, tmp_path / 'w').stopped is None
    else:
      with pytest.raises(CodaxError, match='has 245 bytes; valid .*up to 240'):
        run.run(toy.task, CONFIG, tmp_path / 'w')
      assert not toy.steps and not (tmp_path / 'w').exists()


def test_store_that_cannot_be_written_is_found_before_the_fit(tmp_path):
  (tmp_path / 'buckets' / '5x4' / store.FILE).mkdir(parents=True)
  toy = Toy()
  with pytest.raises(OSError, match=store.FILE):
    run.run(toy.task, CONFIG, tmp_path)
  assert not toy.steps


HOLD = """
import sys, time
from codax import files
with files.lock(sys.argv[1]):
  print('locked', flush=True)
  time.sleep(60)
"""


def test_second_process_is_refused_and_a_dead_owner_is_not(tmp_path):
  child = subprocess.Popen(
    [sys.executable, '-c', HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
  )
  try:
    assert child.stdout.readline() == 'locked\n'
    with pytest.raises(CodaxError, match=f'in use by process {child.pid} on '):
      run.run(Toy().task, CONFIG, tmp_path)
  finally:
    child.kill()
    child.wait()
  assert run.run(Toy().task, CONFIG, tmp_path).stopped is None


def test_lock_is_taken_again_by_its_own_process(tmp_path):
  with files.lock(tmp_path), files.lock(tmp_path / '.'):
    pass
  with files.lock(tmp_path):
    assert str(os.getpid()) in (tmp_path / files.LOCK).read_text()
  assert (tmp_path / files.LOCK).read_text() == ''


def test_checkpoint_of_arrays_round_trip(tmp_path):
  arrays = {'0.x': np.arange(6, dtype=np.float32).reshape(2, 3), 'n': np.int32(7),
            'none': np.zeros((0, 4), np.float32)}  # fmt: skip
  facts = {'rng': {'state': 2**100 + 1}, 'psnr': float('inf'), 'x': 0.1}
  assert store.load_checkpoint(tmp_path) is None
  store.save_checkpoint(tmp_path, 5, arrays, facts, 1)
  found = store.load_checkpoint(tmp_path)
  assert found.step == 5 and found.facts == facts and set(found.arrays) == set(arrays)
  for name, value in arrays.items():
    assert found.arrays[name].dtype == value.dtype
    np.testing.assert_array_equal(found.arrays[name], value)


def test_bucket_that_does_not_fit_into_memory_says_what_to_lower(tmp_path):
  toy = Toy()

  def fit(config, jobs, session):
    raise MemoryError('4.00 TiB')

  task = toy.task._replace(fit=fit)
  with pytest.raises(CodaxError) as e:
    run.run(task, CONFIG | {'max_batch': 2}, tmp_path)
  assert str(e.value) == (
    'the images of a bucket do not fit into memory together: lower max_batch = 2, or '
    'set data.crop, or shrink images (4.00 TiB)'
  )
  run.run(toy.task, CONFIG | {'max_batch': 1}, tmp_path)  # nothing is in its way
