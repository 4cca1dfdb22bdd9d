"""The overfitted codec for ``launch/train.py``: the data set is what it encodes.

Images of one shape, each with every lambda, are one bucket: one program, one training
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
from codax.data import pipeline
from codax.data.images import load_images
from codax.errors import CodaxError, unknown
from codax.layers.kan_spec import Spec
from codax.overfit import (
  divergence,
  encode,
  model,
  network_init,
  q_step_search,
  report,
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


def arch_of(config: Mapping[str, Any]) -> archs.Arch:
  """The checked shape of ``config.arch``."""
  given = dict(config['arch'].items())
  for key in given:
    if key not in archs.Arch._fields:
      raise unknown('config key', f'arch.{key}', archs.Arch._fields)
  for key in ('synthesis_kan', 'entropy_kan'):
    if given.get(key) is not None:
      spec = dict(given[key].items())
      for name in spec:
        if name not in Spec._fields:
          raise unknown('config key', f'arch.{key}.{name}', Spec._fields)
      given[key] = Spec(**spec)
  return archs.check(archs.Arch(**given))


def recipe_of(config: Mapping[str, Any]) -> train.Recipe:
  """The checked recipe of ``config.recipe``."""
  given = dict(config['recipe'].items())
  for key, value in given.items():
    if key not in train.Recipe._fields:
      raise unknown('config key', f'recipe.{key}', train.Recipe._fields)
    given[key] = tuple(value) if isinstance(value, tuple | list) else value
    if key in train.CHOICES:
      if value not in train.CHOICES[key]:
        raise unknown(f'config.recipe.{key}', value, train.CHOICES[key])
    elif not all(x >= 0 for x in np.ravel(value)):
      raise CodaxError(f'config.recipe.{key} = {value} must be 0 or more')
  made = train.Recipe(**given)
  for key in ('temperature', 'noise'):
    ends = getattr(made, key)
    if np.shape(ends) != (2,) or (key == 'temperature' and not min(ends) > 0):
      raise CodaxError(f'config.recipe.{key} = {ends} must be two numbers, of start '
                       'and end; temperatures are above 0')  # fmt: skip
  if not isinstance(made.refresh, int) or made.refresh < 1:
    raise CodaxError(f'config.recipe.refresh is {made.refresh}; valid: 1 or more')
  if made.law == 'kumaraswamy' and min(made.noise) < 1:
    raise CodaxError(f'config.recipe.noise = {made.noise} must be 1 or more for it')
  return made


def length_of(config: Mapping[str, Any]) -> train.Length:
  """Steps of the stages: ``total_steps``, of which the last ``hard_steps``."""
  total, second = config['total_steps'], config['hard_steps']
  if not 0 <= second <= total:
    raise CodaxError(f'config.hard_steps is {second}; valid: 0 to total_steps, {total}')
  return train.Length(total - second, second)


def make(config: Mapping[str, Any], begun: train.State | None = None) -> Task:
  """The task of one group of pictures.

  A batch is a dict: 'image' uint8 [P, H, W, C] and 'lmbda' float32 [P].

  Args:
    config: see `defaults`.
    begun: what training starts from, if that is not to be made here.
  """
  arch, recipe, length = arch_of(config), recipe_of(config), length_of(config)

  def targets(batch):
    return batch['image'].astype(jnp.float32) / 255

  def train_step(before, batch, rng):
    ends = jnp.int32(length.first), jnp.int32(length.second)
    state, metrics = train.step(
      arch, recipe, ends, before, targets(batch), batch['lmbda'], rng
    )
    state, metrics = divergence.guard(before, state, metrics, targets(batch))
    undone = (state.undone > before.undone).sum()
    return state, {k: v.mean() for k, v in metrics.items()} | {'undone': undone}

  def rounded(params, batch):
    shapes = archs.grid_shapes(arch, *batch['image'].shape[1:3])
    return model.split(train.hard(params['latents']), shapes)

  def images(state, batch):
    shapes = archs.grid_shapes(arch, *batch['image'].shape[1:3])
    grids = jax.vmap(lambda flat: model.split(train.hard(flat), shapes))(
      state.params['latents']
    )
    y = model.synthesise_many(state.params['synthesis'], arch, grids)
    return jnp.round(jnp.clip(y, 0, 1) * 255).astype(jnp.uint8)

  def eval_step(state, batch):
    error = images(state, batch).astype(jnp.float32) - batch['image'].astype(
      jnp.float32
    )
    mse = jnp.maximum(jnp.mean(error**2, axis=(1, 2, 3)), 1e-9)
    rate = jax.vmap(
      lambda params: model.rate(params['entropy'], arch, rounded(params, batch))
    )(state.params)
    pixels = batch['image'].shape[1] * batch['image'].shape[2]
    return {
      'mse255': mse.mean(),
      'psnr': (10 * jnp.log10(255.0**2 / mse)).mean(),
      'latent_bpp': rate.mean() / pixels,
    }

  def init(rng, batch):
    if begun is not None:
      return begun
    nets = (
      network_init.for_image(arch, batch['image'].shape[1:])
      if config['start']
      else None
    )
    return train.init(rng, arch, recipe, targets(batch), nets)

  return Task(
    init=init,
    train_step=train_step,
    eval_step=eval_step,
    images=lambda state, batch: jnp.concatenate(
      [batch['image'], images(state, batch)], axis=2
    ),
  )


def warmed(config, batch, workdir: Path) -> train.State | None:
  """Where a group begins after its warm-up; None without one, or when it has begun."""
  candidates, steps = warm_up.check(config['candidates'], config['warm_steps'])
  if candidates < 2 or checkpoints.newest(workdir / loop.CHECKPOINTS) is not None:
    return None
  arch, images = arch_of(config), batch['image']
  nets = network_init.for_image(arch, images.shape[1:]) if config['start'] else None
  return warm_up.begin(
    arch, recipe_of(config), jnp.asarray(images, jnp.float32) / 255, batch['lmbda'],
    jax.random.key(config['seed']), nets, candidates, steps,
  )  # fmt: skip


def lmbdas_of(config: Mapping[str, Any]) -> tuple[float, ...]:
  """The checked ``config.lmbdas``."""
  found = tuple(float(x) for x in np.ravel(config['lmbdas']))
  if not found or not all(x > 0 for x in found):
    raise CodaxError(f'config.lmbdas is {config["lmbdas"]}; valid: numbers above 0')
  if len({f'{x:g}' for x in found}) < len(found):  # names of files have six digits
    raise CodaxError(f'config.lmbdas {found} has one twice; valid: different numbers')
  return found


def plan(config: Mapping[str, Any]) -> list[Job]:
  """Returns the files to make: every image with every lambda.

  Raises:
    CodaxError: a bad configuration or image.
  """
  lmbdas = lmbdas_of(config)
  arch_of(config), recipe_of(config), length_of(config)
  warm_up.check(config['candidates'], config['warm_steps'])
  name = lambda image, lmbda: f'{image}_{lmbda:g}' if len(lmbdas) > 1 else image
  return [
    Job(name(found, lmbda), found, image, lmbda)
    for found, image in load_images(config['data'])
    for lmbda in lmbdas
  ]


def fit(config: Mapping[str, Any], jobs: Sequence[Job], session: Session) -> FitOutcome:
  """Trains a bucket; the fits are `encode.Trained`, one a job.

  Problems that are lost begin again with another seed, in a folder of their own.
  """
  folder, begin = session.folder, time.monotonic()
  params, again = None, list(range(len(jobs)))
  for attempt in range(divergence.RESTARTS + 1):
    where = folder / f'again_{attempt}' if attempt else folder
    some = [jobs[i] for i in again]
    result = _loop(config, some, where, attempt, session.seconds_left())
    if result.stopped:
      return FitOutcome(None, time.monotonic() - begin, result.stopped)
    found = jax.device_get(result.state.params)
    params = params or jax.tree.map(np.array, found)
    for whole, part in zip(jax.tree.leaves(params), jax.tree.leaves(found)):
      whole[again] = part
    bad = _lost(config, some, found, np.asarray(result.state.undone))
    again = [again[i] for i in bad]
    if not again:
      break
    logging.warning(
      '%s: training diverged for %s: %s', folder.name,
      ', '.join(f'{jobs[i].image_name} with {jobs[i].settings:g}' for i in again),
      'given up' if attempt == divergence.RESTARTS else
      f'again with seed {config["seed"] + attempt + 1}',
    )  # fmt: skip
  seconds, steps = _seconds(config, folder, begin), config['total_steps']
  each = [jax.tree.map(lambda x, i=i: x[i], params) for i in range(len(jobs))]
  fits = [
    encode.Trained(mine, job.settings, steps, seconds, None)
    for mine, job in zip(each, jobs, strict=True)
  ]
  return FitOutcome(fits, seconds)


def _loop(config, jobs, folder: Path, attempt: int, seconds: float):
  """Calls `loop.train` for some jobs; every attempt has its own seed, and those after
  the first begin with random networks."""
  changed = {
    'max_seconds': seconds,
    'seed': config['seed'] + attempt,
    'start': config['start'] and not attempt,
  }
  images = np.stack([job.image for job in jobs])
  batch = {'image': images, 'lmbda': np.array([j.settings for j in jobs], np.float32)}
  feed = pipeline.Pipeline(batch, lambda data, rng: data, None, None)
  mine = {**config, **changed}
  task = make(mine, warmed(mine, batch, folder))
  # Devices share problems evenly, so there may be fewer of them than there are.
  devices = math.gcd(len(jobs), jax.device_count())
  kept = settings.plain(config) | changed
  return loop.train(task, feed, [batch], kept, folder, devices)


def _lost(config, jobs, params, undone) -> list[int]:
  """Returns the indices of jobs whose training came to nothing."""
  arch, total, out = arch_of(config), config['total_steps'], []
  for i, job in enumerate(jobs):
    target = job.image.astype(np.float32) / 255
    shapes = archs.grid_shapes(arch, *job.image.shape[:2])
    grids = model.split(np.asarray(train.hard(params['latents'][i])), shapes)
    net = jax.tree.map(lambda x, i=i: x[i], params['synthesis'])
    mse = q_step_search.measure('synthesis', arch, net, grids, target)
    if divergence.lost(mse, int(undone[i]), total, target):
      out.append(i)
    elif undone[i]:
      logging.warning('%s: %d of %d steps were undone, as they led to no numbers',
                      job.image_name, undone[i], total)  # fmt: skip
  return out


def _seconds(config, folder: Path, begin: float) -> float:
  """Returns the time of a bucket's steps, those before a stop included."""
  lines = writers.read(folder / writers.TIMING)
  rates = [line['steps_per_s'] for line in lines if 'steps_per_s' in line]
  if not rates:  # too short a training to be timed: compilation is in it
    return time.monotonic() - begin
  return config['total_steps'] / float(np.median(rates))


