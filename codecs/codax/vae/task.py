"""Tasks of the family by objective."""

from typing import Any

from codax.training.task import Task
from codax.vae import rate_task


def make(config: Any) -> Task:
  """Makes the task for `config`."""
  return rate_task.make(config)
