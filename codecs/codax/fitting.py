"""Training of every kind of family for ``launch/train.py``: one result for all of them.

`fit_model` trains one model on a data set, a codec's or a classifier's; `fit_images`
trains on each image of a data set.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from codax import bundle, errors, families
from codax.codec import Codec
from codax.config import check_present
from codax.reports import held_out, measure
from codax.training import flags, progress


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
  """

  stop_reason: str | None
  place: str = ''
  metrics: dict[str, float] = {}
  items: Iterable[Item] = ()
  count: int = 0
  results: dict[str, Any] = {}
  missed: Iterable[str] = ()


def fit_model(
  task_module: ModuleType, family: families.Family, args: flags.Arguments
) -> Fitted:
  """Trains one model on a data set; a codec's bundle is written at the end."""
  import jax

  from codax.data import pipeline
  from codax.training import loop, settings

  # Batches are a function of (seed, step); small sets live on the device.
  config, workdir = args.config, args.workdir
  check_present(config, ('data',))
  report_images = settings.read(config).report_images
  batch_size = pipeline.settings(config.data)['batch_size']
  training_data = pipeline.make(config.data, config.seed)
  held_out_batches = pipeline.eval_batches(config.data, batch_size)
  logging.info('data: %d training images', len(training_data.source))
  task = task_module.make(config)
  result = loop.train(task, training_data, held_out_batches, config, workdir)
  if result.stopped or jax.process_index() != 0:
    return Fitted(result.stopped, f' at step {result.step} of {config.total_steps}')

  metrics = dict(result.metrics)
  if task.diagnose is not None and held_out_batches:
    metrics |= task.diagnose(result.state, held_out_batches)
  metrics = {k: v for k, v in metrics.items() if math.isfinite(v)}
  if not family.is_codec:
    return Fitted(None, metrics=metrics)
  # A bundle is all that a decoder needs; its id goes into every file.
  model = task.bundle(result.state, metrics)
  bundle.save(model, workdir / bundle.FILE_NAME)
  logging.info('bundle %s in %s', model.id.hex()[:16], workdir / bundle.FILE_NAME)
  images = pipeline.source(config.data, 'test')
  count = min(len(images), report_images)
  codec = families.get(family.name, model=model)
  items = (Item(codec, images.names[i], images[i]['image'], {}) for i in range(count))
  return Fitted(None, '', metrics, items, count)


def fit_images(
  task_module: ModuleType, family: families.Family, args: flags.Arguments
) -> Fitted:
  """Trains on each image of a data set; the files are measured as any codec's are."""
  from codax.per_image import run

  result = run.run(task_module.PER_IMAGE, args.config, args.workdir)
  decode = families.get(family.name).decode

  def codec_of(encoded) -> Codec:
    return Codec(family.name, lambda _: encoded, decode)

  items = (
    Item(codec_of(one.encoded), one.label, one.image, one.facts)
    for one in result.images
  )
  return Fitted(
    result.stopped, '', result.metrics, items, len(result.images),
    {'trained': result.sources}, result.missed,
  )  # fmt: skip


def has_outputs(family: families.Family, workdir: Path) -> bool:
  """Tells whether bundle and files of a run are sound; damaged ones are made again."""
  if family.kind == 'per_image':
    from codax.per_image import result

    return not result.has_damage(workdir)
  try:
    return not family.needs_bundle or bool(bundle.load(workdir).id)
  except errors.CodaxError as e:
    logging.warning('%s', e)
    return False


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
