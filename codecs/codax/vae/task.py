"""Task of the VAE family: the objective of a configuration decides which.

'kl' trains the convolutional VAE on distortion and divergence (`codax.vae.kl_task`),
'rate' the transform codec on distortion and bits (`codax.vae.rate_task`).
"""

from typing import Any

from codax.errors import unknown
from codax.training.task import Task
from codax.vae.defaults import OBJECTIVES


def make(config: Any) -> Task:
  """Makes the task of a configuration's objective.

  Raises:
    CodaxError: an unknown objective, key or value.
  """
  objective = config.get('objective', 'kl')
  if objective not in OBJECTIVES:
    raise unknown('config.objective', objective, OBJECTIVES)
  if objective == 'rate':
    from codax.vae import rate_task

    return rate_task.make(config)
  from codax.vae import kl_task

  return kl_task.make(config)
