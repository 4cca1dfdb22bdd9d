"""Runs a grid of trainings, one after another, and writes one JSON of all results.

  python launch/sweep.py --grid=configs/grids/vqvae_photos.py [--out=DIR]

Every run is ``launch/train.py`` with the setting's overrides and a seed, in a process
of its own (its log: DIR/NAME_SEED/log.txt), and, if the grid has `lmbdas`, one
``launch/evaluate.py`` that writes files of the held-out photographs at each of them.
Runs that are complete are not made again and one that was interrupted goes on, so after
an interruption the same command is all there is to do. Configurations and images of all
runs are looked at before the first one. Ctrl-C, SIGTERM and SIGHUP let the run at hand
save its state and begin no other; a second one ends it at once.

DIR (default: runs/sweep_<grid's name>) ends with sweep.json, which
``python launch/tables.py --add=DIR --name=NAME`` keeps in results/.
"""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from codax import signals

signals.guard_imports(__name__)

from codax import console, errors, files, provenance, sweeps
from codax.data import checks, preflight
from codax.errors import CodaxError
from codax.reports import held_out, histories, measure, statistics, store, upgrade
from codax.training import flags, progress

ROOT = Path(__file__).parents[1]
TRAIN, EVALUATE = ROOT / 'launch/train.py', ROOT / 'launch/evaluate.py'
RESULT, ROW, LOG = 'sweep.json', 'row.json', 'log.txt'
STOPPING = 'the run at hand saves its state; again: at once, without saving'


def call(script: Path, arguments: list[str], log: Path) -> None:
  """Runs a script to its end; its output is added to `log`.

  The child has a session of its own: signals reach only this process, which asks the
  child once to end, and waits. (Twice would mean: without saving.)

  Raises:
    CodaxError: the script failed; with the last line that it wrote.
    Interrupted: there was a signal, and the child has ended.
  """
  log.parent.mkdir(parents=True, exist_ok=True)
  with log.open('ab') as out:
    out.write(os.fsencode(f'$ {shlex.join([script.name, *arguments])}\n'))
    out.flush()
    with subprocess.Popen(
      [sys.executable, str(script), *arguments],
      stdin=subprocess.DEVNULL,
      stdout=out,
      stderr=subprocess.STDOUT,
      start_new_session=True,
    ) as child:
      try:
        status = wait_for(child)
      except BaseException:
        child.kill()  # a second signal does not wait for the child to save
        raise
  if status:
    lines = log.read_text(encoding='utf-8', errors='replace').split('\n')
    last = next((line for line in reversed(lines) if line.strip()), '')
    raise CodaxError(f'{script.name} ended with status {status}: {last} (see {log})')


def wait_for(child: subprocess.Popen) -> int:
  """Waits for a process; asks it to end when a signal arrives, and waits on.

  Returns:
    Its exit status.

  Raises:
    Interrupted: there was a signal, and the process has ended.
  """
  with signals.postpone(STOPPING) as noted:
    while child.poll() is None and not noted():
      with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(0.1)
    if child.poll() is None:
      child.terminate()
      child.wait()
  with signals.allow():  # raises if there was a signal: no other run begins
    return child.returncode


def make_request(grid: sweeps.Grid, setting: sweeps.Setting, seed: int) -> dict:
  """Returns the request of a run, as JSON has it; another request is another run."""
  made = {
    'setting': setting.name,
    'config': setting.config,
    'overrides': dict(setting.overrides),
    'seed': seed,
    'lmbdas': list(grid.lmbdas),
    'preset': grid.preset,
  }
  return json.loads(json.dumps(made))


def make_arguments(setting: sweeps.Setting, seed: int, workdir: Path) -> list[str]:
  """Returns the arguments of the training of a setting."""
  overrides = {'seed': seed, **setting.overrides}
  arguments = [f'--config={ROOT / setting.config}', f'--workdir={workdir}']
  return arguments + [f'--config.{key}={value}' for key, value in overrides.items()]


def check_images(arguments_of_runs: list[list[str]]) -> None:
  """Looks at the images of all runs, each data set once, before the first run.

  Raises:
    CodaxError: a configuration or a data set cannot be used, or images in it cannot.
  """
  bad, seen = {}, set()
  for arguments in arguments_of_runs:
    data = flags.parse([TRAIN.name, *arguments]).config.get('data', {})
    key = repr(sorted(data.items()))
    if key not in seen:
      seen.add(key)
      bad.update({one.reason: one for one in preflight.find_bad(data)})
  checks.refuse(list(bad), checks.CONFIG_ADVICE)


def make_run(
  grid: sweeps.Grid, setting: sweeps.Setting, seed: int, workdir: Path
) -> dict:
  """Makes one run, or its missing rest; returns its row."""
  wanted = make_request(grid, setting, seed)
  call(TRAIN, make_arguments(setting, seed, workdir), workdir / LOG)
  result = held_out.load(workdir)
  if result is None:  # status 0 without an end: out of config.max_seconds
    raise CodaxError(f'{workdir}: the run is not complete (see {workdir / LOG})')
  ours = [row for row in result['rows'] if row.codec not in held_out.BASELINES]
  row = {
    **wanted,
    **{key: result[key] for key in provenance.SOURCE},
    'metrics': result['metrics'],
    'files': [measure.to_json(row) for row in ours],
    'curve': measure_curve(grid, result, workdir) if grid.lmbdas else [],
  }
  if grid.target is not None or grid.accuracy_targets:
    row['history'] = histories.read(workdir)
  store.write_sealed(workdir / ROW, row)
  return row


