"""Training of every kind of family for ``launch/train.py``: one result for all of them.

`fit_model` trains one model on a data set, a codec's or a classifier's; `fit_images`
trains on each image of a data set.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from codax import bundle, console, errors, families, files
from codax.codec import Codec
from codax.config import check_present
from codax.data import checks
from codax.reports import held_out, measure, summary
from codax.training import flags, progress, settings, writers


class Item(NamedTuple):
  """An image to write as a file and to measure.

  Attributes:
    codec: codec that writes it.
    name: name of the image.
    image: uint8 [H, W, 1 or 3].
    facts: further entries of its row in the report.
  """

  codec: Codec
  name: str
  image: np.ndarray
  facts: dict[str, Any]


class Fitted(NamedTuple):
  """The outcome of training.

  Attributes:
    stop_reason: None when complete, else 'signal' or 'max_seconds'.
    place: place of the stop for the message, ' at step 3 of 10'.
    metrics: final metrics by name.
    items: images to write and measure; none for models that are no codec.
    count: number of these images.
    results: further contents of the results file.
    missed: a line for each file that could not be made.
    passed_over: images that could not be used, complete once `items` were gone through.
  """

  stop_reason: str | None
  place: str = ''
  metrics: dict[str, float] = {}
  items: Iterable[Item] = ()
  count: int = 0
  results: dict[str, Any] = {}
  missed: Iterable[str] = ()
  passed_over: Sequence[checks.BadImage] = ()


class _Data(NamedTuple):
  """The images of a run.

  Attributes:
    training: `pipeline.Pipeline` of the training images.
    held_out: batches that the final state is judged by.
    validation: batches that a run under way is evaluated by; the same list as
      `held_out` without ``config.data.val_fraction``.
  """

  training: Any
  held_out: list[dict]
  validation: list[dict]


def fit_model(
  task_module: ModuleType, family: families.Family, args: flags.Arguments
) -> Fitted:
  """Trains one model on a data set and judges its final state.

  The bundle of a task that has one goes into the work directory. Codecs also have
  held-out images to write and measure; families of kind 'model' have none.

  Args:
    task_module: the family's entry point 'task'.
    family: family of the run.
    args: configuration and work directory.

  Raises:
    CodaxError: a configuration or images that cannot be used; see `loop.train`.
  """
  import jax

  from codax.data import pipeline
  from codax.training import checkpoints, loop, metrics_reduction, passed_over

  # Batches are a function of (seed, step); small sets live on the device.
  config, workdir = args.config, args.workdir
  is_chief = jax.process_index() == 0
  is_resumed = bool(checkpoints.steps(workdir / loop.CHECKPOINTS))
  bad = passed_over.Register(workdir, is_resumed, is_chief)
  images, count = (), 0
  data = _load_data(config, bad.add)
  if family.is_codec:
    images = pipeline.source(config.data, 'test')
    count = min(len(images), settings.read(config).report_images)
    files.check_labels(images.names[i] for i in range(count))
  task = task_module.make(config)
  check_labels(task, data.training, (*data.validation, *data.held_out), config)
  result = loop.train(
    task, data.training, data.validation, config, workdir, judged_by=data.held_out
  )
  if is_chief:
    summary.write(workdir, getattr(result.state, 'params', None))
  metrics = {} if result.stopped else _judge(task, result, data, workdir)
  last = {'training': metrics_reduction.last_training(workdir)}
  if result.stopped or not is_chief:
    return Fitted(result.stopped, f' at step {result.step} of {config.total_steps}')

  fitted = Fitted(None, metrics=metrics, results=last, passed_over=bad.images)
  if task.bundle is None:
    return fitted
  # A bundle is all that a decoder needs; its id goes into every file.
  model = task.bundle(result.state, metrics)
  skips = pipeline.settings(config.data)['skip_bad']
  if task.calibrate is not None:
    training = checks.iterate(data.training.source, skips, bad.add)
    model = task.calibrate(model, (item['image'] for _, item in training))
  bundle.save(model, workdir / bundle.FILE_NAME)
  logging.info('bundle %s in %s', model.id.hex()[:16], workdir / bundle.FILE_NAME)
  if not count:
    return fitted
  codec = families.get(family.name, model=model)
  readable = checks.iterate(images, skips, bad.add)
  items = (Item(codec, name, item['image'], {}) for name, item in readable)
  items = itertools.islice(items, count)
  return fitted._replace(items=items, count=count)


def _load_data(config: Any, pass_over: checks.PassOver) -> _Data:
  """Loads the images of a run.

  Raises:
    CodaxError: bad settings or images, or `config.patience` without images to choose a
      state by: those that it is judged by must be others.
  """
  from codax.data import pipeline

  check_present(config, ('data',))
  options = settings.read(config)
  values = pipeline.settings(config.data)
  if options.patience and not values['val_fraction']:
    raise errors.CodaxError(
      f'config.patience = {options.patience} chooses a state by evaluations: it needs '
      'images for that, config.data.val_fraction'
    )
  training = pipeline.make(config.data, config.seed, pass_over=pass_over)
  load = lambda split: pipeline.eval_batches(
    config.data, values['batch_size'], pass_over, split
  )
  held_out = load('test')
  validation = load('validation') if values['val_fraction'] else held_out
  logging.info('data: %d training images', len(training.source))
  return _Data(training, held_out, validation)


def _judge(task: Any, result: Any, data: _Data, workdir: Path) -> dict[str, float]:
  """Judges a final state by the held-out images.

  Evaluations run on the devices of all processes, so that all of them take part.

  Args:
    task: the task.
    result: `loop.Result`, whose metrics are those of `data.validation`.
    data: images of the run.
    workdir: gets the figures of `task.report`.

  Returns:
    Finite metrics of the held-out images; 'validation/NAME' are those of the validation
    images, where these are others.
  """
  import jax

  from codax.training import mesh, metrics_reduction

  metrics, batches = dict(result.metrics), data.held_out
  if data.validation is not batches:
    metrics = {f'validation/{key}': value for key, value in metrics.items()}
    if batches:
      evaluate = metrics_reduction.make_evaluator(task, batches, mesh.make())
      metrics |= evaluate(result.state)[0]
  if batches and jax.process_index() == 0:
    # one process alone cannot compute with arrays that belong to all
    state = jax.device_get(result.state) if jax.process_count() > 1 else result.state
    if task.diagnose is not None:
      metrics |= task.diagnose(state, batches)
    if task.report is not None:
      task.report(state, batches, workdir)
  return {k: v for k, v in metrics.items() if math.isfinite(v)}


def check_labels(
  task: Any, training_data: Any, batches: Iterable[Any], config: Any
) -> None:
  """Checks that images have the labels that a task needs.

  Args:
    task: the task; nothing is checked where it has no `classes`.
    training_data: pipeline of the training images; where these are read on the host,
      the labels of the first batch are looked at.
    batches: batches of all other images.
    config: the whole configuration.

  Raises:
    CodaxError: there are none, or a label that is no number of a class.
  """
  if task.classes is None:
    return
  first = training_data.arrays
  first = training_data.host_batch(0) if first is None else first
  name = config.data.dataset or config.data.name
  if 'label' not in first:
    raise errors.CodaxError(f'data set {name!r} has no labels; a classifier needs them')
  labels = [batch.get('label') for batch in (first, *batches)]
  if any(values is None or values.min() < 0 for values in labels):
    raise errors.CodaxError(
      f'data set {name!r} has images without labels; a classifier needs them for '
      'training and for evaluations'
    )
  most = max(int(values.max()) for values in labels)
  if most >= task.classes:
    raise errors.CodaxError(
      f'data set {name!r} has {most + 1} classes or more, the network '
      f'{task.classes}: set config.model.classes'
    )


def fit_images(
  task_module: ModuleType, family: families.Family, args: flags.Arguments
) -> Fitted:
  """Trains on each image of a data set; the files are measured as any codec's are."""
  from codax.per_image import run

  result = run.run(task_module.PER_IMAGE, args.config, args.workdir)
  decode = families.get(family.name).decode
  sheet = task_module.PER_IMAGE.report
  if len(result.images) == 1 and sheet is not None:
    (one,) = result.images
    console.say(f'{sheet(one.encoded.details, one.label)}')

  def codec_of(encoded) -> Codec:
    return Codec(family.name, lambda _: encoded, decode)

  items = (
    Item(codec_of(one.encoded), one.label, one.image, one.facts)
    for one in result.images
  )
  return Fitted(
    result.stopped, '', result.metrics, items, len(result.images),
    {'trained': result.sources}, result.missed, result.passed_over,
  )  # fmt: skip


