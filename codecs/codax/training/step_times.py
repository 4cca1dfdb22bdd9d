"""Times of compiled training steps, for ``launch/bench.py``."""

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

RANDOM_IMAGES = 8


def write_random_images(data: Any, folder: Path) -> None:
  """Writes random images and points `config.data` at them."""
  from PIL import Image

  from codax.data.defaults import SOURCE_DEFAULTS

  folder.mkdir()
  rng = np.random.default_rng(0)
  side = 2 * data.crop  # half of it, for data.scales, is a whole crop
  for i in range(RANDOM_IMAGES):
    pixels = rng.integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(folder / f'{i}.png')
  data.update(SOURCE_DEFAULTS)
  data.update({'name': 'folder', 'path': str(folder), 'test_fraction': 0.0})


def time_step(task: Any, pipe: Any, seed: int, steps: int) -> dict[str, float]:
  """Measures the compiled step alone: its compilation, its seconds and its FLOPs.

  The program is that of the loop: sampling, where images live on the device, and the
  task's step, its state donated. Each call is waited for; the median counts.
  """
  import jax

  from codax.training import dispatch
  from codax.training import mesh as mesh_lib

  mesh = mesh_lib.make()
  everywhere = mesh_lib.replicated(mesh)
  key, sample = jax.random.key(seed), dispatch.make_sampler(pipe)
  if pipe.sample is None:
    data = mesh_lib.put_local(pipe.host_batch(0, 0, 1), mesh, axis=0)
  else:
    data = mesh_lib.put_replicated(pipe.arrays, mesh)

  def batch_of(data, index):
    if pipe.sample is None:
      return data
    return sample(data, jax.random.fold_in(key, index), index)

  def init(data):
    return task.init(key, batch_of(data, 0))

  def step(state, data, index):
    batch = mesh_lib.constrain(batch_of(data, index), mesh)
    return task.train_step(state, batch, jax.random.fold_in(key, index))

  state = jax.jit(init, out_shardings=everywhere)(data)
  state = jax.tree.map(jax.numpy.copy, state)  # no buffer may be donated twice
  jitted = jax.jit(step, donate_argnums=0, out_shardings=everywhere)
  lowered = jitted.lower(state, data, np.int32(0))
  begin = time.perf_counter()
  compiled = lowered.compile()
  compile_s = time.perf_counter() - begin
  analysis = compiled.cost_analysis() or {}
  if isinstance(analysis, list):  # one for each device in older versions of jax
    analysis = analysis[0]
  seconds = []
  for i in tqdm(range(steps + 1), unit='step', disable=None):
    begin = time.perf_counter()
    state, metrics = compiled(state, data, np.int32(i))
    jax.block_until_ready((state, metrics))
    seconds.append(time.perf_counter() - begin)
  return {
    'compile_s': compile_s,
    'step_s': statistics.median(seconds[1:]),  # the first call also warms up
    'flops': float(analysis.get('flops', 0.0)) * mesh.size,
  }
