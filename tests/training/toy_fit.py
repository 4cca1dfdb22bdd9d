"""Fits the toy classifier as a program for tests: `toy_fit.py WORKDIR`.

A third of the training images are for validation. The first process writes the metrics
into ``fitted.json``.
"""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import toy_classifier_config
from absl import logging
from toy_classifier import task as toy_classifier

from codax import families, fitting
from codax.training import flags, mesh


def make(config):
  """Makes the task, with a diagnosis that computes with the state."""
  task = toy_classifier.make(config)

  def diagnose(state, batches):
    evaluate = jax.jit(task.eval_step)
    return {'first_batch': float(evaluate(state, batches[0])['accuracy'])}

  return task._replace(diagnose=diagnose)


def main(workdir):
  if 'JAX_COORDINATOR_ADDRESS' in os.environ:
    mesh.initialize()
  config = toy_classifier_config.get_config()
  config.total_steps = 20
  config.data.val_fraction = 0.3
  family = families.Family('toy_classifier', 'toy_classifier', 'model', None, ('task',))
  args = flags.Arguments(config, Path(workdir), False, '')
  fitted = fitting.fit_model(SimpleNamespace(make=make), family, args)
  if jax.process_index() == 0:
    (args.workdir / 'fitted.json').write_text(json.dumps(fitted.metrics))
  mesh.barrier('end')


if __name__ == '__main__':
  logging.set_verbosity(logging.ERROR)
  main(*sys.argv[1:])
