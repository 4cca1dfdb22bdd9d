"""Measures the memory of a training step of each configuration, without running it.

  python launch/studies/memory.py --out=results/memory.json
  python launch/studies/memory.py --only=configs/vae_bezier.py:codec

Every step is compiled for the device at hand, its state donated as in training, and XLA
counts arguments, results and temporaries. Nothing is trained, no data set is read and
no array is made, so that a small machine can measure large models; each compilation
takes seconds to a minute. Counts are those of the device: other ones have routines with
more temporaries or fewer.

`splat` has its own measurement, as its programs depend on the number of Gaussians:
``launch/bench.py images --config=configs/splat.py``.
"""

import os
import shlex
import sys
from pathlib import Path
from typing import Any

from codax import signals

signals.guard_imports(__name__)

from codax import console, errors, families, provenance
from codax.reports import store, sweep_tables
from codax.training import flags

ROOT = Path(__file__).parents[2]
IMAGE = 768, 512  # width and height for codecs that train on each image: Kodak's
CONFIGS = (
  'configs/vqvae_ba.py',
  'configs/vqvae_ba.py:cifar10',
  'configs/vqvae_ema.py:cifar10',
  'configs/vae_bezier.py',
  'configs/vae_bezier.py:codec',
  'configs/vae_bezier.py:reference',
  'configs/rapid_kan.py:variant=rapid_kan_lite',
  'configs/rapid_kan.py:variant=rapid_kan',
  'configs/rapid_kan.py:variant=rapid_kan_power',
  'configs/overfit_mlp.py',
  'configs/overfit_mlp.py:medium',
  'configs/overfit_kan.py',
  'configs/overfit_pwl.py',
)


def describe_batch(config: Any, per_image: bool) -> tuple[int, int, int]:
  """Returns the number of images in a program, and their height and width."""
  if per_image:
    return 1, IMAGE[1], IMAGE[0]
  return config.data.batch_size, config.data.crop, config.data.crop


def make_batch(family: families.Family, shape: tuple[int, int, int]) -> dict[str, Any]:
  """Makes the types and shapes of a batch."""
  import jax
  import numpy as np

  batch = {'image': jax.ShapeDtypeStruct((*shape, 3), np.uint8)}
  if family.kind == 'per_image':
    batch['lmbda'] = jax.ShapeDtypeStruct(shape[:1], np.float32)
  if family.kind == 'model':
    batch['label'] = jax.ShapeDtypeStruct(shape[:1], np.int32)
  return batch


def measure(config: Any, name: str) -> dict[str, Any]:
  """Compiles the training step of a configuration and measures its memory.

  Args:
    config: the whole configuration.
    name: its file and argument, for the row.
  """
  import jax
  import numpy as np

  from codax.training import memory

  family = families.family(config.family)
  task = families.entry(family, 'task').make(config)
  count, height, width = describe_batch(config, family.kind == 'per_image')
  batch = make_batch(family, (count, height, width))
  first = make_batch(family, (count * task.init_batches, height, width))
  key = jax.random.key(0)
  state = jax.eval_shape(lambda first: task.init(key, first), first)

  def step(state: Any, batch: Any, index: Any) -> tuple[Any, Any]:
    return task.train_step(state, batch, jax.random.fold_in(key, index))

  index = jax.ShapeDtypeStruct((), np.int32)
  lowered = jax.jit(step, donate_argnums=0).lower(state, batch, index)
  used = memory.measure_program(lowered.compile())
  return {
    'config': name,
    'batch': f'{count} of {width} x {height}',
    'parameters': sum(leaf.size for leaf in jax.tree.leaves(state.params)),
    **{f'{key}_mib': value for key, value in used._asdict().items()},
    'total_mib': used.total,
  }


def main(argv: list[str] | None = None) -> int:
  parser = errors.ArgumentParser(
    description=__doc__.splitlines()[0], allow_abbrev=False
  )
  parser.add_argument('--only', metavar='CONFIG', action='append', help='repeatable')
  parser.add_argument('--out', type=os.path.expanduser, metavar='FILE', help='JSON')
  words = sys.argv[1:] if argv is None else argv
  args = parser.parse_args(words)
  for name in args.only or ():
    if name not in CONFIGS:
      raise errors.unknown('configuration', name, CONFIGS)
  out = args.out and store.check_output(args.out)

  import jax

  rows = []
  for name in args.only or CONFIGS:
    config = flags.parse(['train.py', f'--config={ROOT / name}']).config
    rows.append(measure(config, name))
    console.say(f'{name}: {rows[-1]["total_mib"]:,.0f} MiB', sys.stderr)
  content = {
    'command': 'python launch/studies/memory.py ' + shlex.join(words),
    **provenance.source(),
    'compiled_for': f'one {jax.devices()[0].device_kind.upper()}',
    'steps': rows,
  }
  console.say(sweep_tables.memory([{**content, 'kind': 'memory', 'name': 'memory'}]))
  if out:
    store.save(out, 'memory', content)
  return 0


if __name__ == '__main__':
  # Nothing runs: the machine code need not be fast, and buffers do not depend on it.
  os.environ.setdefault('XLA_FLAGS', '--xla_backend_optimization_level=0')
  signals.end_process(errors.exit_status(main))
