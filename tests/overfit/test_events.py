"""Events of a fit: their order, times between lines of `timing.jsonl`, the sheet."""

import pytest

from codax.overfit import events
from codax.overfit.presets import Steps

TIMING = [
  {'step': 10, 'session': 1000.0, 'seconds': 5.0},
  {'step': 20, 'session': 1000.0, 'seconds': 25.0},
  {'step': 30, 'session': 5000.0, 'seconds': 2.0},
  {'step': 40, 'session': 5000.0, 'seconds': 12.0},
]


@pytest.mark.parametrize(
  ('step', 'expected'),
  [(10, 1005.0), (15, 1015.0), (38, 5010.0), (25, None), (5, None), (50, None)],
)
def test_time_of_a_step_is_between_lines_of_one_process(step, expected):
  assert events.find_time(TIMING, step) == expected


def test_events_name_the_losses_of_both_stages_and_the_end():
  stage2 = {
    'best_loss_before': 2.0, 'best_loss_after': 1.5, 'ended_at': 36, 'lr': 9e-9,
  }  # fmt: skip
  found = events.list_training(TIMING, Steps(30, 10), stage2)
  assert [one['event'] for one in found] == [
    'stage 2 begins', 'learning rate below its bound', 'training ends',
  ]  # fmt: skip
  assert found[0]['loss'] == 2.0 and found[-1]['loss'] == 1.5
  assert found[0]['time'] == '1970-01-01T01:23:22+00:00'
  assert found[1]['step'] == 36 and found[1]['lr'] == 9e-9


def test_events_without_a_second_stage_are_the_end_alone():
  found = events.list_training([], Steps(40, 0))
  assert found == [{'event': 'training ends', 'time': None, 'step': 40}]
