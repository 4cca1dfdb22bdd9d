"""The overfitted codec for ``launch/train.py``: encodes the images of a data set.

Images of one size, each with every lambda, are one bucket: one program, one training
loop, with its checkpoints, metrics and plots. See `per_image.run`.
"""

import math
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from codax.codec import Encoded
from codax.data import checks, pipeline
from codax.data.images import load_images
from codax.overfit import (
  divergence,
  encode,
  events,
  latent_rounding,
  measure,
  model,
  network_init,
  parsing,
  report,
  stages,
  train,
  warm_up,
)
from codax.overfit.format import arch as archs
from codax.overfit.format import container
from codax.per_image.task import FitOutcome, Job, PerImageTask, Session
from codax.training import checkpoints, loop, settings, writers
from codax.training.task import Task

_LATENTS = 'latents.zlib'
_COLUMNS = (
  'lmbda', 'file_bpp', 'psnr', 'float_psnr', 'ssim', 'loss', 'float_loss', 'steps',
  'seconds', 'network_bpp', 'total_macs_per_pixel',
)  # fmt: skip


def make(config: Mapping[str, Any], state: train.State | None = None) -> Task:
  """Makes the task of one bucket of images.

  A batch is a dict: 'image' uint8 [P, H, W, C] and 'lmbda' float32 [P].

  Args:
    config: configuration, see `defaults`.
    state: initial state; None makes one.
  """
  arch, recipe = parsing.parse_arch(config), parsing.parse_recipe(config)
  run = parsing.parse_run(config)
  stage_steps = parsing.stage_steps(run)

  def targets(batch):
    return batch['image'].astype(jnp.float32) / 255

  def init(rng, batch):
    if state is not None:
      return state
    networks = _initial_networks(arch, run, batch['image'].shape[1:])
    return train.init(rng, arch, recipe, targets(batch), networks)

  def train_step(before, batch, rng):
    ends = jnp.int32(stage_steps.noise), jnp.int32(stage_steps.ste)
    after, metrics = train.step(
      arch, recipe, ends, before, targets(batch), batch['lmbda'], rng
    )
    after, metrics = divergence.skip_nonfinite(before, after, metrics, targets(batch))
    skipped = (after.skipped > before.skipped).sum()
    means = {k: v.mean() for k, v in metrics.items()} | {'skipped': skipped}
    return after, means | stages.list_metrics(recipe, ends, before)

  return Task(
    init=init,
    train_step=train_step,
    eval_step=lambda state, batch: _evaluate(arch, state, batch),
    images=lambda state, batch: jnp.concatenate(
      [batch['image'], _decode_state(arch, state, batch)], axis=2
    ),
  )


def _initial_networks(arch: archs.Arch, run, shape: tuple[int, int, int]):
  """Returns pretrained networks for an image shape; None for random ones."""
  return network_init.for_image(arch, shape) if run.pretrained_init else None


def _decode_state(arch: archs.Arch, state: train.State, batch: Any) -> jax.Array:
  """Computes the images of a state's float networks, uint8 [P, H, W, C]."""
  shapes = archs.grid_shapes(arch, *batch['image'].shape[1:3])
  split = lambda flat: model.split(latent_rounding.round_latents(flat), shapes)
  grids = jax.vmap(split)(state.params['latents'])
  y = model.synthesize_many(state.params['synthesis'], arch, grids)
  return jnp.round(jnp.clip(y, 0, 1) * 255).astype(jnp.uint8)


def _evaluate(arch: archs.Arch, state: train.State, batch: Any) -> dict[str, jax.Array]:
  """Computes mean metrics of a state with rounded latents."""
  shapes = archs.grid_shapes(arch, *batch['image'].shape[1:3])
  decoded = _decode_state(arch, state, batch).astype(jnp.float32)
  error = decoded - batch['image'].astype(jnp.float32)
  mse = jnp.maximum(jnp.mean(error**2, axis=(1, 2, 3)), 1e-9)

  def rate(params):
    grids = model.split(latent_rounding.round_latents(params['latents']), shapes)
    return model.rate(params['entropy'], arch, grids)

  pixels = batch['image'].shape[1] * batch['image'].shape[2]
  return {
    'mse255': mse.mean(),
    'psnr': (10 * jnp.log10(255.0**2 / mse)).mean(),
    'latent_bpp': jax.vmap(rate)(state.params).mean() / pixels,
  }


