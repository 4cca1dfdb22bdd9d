"""Writes the networks of a training, under way or complete, as a safetensors file.

  python launch/export.py RUN OUT.safetensors

RUN is a work directory; the newest checkpoint that is whole is taken, with averaged
weights where the run averages them. A training begins from such a file with
``--config.init_from=OUT.safetensors``.
"""

import sys
from pathlib import Path

from codax import signals

signals.guard_imports(__name__)

from codax import console, files
from codax.errors import ArgumentParser, exit_status


def main(argv: list[str]) -> int:
  parser = ArgumentParser(
    prog='export.py', description=__doc__.split('\n')[0], allow_abbrev=False
  )
  parser.add_argument('run', metavar='RUN', help='work directory of a training')
  text = 'file to write'
  parser.add_argument('output', metavar='OUT.safetensors', type=Path, help=text)
  args = parser.parse_args(argv[1:])
  files.try_writing(args.output)
  # This late, so that a wrong command line is answered at once.
  from codax import devices

  devices.use_in_process()
  from codax.training import networks

  step = networks.save(args.run, args.output)
  console.say(f'{args.output}: the networks of {args.run} after {step} steps')
  return 0


if __name__ == '__main__':
  signals.end_process(exit_status(lambda: main(sys.argv)))
