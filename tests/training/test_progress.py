"""Estimates of time, and signs of life where there is no terminal."""

import time

import pytest

from codax.training import progress


@pytest.mark.parametrize(
  ('seconds', 'text'),
  [(0, '0 s'), (40.4, '40 s'), (59.6, '1 min'), (185, '3 min'), (9000, '2.5 h')]
  + [(3600 * 24, '24 h')],
)
def test_duration_has_one_unit(seconds, text):
  assert progress.duration(seconds) == text


def test_estimate_is_of_the_whole_work():
  assert progress.estimate(20, 2400, 1.5) == 'about 3 min for 2400 steps'
  assert progress.estimate(1, 24, 10, 'images') == 'about 4 min for 24 images'


@pytest.fixture
def clock(monkeypatch):
  """A clock that moves when it is told to: the list of its time."""
  now = [0.0]
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now[0])
  return now


def wait_for(lines, text):
  """Waits until the last line begins so: lines come from a thread."""
  deadline = time.perf_counter() + 60
  while not (lines() and lines()[-1].startswith(text)):
    assert time.perf_counter() < deadline, lines()
    time.sleep(0.005)


def test_estimate_is_logged_once_and_leaves_the_first_step_out(caplog, clock):
  with caplog.at_level('INFO', logger='absl'), progress.track(1001) as shown:
    clock[0] += 30  # compilation
    for _ in range(5):
      shown.advance(1)
      clock[0] += 1
  [text] = [r.message for r in caplog.records if 'estimate' in r.message]
  assert text == 'estimate: about 17 min for 1000 steps'


def test_line_comes_without_a_terminal_also_before_the_first_step(caplog, clock):
  lines = lambda: [r.message for r in caplog.records if 'estimate' not in r.message]
  with caplog.at_level('INFO', logger='absl'):
    with progress.track(10, done=4, unit='step', every=0.05) as shown:
      clock[0] += 1
      wait_for(lines, 'step 4/10, the first one takes')
      shown.advance(2)
      clock[0] += 1
      wait_for(lines, 'step 6/10')
      shown.advance(2)
      clock[0] += 1
      wait_for(lines, 'step 8/10, about')
  assert lines()[-1].endswith(' left')


def test_lines_of_others_stand_in_for_signs_of_life(caplog, clock):
  with caplog.at_level('INFO', logger='absl'):
    with progress.track(10, every=0.04) as shown:
      for _ in range(20):
        shown.log('metrics')
        clock[0] += 0.03
        time.sleep(0.02)  # the thread looks every 0.01 s
  assert {r.message for r in caplog.records} == {'metrics'}


def test_hidden_progress_says_nothing(caplog, capfd):
  with caplog.at_level('INFO', logger='absl'):
    with progress.track(10, every=0.01, is_shown=False) as shown:
      shown.advance(1)
      shown.log('x')
      time.sleep(0.05)
  assert not caplog.records and capfd.readouterr() == ('', '')


def test_work_of_unknown_length_gives_signs_of_life_and_begins_again(clock):
  """As an encoder that corrects: fewer steps than before are another piece of work."""
  lines = []
  with progress.track(None, every=0.05, write=lines.append) as shown:
    clock[0] += 0.1
    wait_for(lambda: lines, 'step 0, the first one takes')
    for done in (50, 100, 10):
      shown.update(done, 100)
    clock[0] += 0.1
    wait_for(lambda: lines, 'step 10/100')
  assert lines[-1] == 'step 10/100'


def test_first_step_counts_where_it_is_like_all_others(monkeypatch):
  lines, clock = [], iter(range(0, 1000, 60))
  monkeypatch.setattr(progress.time, 'monotonic', lambda: next(clock))
  forever = float('inf')
  with progress.track(3, every=forever, write=lines.append, is_warm=True) as shown:
    shown.advance(1)
  assert lines == ['estimate: about 3 min for 3 steps']


def test_line_names_the_step_under_way(clock):
  lines = []
  with progress.track(
    3, unit='image', every=0.05, write=lines.append, is_warm=True
  ) as shown:
    shown.describe('in.png jpeg q50')
    clock[0] += 0.1
    wait_for(lambda: lines, 'image 0/3')
  assert lines[-1] == 'image 0/3 (in.png jpeg q50)'
