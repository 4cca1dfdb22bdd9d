"""The task half of a toy family; see `toy_task`."""

import toy_task


def make(config):
  return toy_task.make(config)