def warm_state(config: Mapping[str, Any], batch: Any, folder: Path):
  """Makes the state of a bucket after its warm-up.

  Returns:
    `train.State`; None without a warm-up, or if the bucket has a checkpoint.
  """
  run = parsing.parse_run(config)
  if run.candidates < 2 or checkpoints.newest(folder / loop.CHECKPOINTS) is not None:
    return None
  arch, images = parsing.parse_arch(config), batch['image']
  return warm_up.init(
    arch, parsing.parse_recipe(config), jnp.asarray(images, jnp.float32) / 255,
    batch['lmbda'], jax.random.key(config['seed']),
    _initial_networks(arch, run, images.shape[1:]), run.candidates, run.warm_steps,
  )  # fmt: skip


def plan(
  config: Mapping[str, Any], pass_over: checks.PassOver = checks.warn
) -> list[Job]:
  """Lists the files to make: every image with every lambda.

  Args:
    config: the whole configuration.
    pass_over: called with each bad image if ``config.data.skip_bad`` is set.

  Raises:
    CodaxError: a bad configuration or image.
  """
  lmbdas = parsing.parse_run(config).lmbdas
  parsing.parse_arch(config), parsing.parse_recipe(config)
  label = lambda name, lmbda: f'{name}_{lmbda:g}' if len(lmbdas) > 1 else name
  return [
    Job(label(name, lmbda), name, image, lmbda)
    for name, image in load_images(config['data'], pass_over)
    for lmbda in lmbdas
  ]


def fit(config: Mapping[str, Any], jobs: Sequence[Job], session: Session) -> FitOutcome:
  """Trains a bucket; the fits are `encode.FitResult`, one a job.

  Problems that fail begin again with another seed, in a folder of their own.
  """
  folder, start = session.folder, time.monotonic()
  params, pending = None, list(range(len(jobs)))
  ends: list[tuple[Any, list[dict[str, Any]]]] = [(None, [])] * len(jobs)
  for attempt in range(divergence.RESTARTS + 1):
    place = folder / f'again_{attempt}' if attempt else folder
    tried = [jobs[i] for i in pending]
    result = _train_jobs(config, tried, place, attempt, session.seconds_left())
    if result.stopped:
      return FitOutcome(None, time.monotonic() - start, result.stopped)
    new = jax.device_get(result.state.params)
    params = params or jax.tree.map(np.array, new)
    for array, rows in zip(jax.tree.leaves(params), jax.tree.leaves(new)):
      array[pending] = rows
    for row, i in enumerate(pending):
      ends[i] = _describe_end(config, result.state, row, place)
    failed = _find_failed(config, tried, new, np.asarray(result.state.skipped))
    pending = [pending[i] for i in failed]
    if not pending:
      break
    logging.warning(
      '%s: training diverged for %s: %s', folder.name,
      ', '.join(f'{jobs[i].image_name} with {jobs[i].settings:g}' for i in pending),
      'given up' if attempt == divergence.RESTARTS else
      f'again with seed {config["seed"] + attempt + 1}',
    )  # fmt: skip
  seconds, steps = _measure_seconds(config, folder, start), config['total_steps']
  row = lambda i: jax.tree.map(lambda x: x[i], params)
  fits = [
    encode.FitResult(row(i), job.settings, steps, seconds, None, *ends[i])
    for i, job in enumerate(jobs)
  ]
  return FitOutcome(fits, seconds)


def _describe_end(config: Any, state: train.State, index: int, folder: Path):
  """Returns facts about the plateau rule of a problem, or None, and its events."""
  stage2 = None
  if state.plateau is not None:
    plateau = jax.device_get(state.plateau.replace(best=None))
    stage2 = stages.describe(plateau, index)
  steps = parsing.stage_steps(parsing.parse_run(config))
  timing = writers.read(folder / writers.TIMING)
  return stage2, events.list_training(timing, steps, stage2)


def _train_jobs(config, jobs, folder: Path, attempt: int, seconds: float):
  """Calls `loop.train` for some jobs.

  Every attempt has its own seed, and those after the first begin at random.
  """
  changed = {
    'max_seconds': seconds,
    'seed': config['seed'] + attempt,
    'pretrained_init': config['pretrained_init'] and not attempt,
  }
  images = np.stack([job.image for job in jobs])
  batch = {'image': images, 'lmbda': np.array([j.settings for j in jobs], np.float32)}
  feed = pipeline.Pipeline(batch, lambda data, rng: data, None, None)
  attempted = {**config, **changed}
  task = make(attempted, warm_state(attempted, batch, folder))
  # Devices share problems evenly, so there may be fewer of them than there are.
  devices = math.gcd(len(jobs), jax.device_count())
  stored = settings.plain(config) | changed
  return loop.train(task, feed, [batch], stored, folder, devices)


