"""The training step in the loop: compiled once, never waited for, its state donated."""

import collections
import contextlib
import itertools
import statistics
import time
from typing import NamedTuple

import jax
import jax.monitoring
import pytest
from tiny_vqvae import tiny_config

from codax.data import pipeline
from codax.training import dispatch, loop
from codax.vqvae import task

COMPILED = '/jax/core/compile/backend_compile_duration'
STEPS, PER_CALL = 24, 2


class Dispatch(NamedTuple):
  """What one dispatch did: programs compiled, buffers of the old state that are still
  there, arguments that lay on the host, when it began, seconds until it returned."""

  compiled: int
  kept: int
  from_host: int
  begin: float
  seconds: float


@contextlib.contextmanager
def compilations():
  """A list that grows by one with every program that XLA compiles."""
  found = []

  def note(event, duration, **_):
    if event == COMPILED:
      found.append(duration)

  jax.monitoring.register_event_duration_secs_listener(note)
  yield found
  jax.monitoring.unregister_event_duration_listener(note)


def watch(make_dispatcher, compiled, found):
  """Returns a maker of dispatchers which append what each dispatch did to `found`."""

  def watched(*args):
    call = make_dispatcher(*args)

    def measured(state, data, start, count):
      before, old = len(compiled), jax.tree.leaves(state)
      from_host = sum(not isinstance(x, jax.Array) for x in jax.tree.leaves(data))
      begin = time.monotonic()
      # Of use on accelerators; on CPUs the host may read arrays where they lie.
      with jax.transfer_guard_device_to_host('disallow'):
        out = call(state, data, start, count)
      seconds = time.monotonic() - begin
      kept = sum(not x.is_deleted() for x in old)
      new = len(compiled) - before
      found.append(Dispatch(new, kept, from_host, begin, seconds))
      return out

    return measured

  return watched


def train(workdir, turns):
  """Trains, with a loop of so many turns in every step; returns traces by function."""
  config = tiny_config()
  config.update({'total_steps': STEPS, 'steps_per_call': PER_CALL, 'log_every': 4})
  config.update({'eval_every': 8, 'checkpoint_every': 8, 'revive_steps': 12})
  config.data.update({'eval_crops': 8})
  traces = collections.Counter()

  def counted(name, f):
    def call(*args):
      traces[name] += 1
      return f(*args)

    return call

  made = task.make(config)

  def train_step(state, batch, rng):
    state, metrics = made.train_step(state, batch, rng)
    x = jax.lax.fori_loop(0, turns, lambda _, x: jax.numpy.cos(x), metrics['loss'])
    return state.replace(step=state.step + (x > 2)), metrics  # it never is

  slow = made._replace(train_step=train_step)
  names = ('init', 'train_step', 'eval_step', 'images')
  slow = slow._replace(**{n: counted(n, getattr(slow, n)) for n in names})
  pipe = pipeline.make(config.data, config.seed)
  batches = pipeline.eval_batches(config.data, 8)
  result = loop.train(slow, pipe, batches, config, workdir)
  assert result.step == STEPS
  return traces


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """(traces by function, what each dispatch did) of a run of long steps."""
  found = []
  with compilations() as compiled, pytest.MonkeyPatch.context() as patch:
    watched = watch(dispatch.make_dispatcher, compiled, found)
    patch.setattr(dispatch, 'make_dispatcher', watched)
    traces = train(tmp_path_factory.mktemp('step'), turns=3_000_000)
  return traces, found


def test_training_compiles_once_and_donates_its_state(run):
  traces, dispatches = run
  assert traces == {'init': 1, 'train_step': 1, 'eval_step': 1, 'images': 1}
  assert len(dispatches) == STEPS // PER_CALL
  assert dispatches[0].compiled > 0
  assert {d.compiled for d in dispatches[1:]} == {0}
  assert {d.kept for d in dispatches} == {0}, 'old state was not donated'
  assert {d.from_host for d in dispatches} == {0}


def test_dispatch_of_long_steps_does_not_block_the_host(run):
  """A dispatch keeps the device busy for long, and the host for a fraction of that."""
  _, dispatches = run
  period = [b.begin - a.begin for a, b in itertools.pairwise(dispatches[1:])]
  busy = statistics.median(d.seconds for d in dispatches[1:])
  assert busy < 0.3 * statistics.median(period)
