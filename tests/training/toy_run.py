"""Trains the toy task as a program for tests: `toy_run.py WORKDIR [KEY=INT ...]`."""

import os
import sys
import time
from pathlib import Path

import toy_task
from absl import logging

from codax.training import loop, mesh


def main(workdir, *changes):
  if 'JAX_COORDINATOR_ADDRESS' in os.environ:
    mesh.initialize()
  options = {k: int(v) for k, v in (c.split('=') for c in changes)}
  slow = options.pop('slow', 0)
  cfg = toy_task.config(**options)
  task = toy_task.make(cfg)
  pipeline = toy_task.hosted() if slow else toy_task.resident()
  if slow:
    host_batch = pipeline.host_batch

    def sleepy(*args):
      time.sleep(slow / 1000)
      return host_batch(*args)

    pipeline = pipeline._replace(host_batch=sleepy)
  loop.train(task, pipeline, toy_task.eval_batches(), cfg, Path(workdir))
  mesh.barrier('end')


if __name__ == '__main__':
  logging.set_verbosity(logging.ERROR)
  main(*sys.argv[1:])