def pack(
  fits: Sequence[encode.Trained],
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Returns fits as named arrays and facts.

  A training state has three float32 numbers for each latent. Files need the latents
  rounded, and the networks.
  """
  arrays: dict[str, np.ndarray] = {}
  about = []
  for i, trained in enumerate(fits):
    params = trained.params
    for module in archs.MODULES:
      for name, value in params[module].items():
        arrays[f'{i}/{module}/{name}'] = np.asarray(value, np.float32)
    hard = np.asarray(jax.device_get(train.hard(params['latents'])), np.int16)
    # Nine in ten are zero.
    packed = zlib.compress(hard.astype('<i2').tobytes(), 6)
    arrays[f'{i}/{_LATENTS}'] = np.frombuffer(packed, np.uint8)
    facts = {'lmbda': trained.lmbda, 'steps': trained.steps}
    facts |= {'seconds': trained.seconds, 'latents': list(hard.shape)}
    about.append(facts)
  return arrays, {'fits': about}


def unpack(
  arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]
) -> list[encode.Trained]:
  """Inverts `pack`, up to the rounding of latents."""
  fits = []
  for i, about in enumerate(facts['fits']):
    try:
      raw = zlib.decompress(arrays[f'{i}/{_LATENTS}'].tobytes())
    except zlib.error as e:
      raise ValueError(f'latents of fit {i}: {e}') from e
    hard = np.frombuffer(raw, '<i2').reshape(about['latents'])
    params: dict[str, Any] = {module: {} for module in archs.MODULES}
    for key, value in arrays.items():
      index, _, rest = key.partition('/')
      if index == str(i) and rest != _LATENTS:
        module, name = rest.split('/')
        params[module][name] = value
    params['latents'] = hard.astype(np.float32) / np.float32(model.LATENT_GAIN)
    seconds = float(about['seconds'])
    fits.append(encode.Trained(params, about['lmbda'], about['steps'], seconds, None))
  return fits


def write(
  config: Mapping[str, Any], job: Job, fit: encode.Trained, session: Session
) -> Encoded:
  """Encodes an image from what training made of it."""
  del session
  arch, refined = arch_of(config), config['refine']
  (encoded,) = encode.write(job.image, arch, fit, refined=refined)
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
