"""Trains a codec and ends with real files of held-out pictures.

  python launch/train.py --config=configs/vqvae_ba.py
  python launch/train.py --config=configs/vqvae_ba.py:cifar10 --config.seed=1
  python launch/train.py --config=FILE[:ARG] [--workdir=DIR] [--config.KEY=VALUE ...]

Everything goes to the work directory (default: runs/<config name>[_<arg>]). The same
command goes on with a run that was interrupted, however that happened, and says so if
it is complete. SIGTERM and Ctrl-C save the state first; a second one does not wait for
that. Exit status: 0 complete or out of time (`config.max_seconds`), 143 ended by one of
these signals with its state saved, 2 bad input.
"""

import importlib
import math
import sys
from types import ModuleType

from absl import logging
from tqdm import tqdm

from codax import bundle, codec, errors
from codax.reports import held_out
from codax.training import flags

EXIT_SIGTERM = 143  # 128 + SIGTERM, as shells report it


def main(argv: list[str] | None = None) -> int:
  # ------------------------------------------------------------------- Command line
  args = flags.parse(sys.argv if argv is None else argv)
  if args is None:
    return 0
  flags.set_up_logging()
  config, workdir = args.config, args.workdir
  if config.get('family') not in codec.FAMILIES:
    raise errors.unknown('family', config.get('family'), codec.FAMILIES)
  workdir.mkdir(parents=True, exist_ok=True)

  # ------------------------------------------------------------------------- Devices
  # JAX is imported this late so that a wrong command line is answered at once.
  import jax

  from codax.data import pipeline
  from codax.training import loop, mesh, settings

  if args.distributed:
    mesh.initialize()
  chief = jax.process_index() == 0
  logging.info('devices: %s', ', '.join(str(d) for d in jax.devices()))

  # ---------------------------------------------------------------- Already complete?
  done = held_out.load(workdir)
  has_model = codec.FAMILIES[config.family].trained
  if done is not None and (not has_model or has_bundle(workdir)):
    settings.check_same(config, workdir)
    print(f'{workdir}: the run is complete\n\n{held_out.table(done["rows"])}')
    return 0

  # ------------------------------------------------------ Codecs that train per picture
  # Their data set is what they encode; what follows is for those with a bundle.
  family = codec.FAMILIES[config.family].module.rpartition('.')[0]
  module = importlib.import_module(f'{family}.task')
  if not has_model:
    return encode_all(module, args)

  # ---------------------------------------------------------------------------- Data
  # Batches are a function of (seed, step); small sets live on the device.
  batch_size = pipeline.settings(config.data)['batch_size']
  training_data = pipeline.make(config.data, config.seed)
  held_out_batches = pipeline.eval_batches(config.data, batch_size)
  logging.info('data: %d training pictures', len(training_data.source))

  # ----------------------------------------------------------------- Model and training
  task = module.make(config)
  result = loop.train(task, training_data, held_out_batches, config, workdir)
  if result.stopped:
    print(f'stopped at step {result.step} of {config.total_steps} ({result.stopped}); '
          'the same command goes on from there')  # fmt: skip
    return EXIT_SIGTERM if result.stopped == 'signal' else 0

  # -------------------------------------------------------------------------- Bundle
  # What a decoder needs, and nothing else; its id goes into every file.
  if chief:
    metrics = dict(result.metrics)
    if task.diagnose is not None and held_out_batches:
      metrics |= task.diagnose(result.state, held_out_batches)
    metrics = {k: v for k, v in metrics.items() if math.isfinite(v)}
    made = task.bundle(result.state, metrics)
    bundle.save(made, workdir / bundle.FILE_NAME)
    logging.info('bundle %s in %s', made.id.hex()[:16], workdir / bundle.FILE_NAME)

  # -------------------------------------------------------- Files of held-out pictures
  if chief:
    pictures = pipeline.source(config.data, 'test')
    count = min(len(pictures), config.get('report_pictures', 24))
    images = ((pictures.names[i], pictures[i]['image']) for i in range(count))
    trained = codec.get(config.family, model=made)
    with tqdm(total=count, unit='picture', disable=None) as bar:
      rows = held_out.held_out(trained, images, workdir, lambda _: bar.update())
    text = held_out.save(
      workdir, rows, command=args.text, seed=config.seed, metrics=metrics
    )
    print(f'\n{text}\nfiles, pictures and {held_out.RESULTS} are in {workdir}')
  mesh.barrier('end')
  return 0


def encode_all(module: ModuleType, args: flags.Arguments) -> int:
  """Encodes the data set of a codec that trains on each picture; the exit status."""
  config, workdir = args.config, args.workdir
  outcome = module.run(config, workdir)
  if outcome.stopped:
    print(f'stopped ({outcome.stopped}); the same command goes on from there')
    return EXIT_SIGTERM if outcome.stopped == 'signal' else 0
  decode = codec.get(config.family).decode
  # what was encoded already is measured as any codec's files are
  rows = held_out.of_finished(config.family, decode, outcome.finished, workdir)
  text = held_out.save(
    workdir, rows, command=args.text, seed=config.seed, metrics=outcome.metrics,
    trained=outcome.sources,
  )  # fmt: skip
  for line in outcome.missed:
    print(f'missed: {line}')
  print(f'\n{text}\nfiles, sheets, pictures and {held_out.RESULTS} are in {workdir}')
  return 0


def has_bundle(workdir) -> bool:
  """Whether the run has a sound bundle; one that is not will be made again."""
  try:
    return bool(bundle.load(workdir).id)
  except errors.CodaxError as e:
    logging.warning('%s', e)
    return False


if __name__ == '__main__':
  sys.exit(errors.exit_status(main))