def _find_failed(config, jobs, params, skipped) -> list[int]:
  """Returns the indices of jobs whose training failed."""
  arch, total, out = parsing.parse_arch(config), config['total_steps'], []
  for i, job in enumerate(jobs):
    target = job.image.astype(np.float32) / 255
    shapes = archs.grid_shapes(arch, *job.image.shape[:2])
    latents = latent_rounding.round_on_host(params['latents'][i])
    net = jax.tree.map(lambda x, i=i: x[i], params['synthesis'])
    mse = measure.image_mse(arch, net, model.split(latents, shapes), target)
    if divergence.has_failed(mse, int(skipped[i]), total, target):
      out.append(i)
    elif skipped[i]:
      logging.warning('%s: %d of %d steps were undone, as they led to no numbers',
                      job.image_name, skipped[i], total)  # fmt: skip
  return out


def _measure_seconds(config, folder: Path, start: float) -> float:
  """Returns the time of a bucket's steps, those before a stop included."""
  lines = writers.read(folder / writers.TIMING)
  rates = [line['steps_per_s'] for line in lines if 'steps_per_s' in line]
  if not rates:  # too short a training to be timed: compilation is in it
    return time.monotonic() - start
  return config['total_steps'] / float(np.median(rates))


def pack(
  fits: Sequence[encode.FitResult],
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Turns fits into named arrays and facts: networks, and rounded latents."""
  arrays: dict[str, np.ndarray] = {}
  listed = []
  for i, trained in enumerate(fits):
    params = trained.params
    for module in archs.MODULES:
      for name, value in params[module].items():
        arrays[f'{i}/{module}/{name}'] = np.asarray(value, np.float32)
    latents = latent_rounding.round_on_host(params['latents']).astype(np.int16)
    # Nine in ten are zero.
    packed = zlib.compress(latents.astype('<i2').tobytes(), 6)
    arrays[f'{i}/{_LATENTS}'] = np.frombuffer(packed, np.uint8)
    facts = {'lmbda': trained.lmbda, 'steps': trained.steps}
    facts |= {'seconds': trained.seconds, 'latents': list(latents.shape)}
    facts |= {'stage2': trained.stage2, 'events': list(trained.events)}
    listed.append(facts)
  return arrays, {'fits': listed}


def unpack(
  arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]
) -> list[encode.FitResult]:
  """Inverts `pack`, up to the rounding of latents."""
  fits = []
  for i, fit_facts in enumerate(facts['fits']):
    try:
      raw = zlib.decompress(arrays[f'{i}/{_LATENTS}'].tobytes())
    except zlib.error as e:
      raise ValueError(f'latents of fit {i}: {e}') from e
    latents = np.frombuffer(raw, '<i2').reshape(fit_facts['latents'])
    params: dict[str, Any] = {module: {} for module in archs.MODULES}
    for key, value in arrays.items():
      index, _, rest = key.partition('/')
      if index == str(i) and rest != _LATENTS:
        module, name = rest.split('/')
        params[module][name] = value
    params['latents'] = latents.astype(np.float32) / np.float32(model.LATENT_GAIN)
    lmbda, steps = fit_facts['lmbda'], fit_facts['steps']
    seconds = float(fit_facts['seconds'])
    # earlier versions stored neither
    ends = fit_facts.get('stage2'), tuple(fit_facts.get('events', ()))
    fits.append(encode.FitResult(params, lmbda, steps, seconds, None, *ends))
  return fits


def write(
  config: Mapping[str, Any], job: Job, fit: encode.FitResult, session: Session
) -> Encoded:
  """Writes the file of a fit."""
  del session
  arch, run = parsing.parse_arch(config), parsing.parse_run(config)
  (encoded,) = encode.write(job.image, arch, fit, is_joint=run.weight_rounding)
  return encoded


def row_facts(job: Job, details: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the columns of a file's row in the report."""
  return {'lmbda': job.settings, **_network_facts(details)}


def csv_facts(details: Mapping[str, Any]) -> dict[str, Any]:
  """Returns columns of ``metrics.csv`` that the details do not have."""
  found = _network_facts(details)
  return {**found, 'total_macs_per_pixel': found['macs_per_pixel']}


def _network_facts(details: Mapping[str, Any]) -> dict[str, Any]:
  bpp = details['bpp']
  return {
    'network_bpp': bpp['synthesis'] + bpp['entropy'],
    'macs_per_pixel': details['macs_per_pixel']['total'],
  }


PER_IMAGE = PerImageTask(
  plan=plan,
  fit=fit,
  pack=pack,
  unpack=unpack,
  write=write,
  decode=container.decode,
  row_facts=row_facts,
  columns=_COLUMNS,
  csv_facts=csv_facts,
  report=report.markdown,
)
