"""Trains the tiny VQ-VAE as a program for tests: `tiny_run.py WORKDIR [KEY=INT ...]`.

`eval_crops` 0, the default, evaluates nothing.
"""

import os
import sys
from pathlib import Path

from absl import logging
from tiny_vqvae import tiny_config

from codax.data import pipeline
from codax.training import loop, mesh
from codax.vqvae import task


def train(workdir, eval_crops=0, **changes):
  """Trains in this process, through the loop; the loop's result."""
  config = tiny_config()
  config.update({'total_steps': 20, 'steps_per_call': 1, 'log_every': 1})
  config.update({'eval_every': 10, 'checkpoint_every': 10, **changes})
  config.optimizer.learning_rate = 1e-3
  config.data.update({'eval_crops': eval_crops})
  pipe = pipeline.make(config.data, config.seed)
  batches = pipeline.eval_batches(config.data, 8) if eval_crops else []
  return loop.train(task.make(config), pipe, batches, config, Path(workdir))


def main(workdir, *changes):
  if 'JAX_COORDINATOR_ADDRESS' in os.environ:
    mesh.initialize()
  train(workdir, **{k: int(v) for k, v in (c.split('=') for c in changes)})
  mesh.barrier('end')


if __name__ == '__main__':
  logging.set_verbosity(logging.ERROR)
  main(*sys.argv[1:])