def measure_curve(grid: sweeps.Grid, result: dict, workdir: Path) -> list[dict]:
  """Measures files of the held-out photographs at each lmbda: means, and each image."""
  out = workdir / 'curve'
  arguments = ['--photos', f'--codecs={result["rows"][0].codec}:{workdir}']
  arguments += [f'--lmbdas={",".join(map(repr, grid.lmbdas))}', f'--out={out}']
  call(EVALUATE, [*arguments, f'--preset={grid.preset}'], workdir / LOG)
  measured = store.load(out / held_out.RESULTS, 'comparison')
  if not all(row['decoded_as_encoded'] for row in measured['rows']):
    raise CodaxError(f'{out}: a file does not decode to what its encoder saw')
  rows = []
  for lmbda in grid.lmbdas:
    point = f'lmbda {lmbda:g}'
    mean = next(r for r in measured['means'] if r['point'] == point)
    images = {
      r['image']: {key: r[key] for key in ('bytes', 'bpp', 'psnr')}
      for r in measured['rows']
      if r['point'] == point
    }
    numbers = {key: mean[key] for key in ('bpp', 'psnr', 'ssim')}
    rows.append({'lmbda': lmbda, **numbers, 'images': images})
  return rows


def describe_run(row: dict, seconds: float | None) -> str:
  """Makes a line of the main metrics of a finished run."""
  metrics = row['metrics']
  names = (*statistics.METRICS, 'accuracy')
  parts = [f'{key} {metrics[key]:.4g}' for key in names if key in metrics]
  took = 'already complete' if seconds is None else f'{seconds / 60:.1f} min'
  return f'{row["setting"]}, seed {row["seed"]}: {", ".join(parts)} ({took})'


def find_complete(
  grid: sweeps.Grid, jobs: list[tuple[sweeps.Setting, int, Path]]
) -> dict[Path, dict]:
  """Finds the runs that are complete: their rows by their folders.

  Args:
    grid: the grid.
    jobs: setting, seed and folder of every run.

  Raises:
    CodaxError: a folder holds another run, or is damaged.
  """
  complete = {}
  for setting, seed, workdir in jobs:
    wanted = make_request(grid, setting, seed)
    row = store.load_if_same_request(workdir / ROW, workdir, wanted)
    if row:
      complete[workdir] = _upgrade(row, workdir / ROW)
  return complete


def _upgrade(row: dict, path: Path) -> dict:
  """Brings a finished run up to the present schema."""
  try:
    row['metrics'], row['files'], row['curve']
    return upgrade.run(row)
  except (KeyError, TypeError, ValueError, AttributeError) as e:
    raise CodaxError(f'{path} is damaged ({e!r}): remove it') from e


def main(argv: list[str] | None = None) -> int:
  argv = sys.argv[1:] if argv is None else argv
  parser = errors.ArgumentParser(
    description=__doc__.splitlines()[0], allow_abbrev=False
  )
  parser.add_argument('--grid', required=True, metavar='FILE', help='see configs/grids')
  parser.add_argument('--out', metavar='DIR', help='default: runs/sweep_<grid>')
  args = parser.parse_args(argv)
  grid = sweeps.load(args.grid)
  out = Path(args.out or f'runs/sweep_{Path(args.grid).stem}').expanduser()

  _owner = files.hold(out)  # until this function ends
  files.try_writing(out / RESULT)

  # Everything that can be wrong with the folder is found before any work. Seeds are the
  # outer loop: runs before an interruption compare all settings.
  jobs = [
    (setting, seed, out / f'{setting.name}_{seed}')
    for seed in grid.seeds
    for setting in grid.settings
  ]
  complete = find_complete(grid, jobs)
  check_images([make_arguments(*job) for job in jobs if job[-1] not in complete])

  rows = []
  with progress.track(
    len(jobs), len(complete), 'run', write=progress.print_line, is_warm=True
  ) as shown:
    for setting, seed, workdir in jobs:
      start, seconds = time.monotonic(), None
      row = complete.get(workdir)
      if row is None:
        shown.describe(f'{setting.name}, seed {seed}')
        with signals.explain(
          f'the same command goes on with {setting.name}, seed {seed}'
        ):
          row = make_run(grid, setting, seed, workdir)
        seconds = time.monotonic() - start
        shown.advance(1)
      console.say(describe_run(row, seconds))
      rows.append(row)

  content = {
    'command': shlex.join(['python', 'launch/sweep.py', *argv]),
    **provenance.factor_out_source(rows),
    'seeds': list(grid.seeds),
    **{key: getattr(grid, key) for key in ('nominal', 'preset', 'baseline', 'target')},
    **{
      key: list(getattr(grid, key))
      for key in ('nearest', 'searched', 'accuracy_targets')
    },
    'runs': rows,
  }
  store.save(out / RESULT, 'sweep', content)
  console.say(f'written: {out / RESULT}')
  return 0


if __name__ == '__main__':
  signals.end_process(errors.exit_status(main))
