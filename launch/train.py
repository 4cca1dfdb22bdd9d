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

import sys

from codax import signals

signals.guard_imports(__name__)

from absl import logging

from codax import console, devices, errors, families, files, fitting
from codax.data import checks
from codax.reports import held_out, measure
from codax.training import flags, workdirs

RESUMES = 'the same command goes on from what is saved'


def main(argv: list[str] | None = None) -> int:
  # ------------------------------------------------------------------- Command line
  args = flags.parse(sys.argv if argv is None else argv)
  if args is None:
    return 0
  flags.set_up_logging()
  family = families.family(args.config.get('family'))
  workdirs.check_place(args.workdir, args.config.get('data'))
  args.workdir.mkdir(parents=True, exist_ok=True)
  # The directory has one owner until this function ends; another one is found before
  # JAX has started, if only one host takes part.
  _owner = None if args.distributed else files.hold(args.workdir)

  # ------------------------------------------------------------------------- Devices
  # JAX is imported this late so that a wrong command line is answered at once.
  if args.distributed:
    from codax.training import mesh

    mesh.initialize()
  logging.info('devices: %s', ', '.join(map(str, devices.use_in_process())))
  import jax

  if args.distributed and jax.process_index() == 0:
    _owner = files.hold(args.workdir)
  with signals.explain(RESUMES):
    return run(args, family)


def run(args: flags.Arguments, family: families.Family) -> int:
  """Trains and reports in a work directory of this process's own."""
  import jax

  from codax.training import mesh, settings

  # ---------------------------------------------------------------- Already complete?
  config, workdir = args.config, args.workdir
  earlier = held_out.load(workdir)
  task = families.entry(family, 'task')
  if earlier is not None and fitting.has_outputs(family, workdir, earlier['rows']):
    settings.check_same(config, workdir)
    fitting.check_data(task, family, args)
    table = held_out.summary(earlier['rows'], earlier['metrics'])
    console.say(f'{workdir}: the run is complete\n\n{table}')
    print_passed_over([one['reason'] for one in earlier.get('passed_over', [])])
    return 0

  # ------------------------------------------------------------------------- Training
  fit = fitting.fit_images if family.kind == 'per_image' else fitting.fit_model
  fitted = fit(task, family, args)
  if fitted.stop_reason:
    text = f'stopped{fitted.place} ({fitted.stop_reason})'
    console.say(f'{text}; the same command goes on from there')
    return 0  # after a signal `errors.exit_status` makes it 128 and its number

  # --------------------------------------------------------------------------- Report
  # Real files of held-out images, beside JPEG and WebP of their size.
  if jax.process_index() == 0:
    rows = fitting.measure_items(fitted, workdir)
    text = held_out.save(
      workdir, rows, command=args.text, seed=config.seed, metrics=fitted.metrics,
      passed_over=[one._asdict() for one in fitted.passed_over], **fitted.results,
    )  # fmt: skip
    for line in fitted.missed:
      console.say(f'missed: {line}')
    for row in rows:
      if row.codec == family.name:
        for line in measure.list_notes(row):
          console.say(f'note: {line}')
    print_passed_over([one.reason for one in fitted.passed_over])
    console.say(f'\n{text}\n{held_out.RESULTS} and all else are in {workdir}')
  mesh.barrier('end')
  return 0


def print_passed_over(reasons: list[str]) -> None:
  """Names images that the run could not use."""
  for line in checks.list_reasons(reasons):
    console.say(f'passed over: {line}')


if __name__ == '__main__':
  signals.end_process(errors.exit_status(main))
