"""The task contract: functions that the training loop runs, for every family.

A family's ``task.py`` has ``make(config) -> Task``. The functions are pure and are
traced by ``jax.jit``, so they see arrays, never numbers. The state is a pytree
(``flax.struct.dataclass``) with an int32 scalar ``step``; it holds everything that the
run needs to go on, and all of it is finite: parameters, optimiser state, codebook
statistics, averages. It holds no random key: the loop derives the key of every step
from (seed, step).

A codec that trains on every image has ``PER_IMAGE`` in its ``task.py`` instead, a
`codax.per_image.task.PerImageTask`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

Metrics = dict[str, Any]


class Task(NamedTuple):
  """Functions of a family that the loop calls.

  A metric is a float scalar or a float array. Over the batches of an evaluation, and
  over the steps of one dispatch, scalars are averaged (by batch size) and arrays are
  summed (counts of codes, for example). `summarize` turns the arrays into scalars.

  Attributes:
    init: (rng, batch) -> state, with ``state.step == 0``.
    train_step: (state, batch, rng) -> (state, metrics); the new state's step is one
      more. `batch` is a dict, ``batch['image']`` is uint8 [B, H, W, 3].
    eval_step: (state, batch) -> metrics, from hard codes and 8-bit pixels.
    images: (state, batch) -> uint8 [N, H, W * k, 3], k images side by side
      (original, reconstruction, ...). Optional.
    bundle: (state, metrics) -> codax.bundle.Bundle; runs on the host. `metrics` is a
      dict of the last evaluation's finite numbers. Optional.
    summarize: dict of floats and NumPy arrays -> dict of floats; runs on the host.
      Optional: without it arrays are not logged.
    diagnose: (state, batches) -> dict of floats; runs on the host once, when training
      is complete, on the held-out batches. It may cost too much for every evaluation.
      Optional.
    resume: state -> state; called with a state that was loaded from a checkpoint,
      before training goes on from it. Optional: without it the run is the same as an
      unbroken one, and a task that changes anything here says so.
    calibrate: (bundle, iterable of training images uint8 [H, W, 3]) -> bundle; runs on
      the host once, when training is complete. Optional.
    report: (state, batches, workdir) -> None; called on the host once, when training is
      complete, with the held-out batches, to draw figures. Optional.
    score: name of the metric of an evaluation that is to be high, for
      ``config.patience``. Optional.
    classes: number of classes that labels of images may name; None without labels.
    init_batches: number of training batches that `init` gets, concatenated.
  """

  init: Callable[..., Any]
  train_step: Callable[..., tuple[Any, Metrics]]
  eval_step: Callable[..., Metrics]
  images: Callable[..., Any] | None = None
  bundle: Callable[..., Any] | None = None
  summarize: Callable[[Metrics], dict[str, float]] | None = None
  diagnose: Callable[..., dict[str, float]] | None = None
  resume: Callable[..., Any] | None = None
  calibrate: Callable[..., Any] | None = None
  report: Callable[..., None] | None = None
  score: str | None = None
  classes: int | None = None
  init_batches: int = 1