def has_outputs(
  family: families.Family, workdir: Path, rows: Sequence[measure.Row]
) -> bool:
  """Tells whether bundle and files of a run are sound; damaged ones are made again.

  Args:
    family: family of the run.
    workdir: work directory of the run.
    rows: rows of its results.
  """
  ours = [row for row in rows if row.codec not in held_out.BASELINES]
  writers.warn_damaged(workdir)
  if family.kind == 'per_image':
    from codax.per_image import result

    return not result.has_damage(workdir, len(ours))
  try:
    has_bundle = family.needs_bundle or 'probe' in family.entries
    is_whole = not has_bundle or bool(bundle.load(workdir).id)
  except errors.CodaxError as e:
    logging.warning('%s; it is made again', e)
    is_whole = False
  return is_whole and all([held_out.has_file(row, workdir) for row in ours])


def check_data(
  task_module: ModuleType, family: families.Family, args: flags.Arguments
) -> None:
  """Checks that a complete run is of the images that its configuration names.

  Images that are no longer there are no error: nothing is made of them.

  Raises:
    CodaxError: the images are others.
  """
  from codax.data import pipeline
  from codax.per_image import result
  from codax.training import identity

  try:
    if family.kind == 'per_image':
      jobs = task_module.PER_IMAGE.plan(args.config, lambda _: None)
    else:
      source = pipeline.source(args.config.data, 'train')
      found = source.fingerprint()
  except (errors.CodaxError, OSError) as e:
    logging.warning('the images of this run cannot be looked at: %s', e)
    return
  if family.kind == 'per_image':
    result.check_images([(job.image_name, job.image) for job in jobs], args.workdir)
  else:
    identity.check_same(found, args.workdir, only_source=True)


def measure_items(fitted: Fitted, workdir: Path) -> list[measure.Row]:
  """Writes the file of every image and measures it beside JPEG and WebP of its size."""
  rows = []
  with progress.track(fitted.count, unit='image') as shown:
    for item in fitted.items:
      rows += held_out.measure_file(
        item.codec, item.name, item.image, workdir, item.facts
      )
      shown.advance(1)
  return rows
