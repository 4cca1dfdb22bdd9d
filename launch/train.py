"""Trains a model, or encodes images with a codec that trains on each, and reports.

  python launch/train.py --config=configs/vqvae_ba.py
  python launch/train.py --config=configs/vqvae_ba.py:cifar10 --config.seed=1
  python launch/train.py --config=FILE[:ARG] [--workdir=DIR] [--config.KEY=VALUE ...]

Everything goes to the work directory (default: runs/<config name>[_<arg>]). The same
command goes on with a run that was interrupted, however that happened, and says so if
it is complete. Ctrl-C and SIGTERM save the state first; a second one does not wait for
that. Exit status: 0 complete or out of time (`config.max_seconds`), 130 or 143 ended by
one of these signals with its state saved, 2 bad input.
"""

import contextlib
import sys

from codax import signals

signals.guard_imports(__name__)

from absl import logging

from codax import errors, families, files, fitting
from codax.reports import held_out
from codax.training import flags

RESUMES = 'the same command goes on from what is saved'


def main(argv: list[str] | None = None) -> int:
  # ------------------------------------------------------------------- Command line
  args = flags.parse(sys.argv if argv is None else argv)
  if args is None:
    return 0
  flags.set_up_logging()
  family = families.family(args.config.get('family'))
  args.workdir.mkdir(parents=True, exist_ok=True)

  # ------------------------------------------------------------------------- Devices
  # JAX is imported this late so that a wrong command line is answered at once.
  import jax

  from codax.training import mesh

  if args.distributed:
    mesh.initialize()
  logging.info('devices: %s', ', '.join(str(d) for d in mesh.devices()))

  # ------------------------------------------------------ One owner of the directory
  with contextlib.ExitStack() as stack:
    if jax.process_index() == 0:
      stack.enter_context(files.lock(args.workdir))
    with signals.explain(RESUMES):
      return run(args, family)


def run(args: flags.Arguments, family: families.Family) -> int:
  """Trains and reports in a work directory of this process's own."""
  import jax

  from codax.training import mesh, settings

  # ---------------------------------------------------------------- Already complete?
  config, workdir = args.config, args.workdir
  earlier = held_out.load(workdir)
  if earlier is not None and fitting.has_outputs(family, workdir):
    settings.check_same(config, workdir)
    table = held_out.summary(earlier['rows'], earlier['metrics'])
    print(f'{workdir}: the run is complete\n\n{table}')
    return 0

  # ------------------------------------------------------------------------- Training
  fit = fitting.fit_images if family.kind == 'per_image' else fitting.fit_model
  fitted = fit(families.entry(family, 'task'), family, args)
  if fitted.stop_reason:
    print(f'stopped{fitted.place} ({fitted.stop_reason}); the same command goes on '
          'from there')  # fmt: skip
    return 0  # after a signal `errors.exit_status` makes it 128 and its number

  # --------------------------------------------------------------------------- Report
  # Real files of held-out images, beside JPEG and WebP of their size.
  if jax.process_index() == 0:
    rows = fitting.measure_items(fitted, workdir)
    text = held_out.save(
      workdir, rows, command=args.text, seed=config.seed, metrics=fitted.metrics,
      **fitted.results,
    )  # fmt: skip
    for line in fitted.missed:
      print(f'missed: {line}')
    print(f'\n{text}\n{held_out.RESULTS} and all else are in {workdir}')
  mesh.barrier('end')
  return 0


if __name__ == '__main__':
  signals.end_process(errors.exit_status(main))
