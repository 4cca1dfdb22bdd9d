"""What the loop does with metrics: reduce, check, show; and evaluation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codax.errors import CodaxError
from codax.training import mesh as mesh_lib
from codax.training import writers
from codax.training.optim import path_name
from codax.training.task import Task


def reduce(task: Task, metrics: Mapping[str, Any], weights: Any) -> dict[str, float]:
  """Scalars averaged and arrays summed in float64, then the task's `summarize`.

  Args:
    task: the task.
    metrics: name -> array [n, ...], n steps or batches.
    weights: [n] of the average, or None for equal ones.
  """
  out: dict[str, Any] = {}
  for name, values in metrics.items():
    values = np.asarray(values, np.float64)
    mean = values.ndim == 1
    out[name] = np.average(values, weights=weights) if mean else values.sum(0)
  if task.summarize is not None:
    out = task.summarize(out)
  return {name: float(value) for name, value in out.items() if np.ndim(value) == 0}


def stack(metrics: dict | list[dict]) -> dict[str, np.ndarray]:
  """A list of dicts of arrays as one dict of arrays with a leading axis."""
  if isinstance(metrics, dict):
    return metrics
  return {name: np.stack([one[name] for one in metrics]) for name in metrics[0]}


def check_finite(calls: list[tuple[int, dict]], saved: int | None) -> None:
  """Raises `CodaxError` that names the first bad metric of some dispatches.

  Args:
    calls: (first step, name -> NumPy array [steps, ...]) in order.
    saved: the newest checkpoint, for the message.
  """
  for start, metrics in calls:
    count = len(next(iter(metrics.values()), ()))
    bad: dict[str, int] = {}
    for name, values in metrics.items():
      good = np.isfinite(values).reshape(count, -1).all(1)
      if not good.all():
        bad[name] = int(np.argmin(good))
    if bad:
      first = min(bad.values())
      # All that go bad in one step are one event; the loss says most about it.
      names = [n for n in sorted(bad, key=_loss_first) if bad[n] == first]
      also = f' (also {", ".join(names[1:4])})' if len(names) > 1 else ''
      raise CodaxError(
        f'non-finite {names[0]} in step {start + first + 1}, between steps {start} and '
        f'{start + count}{also}; {last_good(saved)}'
      )


def check_state(flags: Any, step: int, saved: int | None) -> None:
  """Raises `CodaxError` naming the first leaf that `finite_leaves` found bad."""
  for path, flag in jax.tree_util.tree_flatten_with_path(jax.device_get(flags))[0]:
    if not flag:
      raise CodaxError(
        f'non-finite state {path_name(path)} after step {step}; {last_good(saved)}'
      )


def finite_leaves(state: Any) -> Any:
  """For each leaf, whether all of it is finite."""
  return jax.tree.map(lambda x: jnp.all(jnp.isfinite(x)), state)


def last_good(saved: int | None) -> str:
  """The end of an error message: where one can go on from."""
  return 'no checkpoint yet' if saved is None else f'last good checkpoint: step {saved}'


def evaluator(task: Task, batches: list[dict], mesh: Any) -> Any:
  """A function state -> (metrics, images uint8 [N, H, W, 3] or None).

  Args:
    task: the task.
    batches: dicts of NumPy arrays; put on the devices once, here. Scalars are averaged
      with the batches' sizes as weights.
    mesh: the data mesh.
  """
  batches = [mesh_lib.put_whole(batch, mesh) for batch in batches]
  sizes = [len(jax.tree.leaves(batch)[0]) for batch in batches]
  everywhere = mesh_lib.replicated(mesh)
  step = jax.jit(task.eval_step, out_shardings=everywhere)
  draw = task.images and jax.jit(task.images, out_shardings=everywhere)

  def evaluate(state: Any) -> tuple[dict[str, float], np.ndarray | None]:
    found = jax.device_get([step(state, batch) for batch in batches])
    images = draw and draw(state, batches[0])
    images = None if images is None else jax.device_get(images)
    return reduce(task, stack(found), sizes), images

  return evaluate


def last_evaluation(workdir: str | Path) -> dict[str, float]:
  """The newest evaluation in ``metrics.jsonl``, names without 'eval/'."""
  for row in reversed(writers.read(Path(workdir) / writers.METRICS)):
    found = {k[5:]: v for k, v in row.items() if k.startswith('eval/')}
    if found:
      return found
  return {}


def short(metrics: Mapping[str, float]) -> str:
  """Metrics in one line to be read by people, the loss first."""
  names = sorted(metrics, key=_loss_first)
  return '  '.join(f'{name} {metrics[name]:.4g}' for name in names)


def _loss_first(name: str) -> tuple[bool, str]:
  return name != 'loss', name
