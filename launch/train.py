"""Trains a model, or encodes images with a codec that trains on each, and reports.

  python launch/train.py --config=configs/vqvae_ba.py
  python launch/train.py --config=configs/vqvae_ba.py:cifar10 --config.seed=1
  python launch/train.py --config=FILE[:ARG] [--workdir=DIR] [--config.KEY=VALUE ...]

Everything goes to the work directory (default: runs/<config name>[_<arg>]). The same
command goes on with a run that was interrupted, however that happened, and says so if
it is complete. SIGTERM and Ctrl-C save the state first; a second one does not wait for
that. Exit status: 0 complete or out of time (`config.max_seconds`), 143 ended by one of
these signals with its state saved, 2 bad input.
"""

import math
import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any, NamedTuple

from absl import logging
from tqdm import tqdm

from codax import bundle, codec, errors, families
from codax.reports import held_out
from codax.training import flags

EXIT_SIGTERM = 143  # 128 + SIGTERM, as shells report it


class File(NamedTuple):
  """A file to write and measure: its codec, image name, pixels and facts to report."""

  codec: codec.Codec
  name: str
  image: Any
  facts: dict[str, Any]


class Fitted(NamedTuple):
  """The result of training.

  Attributes:
    stopped: None when complete, else 'signal' or 'max_seconds'.
    place: place of the stop for the message, ' at step 3 of 10'.
    metrics: final metrics by name.
    files: files to write and measure; empty for models that are no codec.
    count: number of these files.
    more: further contents of the results file.
    missed: a line for each file that could not be made.
  """

  stopped: str | None
  place: str = ''
  metrics: dict[str, float] = {}
  files: Iterable[File] = ()
  count: int = 0
  more: dict[str, Any] = {}
  missed: Iterable[str] = ()


def main(argv: list[str] | None = None) -> int:
  # ------------------------------------------------------------------- Command line
  args = flags.parse(sys.argv if argv is None else argv)
  if args is None:
    return 0
  flags.set_up_logging()
  config, workdir = args.config, args.workdir
  family = families.family(config.get('family'))
  workdir.mkdir(parents=True, exist_ok=True)

  # ------------------------------------------------------------------------- Devices
  # JAX is imported this late so that a wrong command line is answered at once.
  import jax

  from codax.training import mesh, settings

  if args.distributed:
    mesh.initialize()
  logging.info('devices: %s', ', '.join(str(d) for d in mesh.devices()))

  # ---------------------------------------------------------------- Already complete?
  done = held_out.load(workdir)
  if done is not None and has_outputs(family, workdir):
    settings.check_same(config, workdir)
    table = held_out.summary(done['rows'], done['metrics'])
    print(f'{workdir}: the run is complete\n\n{table}')
    return 0

  # ------------------------------------------------------------------------- Training
  fit = fit_images if family.kind == 'per_image' else fit_model
  fitted = fit(families.entry(family, 'task'), family, args)
  if fitted.stopped:
    print(f'stopped{fitted.place} ({fitted.stopped}); the same command goes on from '
          'there')  # fmt: skip
    return EXIT_SIGTERM if fitted.stopped == 'signal' else 0

  # --------------------------------------------------------------------------- Report
  # Real files of held-out images, beside JPEG and WebP of their size.
  if jax.process_index() == 0:
    rows = []
    with tqdm(total=fitted.count, unit='image', disable=None) as bar:
      for file in fitted.files:
        rows += held_out.measure_file(
          file.codec, file.name, file.image, workdir, file.facts
        )
        bar.update()
    text = held_out.save(
      workdir, rows, command=args.text, seed=config.seed, metrics=fitted.metrics,
      **fitted.more,
    )  # fmt: skip
    for line in fitted.missed:
      print(f'missed: {line}')
    print(f'\n{text}\n{held_out.RESULTS} and all else are in {workdir}')
  mesh.barrier('end')
  return 0


def fit_model(task_module: ModuleType, family: families.Family, args) -> Fitted:
  """Trains one model on a data set; a codec's bundle is written at the end."""
  import jax

  from codax.data import pipeline
  from codax.training import loop

  # Batches are a function of (seed, step); small sets live on the device.
  config, workdir = args.config, args.workdir
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
  made = task.bundle(result.state, metrics)
  bundle.save(made, workdir / bundle.FILE_NAME)
  logging.info('bundle %s in %s', made.id.hex()[:16], workdir / bundle.FILE_NAME)
  images = pipeline.source(config.data, 'test')
  count = min(len(images), config.get('report_images', 24))
  coder = families.get(family.name, model=made)
  files = (File(coder, images.names[i], images[i]['image'], {}) for i in range(count))
  return Fitted(None, '', metrics, files, count)


def fit_images(task_module: ModuleType, family: families.Family, args) -> Fitted:
  """Trains on each image of a data set; the files are measured as any codec's are."""
  from codax.per_image import run

  result = run.run(task_module.PER_IMAGE, args.config, args.workdir)
  decode = families.get(family.name).decode
  files = (
    File(codec.Codec(family.name, lambda _, one=one: one.encoded, decode), one.label,
         one.image, one.facts)
    for one in result.images
  )  # fmt: skip
  more = {'trained': result.sources}
  return Fitted(
    result.stopped, '', result.metrics, files, len(result.images), more, result.missed
  )


def has_outputs(family: families.Family, workdir) -> bool:
  """Whether bundle and files of a run are sound; damaged ones will be made again."""
  if family.kind == 'per_image':
    from codax.per_image import result

    return not result.has_damage(workdir)
  try:
    return not family.needs_bundle or bool(bundle.load(workdir).id)
  except errors.CodaxError as e:
    logging.warning('%s', e)
    return False


if __name__ == '__main__':
  sys.exit(errors.exit_status(main))
