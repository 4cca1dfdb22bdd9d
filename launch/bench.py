r"""Measures the times of training steps and of decoding on this machine.

  python launch/bench.py train --config=configs/vqvae_ba.py
  python launch/bench.py train --config=configs/vqvae_ba.py:reference --steps=3
  python launch/bench.py train --config=FILE[:ARG] [--config.KEY=VALUE ...] [--steps=N]
      [--data=random|config] [--precision=default|float32|tensorfloat32|bfloat16]
      [--out=FILE]

  python launch/bench.py images --config=configs/overfit_mlp.py [--size=768x512]
      [--count=N] [--steps=N] [--out=FILE]
  python launch/bench.py images --config=configs/splat.py \
      --config.counts='(1000,5000,20000)'

  python launch/bench.py decode FILE.cdx [FILE.cdx ...] [--times=N] [--out=FILE]

  python launch/bench.py activations [--channels=N] [--size=64x64] [--count=N]
      [--times=N] [--only=NAME] [--out=FILE]

  python launch/bench.py kan [--shape=512x512] [--grid=N] [--batch=N] [--times=N]
      [--only=NAME] [--out=FILE]

`train` measures the training step of a configuration in two ways: compiled and called
alone, and as `launch/train.py` runs it, by the real loop in a temporary work directory.
The difference is the share of time outside the compiled step. `--data=random` needs no
data set: random images, twice the configuration's crop in size, take the place of its
images and go through the same sampling; `--config.data.max_resident_mb=0` sends them
through the host. With `--out` everything printed is saved as JSON.

`images` measures the step of a codec that trains on each image, for random images of
one size: `--count` of them in one program. Each step is waited for. Where steps are
made in calls of several (`splat`), whole calls are, and every one of `config.counts` is
measured.

`decode` measures the time of decoding files, in turn, the least of several (other load
can only add to it); files of a trained codec look for their bundle where `codax decode`
does.

`activations` measures every activation behind a 3x3 convolution with the same number of
output channels, forward, and forward and backward; the least of several.

`kan` measures KAN layers in each basis and form beside dense layers of the same shape
and of equal parameters, and beside those of other packages where they are installed
(`pip install .[peers]`).

FLOPs are XLA's own count for the compiled step, summed over the devices. The fraction
of the peak is against the dense peak that the maker states for the precision in use.
"""

import argparse
import json
import os
import re
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from codax import signals

signals.guard_imports(__name__)

import numpy as np

from codax import errors, families, provenance
from codax.device_peaks import peak_flops
from codax.reports import inputs, store
from codax.training import flags, step_times

SHARES = ('outside_the_step', 'input_wait', 'fraction_of_peak')
PRECISIONS = ('default', 'float32', 'tensorfloat32', 'bfloat16')


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
  """Parses the bench's own arguments; returns them and those of the configuration."""
  if argv[:1] == ['pictures']:
    raise errors.CodaxError('bench.py pictures was renamed to bench.py images')
  parser = errors.ArgumentParser(
    description=__doc__.splitlines()[0], allow_abbrev=False
  )
  benches = parser.add_subparsers(dest='bench', metavar='BENCH', required=True)
  train = benches.add_parser(
    'train', help='the training step of a configuration', allow_abbrev=False,
    usage='bench.py train --config=FILE[:ARG] [--config.KEY=VALUE ...] [options]',
  )  # fmt: skip
  train.add_argument('--steps', type=_parse_count, default=20, help='to time')
  train.add_argument('--data', choices=('random', 'config'), default='random')
  train.add_argument('--precision', choices=PRECISIONS, default='default')
  train.add_argument('--out', type=os.path.expanduser, metavar='FILE', help='JSON')
  images = benches.add_parser(
    'images', help='the step of a codec that trains on each image',
    allow_abbrev=False,
    usage='bench.py images --config=FILE[:ARG] [--config.KEY=VALUE ...] [options]',
  )  # fmt: skip
  images.add_argument('--steps', type=_parse_count, default=20, help='to time')
  images.add_argument(
    '--size', type=_parse_size, default=(768, 512), help='WIDTHxHEIGHT'
  )
  images.add_argument('--count', type=_parse_count, default=1, help='images at once')
  images.add_argument('--out', type=os.path.expanduser, metavar='FILE', help='JSON')
  decode = benches.add_parser(
    'decode', help='the time of decoding files', allow_abbrev=False
  )
  decode.add_argument('files', type=os.path.expanduser, metavar='FILE.cdx', nargs='+')
  decode.add_argument('--times', type=_parse_count, default=9, help='each (default: 9)')
  decode.add_argument('--out', type=os.path.expanduser, metavar='FILE', help='JSON')
  of_layers = benches.add_parser(
    'activations', help='activations behind a convolution', allow_abbrev=False
  )
  of_layers.add_argument('--channels', type=_parse_count, default=32, help='in and out')
  of_layers.add_argument(
    '--size', type=_parse_size, default=(64, 64), help='WIDTHxHEIGHT'
  )
  of_layers.add_argument('--count', type=_parse_count, default=8, help='images at once')
  of_layers.add_argument('--only', metavar='NAME', action='append', help='repeatable')
  of_layers.add_argument('--times', type=_parse_count, default=9, help='each')
  of_layers.add_argument('--out', type=os.path.expanduser, metavar='FILE', help='JSON')
  of_kan = benches.add_parser(
    'kan', help='KAN layers, dense layers and peers', allow_abbrev=False
  )
  of_kan.add_argument(
    '--shape', type=_parse_size, default=(512, 512), help='INPUTSxOUTPUTS'
  )
  of_kan.add_argument('--grid', type=_parse_count, default=8, help='intervals')
  of_kan.add_argument('--batch', type=_parse_count, default=256, help='samples')
  of_kan.add_argument('--only', metavar='NAME', action='append', help='repeatable')
  of_kan.add_argument('--times', type=_parse_count, default=20, help='each')
  of_kan.add_argument('--out', type=os.path.expanduser, metavar='FILE', help='JSON')
  return parser.parse_known_args(argv)


