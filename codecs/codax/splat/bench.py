"""What a step of fitting costs here: time and memory, for ``launch/bench.py``."""

import statistics
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from codax.splat import binning, counts, fit, step, task
from codax.splat.recipe import Recipe, of_program
from codax.splat.target import make_target

_FALL = 1.2  # amplitudes fall with frequency to this power, as those of photographs
_MIB = 2**20


def smooth(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """A random picture with the spectrum of photographs, uint8 [height, width, 3]."""
  rows, columns = np.fft.fftfreq(height), np.fft.rfftfreq(width)
  frequency = np.hypot(rows[:, None], columns[None, :])
  frequency[0, 0] = np.inf  # the mean is set below
  spectrum = np.fft.rfft2(rng.normal(size=(3, height, width)))
  out = np.fft.irfft2(spectrum * frequency**-_FALL, (height, width))
  out = out / np.maximum(out.std((1, 2), keepdims=True), 1e-9)
  return np.clip(128 + 48 * out, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def step_times(
  config: Mapping[str, Any], size: tuple[int, int], pictures: int, steps: int
) -> dict[str, Any]:
  """Times the steps of fits as `fit.run` makes them: lists every `recipe.every` steps.

  All Gaussians are there, where the codec's seeding puts them. Compilation is timed by
  itself.

  Args:
    config: see `defaults`; every one of its `counts` (or `bpps`) is timed.
    size: (height, width) of the pictures.
    pictures: how many in one program.
    steps: to time, rounded up to whole calls of `recipe.every` steps.

  Returns:
    JSON-able; 'fits' has a dict for each number of Gaussians: 'gaussians', 'pairs' of a
    tile and a Gaussian (of the picture with most), 'step_ms' of all pictures together,
    'step_ms_a_picture', 'quantised_step_ms' of steps that quantise, 'compile_s', and
    'program_mib', what the compiled program needs, its arguments among it.
  """
  images = [smooth(np.random.default_rng(i), *size) for i in range(pictures)]
  plans = task.plans(config)
  recipe = task.recipe_of(config)
  calls = -(-steps // recipe.every)
  fits = []
  with tqdm(total=2 * len(plans), unit='program', disable=None) as bar:
    for plan in plans.values():
      count = counts.first(images[0], plan)
      plain = _time(images, count, recipe, calls, False)
      bar.update()
      rounding = _time(images, count, recipe, calls, True)
      bar.update()
      fits.append(
        {
          'gaussians': count,
          **plain,
          'step_ms_a_picture': plain['step_ms'] / pictures,
          'quantised_step_ms': rounding['step_ms'],
        }
      )
  return {'steps_timed': calls * recipe.every, 'listed_every': recipe.every,
          'fits': fits, **_memory()}  # fmt: skip


def _time(images, count: int, recipe: Recipe, calls: int, quantising: bool) -> dict:
  """One program: a call to settle, then as many as are timed."""
  recipe = recipe._replace(first=1.0)  # all from the start
  fits = [fit.seeded(make_target(x), count, recipe, 0) for x in images]
  size, room, programs, seconds = images[0].shape[:2], None, {}, []
  targets = tuple(jnp.asarray(one.target.pixels) for one in fits)
  for call in range(calls + 1):
    begin = time.perf_counter()
    room = binning.room_for([one.state.gaussians for one in fits], size, recipe, room)
    qat = fit.make_qat_inputs(fits) if quantising else None
    args = tuple(one.state for one in fits), targets, jnp.int32(4 * recipe.every)
    listed = time.perf_counter() - begin
    if room not in programs:
      programs[room] = _compiled(*args, of_program(recipe), room, qat)
    program, compile_s, mib = programs[room]
    begin = time.perf_counter()
    states, metrics = program(*args, qat)
    jax.block_until_ready((states, metrics))
    if call:
      seconds.append(listed + time.perf_counter() - begin)
    fits = [one._replace(state=state) for one, state in zip(fits, states, strict=True)]
  gaussians = [one.state.gaussians for one in fits]
  return {
    'pairs': binning.most_pairs(gaussians, size, recipe),
    'step_ms': 1e3 * statistics.median(seconds) / recipe.every,
    'compile_s': compile_s,
    'program_mib': mib,
  }


def _compiled(*args):
  """`step.advance` for such arguments.

  Returns:
    The program; seconds to compile it; MiB that it needs.
  """
  lowered = step.advance.lower(*args)
  begin = time.perf_counter()
  program = lowered.compile()
  seconds, memory = time.perf_counter() - begin, program.memory_analysis()
  parts = ('argument', 'output', 'temp')
  used = sum(getattr(memory, f'{x}_size_in_bytes', 0) for x in parts)
  used -= getattr(memory, 'alias_size_in_bytes', 0)
  return program, seconds, used / _MIB


def _memory() -> dict[str, float | None]:
  """The most memory so far, of the process and of the first device (None: unknown)."""
  try:
    import resource  # not on Windows

    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  except ImportError:
    resident = None
  held = jax.devices()[0].memory_stats() or {}
  peak = held.get('peak_bytes_in_use')
  return {'peak_rss_mib': resident, 'peak_device_mib': peak and peak / _MIB}
