"""Events of a fit with their times, for the report sheet.

``metrics.jsonl`` knows no clock, so that runs that go on write the same bytes. Steps
have their times from ``timing.jsonl``, between whose lines they are interpolated.
"""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from codax.overfit.presets import Steps


def make_event(name: str, seconds: float | None, **facts: Any) -> dict[str, Any]:
  """Makes an event.

  Args:
    name: the event.
    seconds: its time in seconds since 1970; None if it is unknown.
    **facts: further entries, JSON-able.

  Returns:
    event, time (ISO 8601 in UTC, to the second, or None) and the facts.
  """
  time = None
  if seconds is not None:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    time = moment.isoformat(timespec='seconds')
  return {'event': name, 'time': time, **facts}


def list_training(
  timing: Sequence[Mapping[str, Any]],
  steps: Steps,
  stage2: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
  """Lists the events of training.

  Args:
    timing: lines of ``timing.jsonl``.
    steps: numbers of steps of the two stages.
    stage2: facts of `stages.describe`, or None.

  Returns:
    The switch to stage 2, if it has steps, and the end of training.
  """
  events, facts = [], dict(stage2 or {})
  if steps.ste:
    before = {'loss': facts['best_loss_before']} if facts else {}
    time = find_time(timing, steps.noise)
    events.append(make_event('stage 2 begins', time, step=steps.noise, **before))
  if facts.get('ended_at'):
    time = find_time(timing, facts['ended_at'])
    after = {'step': facts['ended_at'], 'lr': facts['lr']}
    events.append(make_event('learning rate below its bound', time, **after))
  after = {'loss': facts['best_loss_after']} if facts else {}
  time = find_time(timing, steps.total)
  return [*events, make_event('training ends', time, step=steps.total, **after)]


def find_time(timing: Sequence[Mapping[str, Any]], step: int) -> float | None:
  """Finds the time of a step, in seconds since 1970.

  Args:
    timing: lines of ``timing.jsonl``.
    step: number of steps made.

  Returns:
    Interpolated between two lines of one process; None where there are none around it.
  """
  known = [line for line in timing if {'session', 'seconds', 'step'} <= set(line)]
  at = lambda line: line['session'] + line['seconds']
  for line in known:
    if line['step'] == step:
      return at(line)
  for a, b in zip(known, known[1:]):
    if a['session'] == b['session'] and a['step'] < step < b['step']:
      share = (step - a['step']) / (b['step'] - a['step'])
      return at(a) + share * (at(b) - at(a))
  return None