def _parse_count(text: str) -> int:
  """Parses a whole number above 0."""
  if not text.isascii() or not text.isdigit() or int(text) < 1:
    raise argparse.ArgumentTypeError(f'{text!r} is not a number of 1 or more')
  return int(text)


def _parse_size(text: str) -> tuple[int, int]:
  """Parses WIDTHxHEIGHT."""
  found = re.fullmatch(r'([1-9][0-9]{0,4})x([1-9][0-9]{0,4})', text)
  if not found:
    raise argparse.ArgumentTypeError(f'{text!r} is not a size such as 768x512')
  return int(found[1]), int(found[2])


def main(argv: list[str] | None = None) -> int:
  argv = sys.argv[1:] if argv is None else argv
  args, rest = parse(argv)
  args.out = args.out and store.check_output(args.out, getattr(args, 'files', ()))
  parsed = None
  if args.bench in CONFIGURED:
    parsed = flags.parse(['bench.py', *rest])
    if parsed is None:
      return 0
  elif rest:
    raise errors.CodaxError(f'bench.py {args.bench} does not know {" ".join(rest)}')
  found = BENCHES[args.bench](parsed and parsed.config, args)
  context = {
    'command': 'python launch/bench.py ' + shlex.join(argv),
    **provenance.source(),
    'load_average': os.getloadavg()[0] if hasattr(os, 'getloadavg') else None,
  }
  for name, value in found.items():
    if isinstance(value, list):  # of several settings, a line each
      for row in value:
        print(', '.join(f'{_label(key)} {_format(key, x)}'
                        for key, x in row.items()))  # fmt: skip
    else:
      print(f'{_label(name):20s}{_format(name, value)}')
  if context['load_average'] is not None:
    print(f'{"load average":20s}{context["load_average"]:.1f}')
  if args.out:
    store.save(args.out, KINDS[args.bench], {**context, **found})
  return 0


def _label(name: str) -> str:
  """Makes words of the name of a number; stored results keep an older one."""
  return (
    name.replace('_', ' ').replace('a picture', 'an image').replace('picture', 'image')
  )


def _format(name: str, value: Any) -> str:
  """Formats a number of the report."""
  if value is None:
    return 'unknown'
  if name in SHARES:
    return f'{100 * value:.1f} %'
  return f'{value:.4g}' if isinstance(value, float) else str(value)


def bench_train(config: Any, args: argparse.Namespace) -> dict[str, Any]:
  """Measures the training step; every time is of this machine as busy as it is now."""
  import jax

  family = families.family(config.get('family'))
  precision = None if args.precision == 'default' else args.precision
  with jax.default_matmul_precision(precision):
    alone, timing, about = _measure(config, family, args)
  seconds = 1 / timing['steps_per_s']
  rate = alone['flops'] / seconds
  kind, count = jax.devices()[0].device_kind, jax.device_count()
  peak = peak_flops(kind, args.precision)
  return {
    'devices': f'{count} x {kind}',
    'precision': args.precision,
    **about,
    'compile_s': alone['compile_s'],
    'images_per_s': timing['images_per_s'],
    'step_ms': 1e3 * seconds,
    'compiled_step_ms': 1e3 * alone['step_s'],
    'outside_the_step': max(0.0, 1 - alone['step_s'] / seconds),
    'input_wait': timing['input_wait'],
    'flops_per_step': alone['flops'],
    'flops_per_s': rate,
    'fraction_of_peak': peak and rate / (peak * count),
  }


