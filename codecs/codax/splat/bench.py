"""Measures the time and memory of steps of fitting, for ``launch/bench.py``."""

import statistics
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from codax.splat import binning, counts, fit, qat_inputs, step, task
from codax.splat.fit_config import FitConfig, to_program_config
from codax.splat.target import make_target
from codax.training import memory

_FALL = 1.2  # amplitudes fall with frequency to this power, as those of photographs
_MIB = 2**20


def make_smooth_image(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
  """Returns a random image with the spectrum of photographs, uint8 [H, W, 3]."""
  rows, columns = np.fft.fftfreq(height), np.fft.rfftfreq(width)
  frequency = np.hypot(rows[:, None], columns[None, :])
  frequency[0, 0] = np.inf  # the mean is set below
  spectrum = np.fft.rfft2(rng.normal(size=(3, height, width)))
  out = np.fft.irfft2(spectrum * frequency**-_FALL, (height, width))
  out = out / np.maximum(out.std((1, 2), keepdims=True), 1e-9)
  return np.clip(128 + 48 * out, 0, 255).astype(np.uint8).transpose(1, 2, 0)


def step_times(
  config: Mapping[str, Any], size: tuple[int, int], num_images: int, steps: int
) -> dict[str, Any]:
  """Times the steps of fits as `fit.run` makes them, binning included.

  All Gaussians exist, at their seeded positions. Compilation is timed by itself.

  Args:
    config: see `defaults`; each of its `counts` (or `bpps`) is timed.
    size: (height, width) of the images.
    num_images: number of images in one program.
    steps: steps to time, rounded up to whole calls of `recipe.rebin_every` steps.

  Returns:
    JSON-able; 'fits' has a dict for each number of Gaussians: 'gaussians', 'pairs' of a
    tile and a Gaussian (largest over the images), 'step_ms' of all images together,
    'step_ms_a_picture', 'quantised_step_ms' of steps that quantize, 'compile_s', and
    'program_mib', the memory of the compiled program with its arguments.
  """
  images = [
    make_smooth_image(np.random.default_rng(i), *size) for i in range(num_images)
  ]
  plans = task.make_plans(config)
  recipe = task.parse_recipe(config)
  calls = -(-steps // recipe.rebin_every)
  fits = []
  with tqdm(total=2 * len(plans), unit='program', disable=None) as bar:
    for plan in plans.values():
      count = counts.choose_count(images[0], plan)
      plain = _time_program(images, count, recipe, calls, False)
      bar.update()
      rounding = _time_program(images, count, recipe, calls, True)
      bar.update()
      fits.append(
        {
          'gaussians': count,
          **plain,
          'step_ms_a_picture': plain['step_ms'] / num_images,
          'quantised_step_ms': rounding['step_ms'],
        }
      )
  return {'steps_timed': calls * recipe.rebin_every, 'listed_every': recipe.rebin_every,
          'fits': fits, **_measure_memory()}  # fmt: skip


def _time_program(
  images, count: int, recipe: FitConfig, calls: int, is_quantizing: bool
) -> dict:
  """Times one program: a call to warm up, then `calls` calls."""
  recipe = recipe._replace(initial_fraction=1.0)  # all from the start
  fits = [fit.init_fit(make_target(x), count, recipe, 0) for x in images]
  sizes, capacity, programs, seconds = [x.shape[:2] for x in images], None, {}, []
  steps = np.int32(4 * recipe.rebin_every), np.int32(recipe.rebin_every)
  targets, shared = tuple(one.tiled for one in fits), to_program_config(recipe)
  for call in range(calls + 1):
    begin = time.perf_counter()
    many = [one.state.gaussians for one in fits]
    lists, capacity = binning.bin_images(
      many, sizes, recipe, recipe.bin_margin, capacity
    )
    qat = qat_inputs.make(fits) if is_quantizing else None
    args = tuple(one.state for one in fits), targets, lists, *steps
    jax.block_until_ready(lists)
    binning_s = time.perf_counter() - begin
    if capacity not in programs:
      programs[capacity] = _compile(*args, shared, qat)
    program, compile_s, mib = programs[capacity]
    begin = time.perf_counter()
    states, mse = program(*args, qat=qat)
    jax.block_until_ready((states, mse))
    if call:
      seconds.append(binning_s + time.perf_counter() - begin)
    fits = [one._replace(state=state) for one, state in zip(fits, states, strict=True)]
  return {
    'pairs': max(int(each.pairs) for each in lists),
    'step_ms': 1e3 * statistics.median(seconds) / recipe.rebin_every,
    'compile_s': compile_s,
    'program_mib': mib,
  }


def _compile(*args):
  """Compiles `step.advance` for the given arguments, the last by its name.

  Returns:
    The program; seconds to compile it; its memory in MiB.
  """
  *others, qat = args
  lowered = step.advance.lower(*others, qat=qat)
  begin = time.perf_counter()
  program = lowered.compile()
  seconds = time.perf_counter() - begin
  return program, seconds, memory.measure_program(program).total


def _measure_memory() -> dict[str, float | None]:
  """Returns peak memory of the process and of the first device (None: unknown)."""
  try:
    import resource  # not on Windows

    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  except ImportError:
    resident = None
  held = jax.devices()[0].memory_stats() or {}
  peak = held.get('peak_bytes_in_use')
  return {'peak_rss_mib': resident, 'peak_device_mib': peak and peak / _MIB}
