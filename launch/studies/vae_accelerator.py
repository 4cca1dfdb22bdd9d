r"""Trains the transform codec of the VAE family for a given time on an accelerator.

  python launch/studies/vae_accelerator.py --images=DIR --out=DIR [--seconds=390]
      [--batch=64]

The learning rate falls along a cosine over the whole training, so the number of steps
has to be known before: a short training measures the speed, and the long one gets the
steps that fit into the time. OUT/run is its work directory, with the bundle; files are
written and measured afterwards, on any machine:

  python launch/evaluate.py --images=DIR --codecs=vae:OUT/run,jpeg,webp --out=OUT/table
"""

import json
import subprocess
import sys
from pathlib import Path

from codax import signals

signals.guard_imports(__name__)

from codax import errors

ROOT = Path(__file__).parents[2]
_TRIAL = 200  # steps of the short training
_CALL = 100  # steps of a dispatch
_SHARE = 0.9  # of the time that is planned; the rest is compiling, tables and files


def train(images: Path, workdir: Path, batch: int, steps: int, reported: int) -> None:
  """Runs a training to its end, in a process of its own.

  Raises:
    CodaxError: it failed.
  """
  command = [
    sys.executable, str(ROOT / 'launch/train.py'),
    f'--config={ROOT}/configs/vae_bezier.py:codec,folder', f'--workdir={workdir}',
    f'--config.data.path={images}', f'--config.data.batch_size={batch}',
    '--config.data.test_fraction=0.04', f'--config.total_steps={steps}',
    f'--config.steps_per_call={min(_CALL, steps)}', '--config.log_every=100',
    f'--config.eval_every={max(steps // 4, 1)}',
    f'--config.checkpoint_every={max(steps // 4, 1)}',
    '--config.data.eval_crops=64', f'--config.report_images={reported}',
  ]  # fmt: skip
  if subprocess.run(command).returncode:
    raise errors.CodaxError(f'the training in {workdir} failed')


def measure_speed(workdir: Path) -> float:
  """Returns the steps a second of a run's last line of timing."""
  lines = (workdir / 'timing.jsonl').read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  speeds = [row['steps_per_s'] for row in rows if row.get('steps_per_s')]
  if not speeds:
    raise errors.CodaxError(f'{workdir} has no speed of its training')
  return speeds[-1]


def main(argv: list[str]) -> int:
  parser = errors.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--images', type=Path, required=True, help='training images')
  parser.add_argument('--out', type=Path, required=True, help='where runs go')
  parser.add_argument('--seconds', type=float, default=390.0, help='time of all')
  parser.add_argument('--batch', type=int, default=64, help='crops in a batch')
  args = parser.parse_args(argv)
  train(args.images, args.out / 'trial', args.batch, _TRIAL, 0)
  speed = measure_speed(args.out / 'trial')
  steps = max(int(_SHARE * args.seconds * speed) // _CALL, 1) * _CALL
  print(f'{speed:.1f} steps a second: {steps} steps', flush=True)
  train(args.images, args.out / 'run', args.batch, steps, 4)
  return 0


if __name__ == '__main__':
  signals.end_process(errors.exit_status(lambda: main(sys.argv[1:])))