def _measure(
  config: Any, family: Any, args: argparse.Namespace
) -> tuple[dict, dict, dict]:
  """Measures a step alone and in the loop; returns both and a description."""
  from codax.data import pipeline
  from codax.training import loop

  with tempfile.TemporaryDirectory(prefix='codax_bench_') as folder:
    if args.data == 'random':
      step_times.write_random_images(config.data, Path(folder) / 'images')
    batch_size = pipeline.settings(config.data)['batch_size']
    pipe = pipeline.make(config.data, config.seed)
    task = families.entry(family, 'task').make(config)
    alone = step_times.time_step(task, pipe, config.seed, args.steps)
    call = min(config.get('steps_per_call', 1), max(1, args.steps // 4))
    steps = -(-args.steps // call) * call
    # The first dispatch compiles, and the loop leaves it out of its times.
    settings = config.to_dict() | {
      'total_steps': call + steps, 'steps_per_call': call, 'log_every': call + steps,
      'max_seconds': 0.0,
    }  # fmt: skip
    loop.train(task, pipe, [], settings, Path(folder) / 'run')
    timing = (Path(folder) / 'run' / 'timing.jsonl').read_text().splitlines()[-1]
  about = {
    'data': f'{args.data}, {"on the device" if pipe.sample else "from the host"}',
    'batch': f'{batch_size} of {config.data.crop} x {config.data.crop}',
    'steps_timed': steps,
  }
  return alone, json.loads(timing), about


def bench_images(config: Any, args: argparse.Namespace) -> dict[str, Any]:
  """Measures the step of a codec that trains on each image."""
  import jax

  from codax.data import pipeline

  family = families.family(config.get('family'))
  if family.kind != 'per_image':
    valid = [f.name for f in families.FAMILIES.values() if f.kind == 'per_image']
    raise errors.CodaxError(
      f'family {family.name!r} does not train on each image; valid: {", ".join(valid)}'
    )
  width, height = args.size
  count, kind = jax.device_count(), jax.devices()[0].device_kind
  about = {
    'devices': f'{count} x {kind}',
    'pictures': f'{args.count} of {width} x {height}',
  }
  if 'bench' in family.entries:  # fits by a loop of its own
    own = families.entry(family, 'bench')
    return about | own.step_times(config, (height, width), args.count, args.steps)
  task = families.entry(family, 'task').make(config)
  rng = np.random.default_rng(0)
  batch = {
    'image': rng.integers(0, 256, (args.count, height, width, 3), np.uint8),
    'lmbda': np.full(args.count, 1e-3, np.float32),
  }
  pipe = pipeline.Pipeline(batch, lambda data, rng: data, None, None)
  alone = step_times.time_step(task, pipe, config.seed, args.steps)
  rate = alone['flops'] / alone['step_s']
  peak = peak_flops(kind, 'default')
  return about | {
    'steps_timed': args.steps,
    'compile_s': alone['compile_s'],
    'step_ms': 1e3 * alone['step_s'],
    'step_ms_a_picture': 1e3 * alone['step_s'] / args.count,
    'flops_per_step': alone['flops'],
    'flops_per_s': rate,
    'fraction_of_peak': peak and rate / (peak * count),
  }


def bench_decode(_: Any, args: argparse.Namespace) -> dict[str, Any]:
  """Measures the time of decoding files."""
  held, decoders, sizes = zip(*inputs.open_coded(args.files))
  times = []
  for _ in range(args.times):
    for decode, data in zip(decoders, held):
      begin = time.perf_counter()
      decode(data)
      times.append(time.perf_counter() - begin)
  least = np.reshape(times, (args.times, -1)).min(0)
  rows = [
    {
      'file': Path(path).name, 'size': f'{width} x {height}', 'bytes': len(data),
      'decode_ms': 1e3 * seconds, 'decode_us_a_pixel': 1e6 * seconds / (height * width),
    }
    for path, data, (height, width), seconds in zip(
      args.files, held, sizes, least.tolist()
    )
  ]  # fmt: skip
  return {'times': args.times, 'decoded': rows}


def bench_activations(_: Any, args: argparse.Namespace) -> dict[str, Any]:
  """Measures activations behind a convolution."""
  from codax.layers.activations import bench

  width, height = args.size
  problem = args.channels, (height, width), args.count, args.times
  return bench.layer_times(*problem, args.only)


def bench_kan(_: Any, args: argparse.Namespace) -> dict[str, Any]:
  """Measures KAN layers beside dense ones and peers."""
  from codax.layers import kan_bench

  return kan_bench.measure_layers(
    args.shape, args.grid, args.batch, args.times, args.only
  )


KINDS = {
  'train': 'train_times', 'images': 'step_times', 'decode': 'decode_times',
  'activations': 'activation_times', 'kan': 'layer_times',
}  # fmt: skip
BENCHES = {
  'train': bench_train, 'images': bench_images, 'decode': bench_decode,
  'activations': bench_activations, 'kan': bench_kan,
}  # fmt: skip
CONFIGURED = ('train', 'images')  # benches of a configuration


if __name__ == '__main__':
  # The compiler's time is measured: nothing may come from a disk.
  os.environ['JAX_ENABLE_COMPILATION_CACHE'] = 'false'
  signals.end_process(errors.exit_status(main))
