"""Reduction of metrics: over steps, over the batches of an evaluation, and checks.

Evaluation accumulates `clu.metrics`: scalars are averages over images (`Average`),
arrays are sums (`Sum`), merged batch by batch in float64 on the host.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import clu.metrics
import flax
import jax
import jax.numpy as jnp
import numpy as np

from codax.errors import CodaxError
from codax.training import mesh as mesh_lib
from codax.training import writers
from codax.training.optim import path_name
from codax.training.task import Metrics, Task


@flax.struct.dataclass
class Sum(clu.metrics.Metric):
  """Sums arrays over batches, such as counts of codes.

  Attributes:
    total: array of any shape.
  """

  total: jax.Array

  @classmethod
  def from_model_output(cls, values: jax.Array, **_: Any) -> 'Sum':
    """Returns the sum of one batch."""
    return cls(total=values)

  def merge(self, other: 'Sum') -> 'Sum':
    """Returns the sum of both."""
    return type(self)(total=self.total + other.total)

  def compute(self) -> jax.Array:
    """Returns the total."""
    return self.total


def collect(metrics: Metrics, size: int) -> dict[str, clu.metrics.Metric]:
  """Turns the metrics of one batch into clu's, which merge with those of others.

  Args:
    metrics: name -> float scalar (a mean over the batch) or array (a sum over it).
    size: number of images in the batch, the weight of its means.

  Returns:
    Name -> `clu.metrics.Average` or `Sum`. (A dict, and no `clu.metrics.Collection`,
    whose names have to be identifiers: 'learning_rate/decoder' is none.)
  """
  out: dict[str, clu.metrics.Metric] = {}
  for name, value in metrics.items():
    if jnp.ndim(value):
      out[name] = Sum.from_model_output(value)
    else:
      each = jnp.broadcast_to(jnp.asarray(value, jnp.float32), (size,))
      out[name] = clu.metrics.Average.from_model_output(each)
  return out


def merge(batches: list[dict[str, clu.metrics.Metric]]) -> dict[str, np.ndarray]:
  """Merges the metrics of batches in float64.

  Args:
    batches: results of `collect` with the same names, at least one.

  Returns:
    Name -> scalar or array.
  """
  total: dict[str, clu.metrics.Metric] = {}
  for batch in batches:
    batch = jax.tree.map(lambda x: np.asarray(x, np.float64), batch)
    total = {k: total[k].merge(v) if k in total else v for k, v in batch.items()}
  return {name: metric.compute() for name, metric in total.items()}


def summarize(task: Task, metrics: Metrics) -> dict[str, float]:
  """Returns the scalars of metrics, after the task's own `summarize` if it has one."""
  if task.summarize is not None:
    metrics = task.summarize(metrics)
  return {name: float(x) for name, x in metrics.items() if np.ndim(x) == 0}


def stack(metrics: dict | list[dict]) -> dict[str, np.ndarray]:
  """Stacks a list of dicts of arrays to one dict of arrays with a leading axis."""
  if isinstance(metrics, dict):
    return metrics
  return {name: np.stack([row[name] for row in metrics]) for name in metrics[0]}


def check_finite(calls: list[tuple[int, dict]], saved: int | None) -> None:
  """Raises `CodaxError` that names the first bad metric of some dispatches.

  Args:
    calls: (first step, name -> NumPy array [steps, ...]) in order.
    saved: step of the newest checkpoint, for the message; None if there is none.
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
        f'{start + count}{also}; {describe_checkpoint(saved)}'
      )


def check_state(flags: Any, step: int, saved: int | None) -> None:
  """Raises `CodaxError` naming the first leaf that `finite_leaves` marks as bad."""
  for path, flag in jax.tree_util.tree_flatten_with_path(jax.device_get(flags))[0]:
    if not flag:
      raise CodaxError(
        f'non-finite state {path_name(path)} after step {step}; '
        f'{describe_checkpoint(saved)}'
      )


def finite_leaves(state: Any) -> Any:
  """Returns for each leaf whether all of it is finite."""
  return jax.tree.map(lambda x: jnp.all(jnp.isfinite(x)), state)


def describe_checkpoint(saved: int | None) -> str:
  """Returns the end of an error message: the checkpoint from which one can go on."""
  return 'no checkpoint yet' if saved is None else f'last good checkpoint: step {saved}'


def make_evaluator(task: Task, batches: list[dict], mesh: Any) -> Any:
  """Returns a function state -> (metrics, images uint8 [N, H, W, 3] or None).

  Without batches there is none: None.

  Args:
    task: the task.
    batches: dicts of NumPy arrays; put on the devices once, here. Scalars are averaged
      with the batches' sizes as weights.
    mesh: the data mesh.
  """
  if not batches:
    return None
  batches = [mesh_lib.put_whole(batch, mesh) for batch in batches]
  everywhere = mesh_lib.replicated(mesh)

  def evaluate_batch(state: Any, batch: dict) -> dict[str, clu.metrics.Metric]:
    return collect(task.eval_step(state, batch), len(jax.tree.leaves(batch)[0]))

  step = jax.jit(evaluate_batch, out_shardings=everywhere)
  draw = task.images and jax.jit(task.images, out_shardings=everywhere)

  def evaluate(state: Any) -> tuple[dict[str, float], np.ndarray | None]:
    results = jax.device_get([step(state, batch) for batch in batches])
    images = draw and draw(state, batches[0])
    images = None if images is None else jax.device_get(images)
    return summarize(task, merge(results)), images

  return evaluate


def last_evaluation(workdir: str | Path) -> dict[str, float]:
  """Returns the newest evaluation in ``metrics.jsonl``, names without 'eval/'."""
  return _last_line(workdir, 'eval/')


def last_training(workdir: str | Path) -> dict[str, float]:
  """Returns the newest training metrics in ``metrics.jsonl``, without 'train/'."""
  return _last_line(workdir, 'train/')


def _last_line(workdir: str | Path, prefix: str) -> dict[str, float]:
  """Returns the newest metrics whose names begin with a prefix, without it."""
  for row in reversed(writers.read(Path(workdir) / writers.METRICS)):
    start = len(prefix)
    metrics = {k[start:]: v for k, v in row.items() if k.startswith(prefix)}
    if metrics:
      return metrics
  return {}


def short(metrics: Mapping[str, float]) -> str:
  """Formats metrics in one line to be read by people, the loss first.

  Those of parts, 'kl_dim/007', would be lines of their own; learning rates are few.
  """
  names = [n for n in metrics if '/' not in n or n.startswith('learning_rate/')]
  names.sort(key=_loss_first)
  return '  '.join(f'{name} {metrics[name]:.4g}' for name in names)


def _loss_first(name: str) -> tuple[bool, str]:
  return name != 'loss', name
