"""Batches that the host makes, ready on the devices before they are asked for."""

import concurrent.futures
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from codax.training import mesh as mesh_lib

AHEAD = 2


def prefetch(
  host_batch: Callable[..., dict], calls: list[tuple[int, int]], mesh: Any
) -> Iterator[dict]:
  """Makes the batches of every dispatch in a background thread, two dispatches ahead.

  Args:
    host_batch: (step, shard, shards) -> dict of NumPy arrays, this host's part.
    calls: (first step, number of steps) of every dispatch to come.
    mesh: the data mesh.

  Yields:
    For each dispatch a dict of arrays [steps, B, ...], split over the devices along B.
  """
  shard, shards = jax.process_index(), jax.process_count()

  def make(start: int, count: int) -> dict:
    batches = [host_batch(s, shard, shards) for s in range(start, start + count)]
    stacked = {k: np.stack([b[k] for b in batches]) for k in batches[0]}
    return mesh_lib.put_local(stacked, mesh, axis=1)

  executor = concurrent.futures.ThreadPoolExecutor(1, 'codax-feed')
  try:
    waiting: deque = deque()
    for call in calls:
      waiting.append(executor.submit(make, *call))
      if len(waiting) > AHEAD:
        yield waiting.popleft().result()
    while waiting:
      yield waiting.popleft().result()
  finally:
    executor.shutdown(wait=True, cancel_futures=True)
