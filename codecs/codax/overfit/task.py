"""The overfitted codec for the training loop: the data set is the pictures themselves.

`run` is what ``launch/train.py`` calls. Pictures of one shape, each with every lambda,
are one group: one program, one loop, with its checkpoints, metrics and plots. At the
end each picture has its file and its report sheet.
"""

import collections
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from tqdm import tqdm

from codax import files
from codax.data import pipeline
from codax.data.images import pictures
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
  trained,
  warm_up,
)
from codax.overfit.format import arch as archs
from codax.overfit.format import container
from codax.per_image import result
from codax.per_image.result import Finished, Outcome
from codax.training import checkpoints, loop, settings, stopping, writers
from codax.training.task import Task


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
    pictures=lambda state, batch: jnp.concatenate(
      [batch['image'], images(state, batch)], axis=2
    ),
  )


def groups(
  found: list[tuple[str, np.ndarray]], lmbdas: tuple[float, ...], most: int = 0
) -> dict[str, list[tuple[str, np.ndarray, float]]]:
  """Problems (name, picture, lambda) that run together, by a name of the group.

  Args:
    found: (name, uint8 [H, W, 3]).
    lmbdas: each is one for every picture.
    most: problems of a group at most, which memory bounds; 0 is all of one shape.
  """
  shapes = collections.defaultdict(list)
  for name, image in found:
    for lmbda in lmbdas:
      shapes['x'.join(map(str, image.shape[1::-1]))].append((name, image, lmbda))
  out = {}
  for name, problems in shapes.items():
    count = most or len(problems)
    for i in range(0, len(problems), count):
      part = f'{name}_{i // count}' if len(problems) > count else name
      out[part] = problems[i : i + count]
  return out


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


def run(config: Mapping[str, Any], workdir: Path) -> Outcome:
  """Encodes every picture of the configuration's data set with every lambda.

  Args:
    config: see `defaults`.
    workdir: gets a folder for each group's loop, and ``sheets/`` with files and what is
      known of them. The same call goes on with a run that stopped.

  Raises:
    CodaxError: a bad configuration.
  """
  lmbdas, most = lmbdas_of(config), config['at_once']
  if isinstance(most, bool) or not isinstance(most, int) or most < 0:
    raise CodaxError(f'config.at_once is {most}; valid: 0, which is all, or more')
  settings.check_same(config, workdir)
  settings.save(config, workdir)
  found = pictures(config['data'])
  result.check_pictures(found, workdir)
  todo = groups(found, lmbdas, most)
  finished, sources, speeds = [], [], []
  begin = time.monotonic()

  def left() -> float:
    """Seconds for what is yet to be done, as `settings.Settings` has them."""
    limit = config['max_seconds']
    return limit and max(limit - (time.monotonic() - begin), 1e-3)

  with stopping.watch(config['max_seconds']) as reason:
    for name, problems in todo.items():
      folder = workdir / 'groups' / name
      stopped = _train(config, name, problems, folder, left)
      if stopped:
        return Outcome(stopped, [], {})
      speeds += writers.read(folder / writers.TIMING)
    total = sum(map(len, todo.values()))
    with tqdm(total=total, unit='file', disable=None) as bar:
      for name, problems in todo.items():
        group = trained.load(workdir / 'groups' / name / trained.FILE)
        trained.check(group, len(problems), name)
        sources.append({'seconds': group.seconds, **group.source})
        for i, problem in enumerate(problems):
          finished.append(_finish(config, problem, group, i, workdir))
          bar.update()
          stopped = reason()
          if stopped and len(finished) < total:
            return Outcome(stopped, [], {})
  speeds = [line['images_per_s'] for line in speeds if 'images_per_s' in line]
  metrics = {'step_ms_a_picture': 1e3 / float(np.median(speeds))} if speeds else {}
  return Outcome(None, finished, metrics, sources)


def _train(config, name: str, problems, folder: Path, left) -> str | None:
  """Trains a group, unless that is done, and keeps what its files are made of.

  Problems that are lost begin again with another seed, in a folder of their own.

  Args:
    config, name, problems, folder: of the group.
    left: gives the seconds that there are, 0 being no limit.

  Returns:
    None, or why it stopped early.
  """
  if (folder / trained.FILE).is_file():
    logging.info('%s: trained already', name)
    return None
  logging.info('%s: %d pictures with their lambdas', name, len(problems))
  begin = time.monotonic()
  params, again = None, list(range(len(problems)))
  for attempt in range(divergence.RESTARTS + 1):
    where = folder / f'again_{attempt}' if attempt else folder
    result = _loop(config, [problems[i] for i in again], where, attempt, left())
    if result.stopped:
      return result.stopped
    found = jax.device_get(result.state.params)
    params = params or jax.tree.map(np.array, found)
    for whole, part in zip(jax.tree.leaves(params), jax.tree.leaves(found)):
      whole[again] = part
    undone = np.asarray(result.state.undone)
    bad = _lost(config, [problems[i] for i in again], found, undone)
    again = [again[i] for i in bad]
    if not again:
      break
    logging.warning(
      '%s: training diverged for %s: %s', name,
      ', '.join(f'{problems[i][0]} with {problems[i][2]:g}' for i in again),
      'given up' if attempt == divergence.RESTARTS else
      f'again with seed {config["seed"] + attempt + 1}',
    )  # fmt: skip
  trained.save(folder / trained.FILE, params, _seconds(config, folder, begin))
  return None


def _loop(config, problems, folder: Path, attempt: int, seconds: float):
  """`loop.train` of some problems; every attempt has its own seed, and those after the
  first begin with random networks."""
  changed = {
    'max_seconds': seconds,
    'seed': config['seed'] + attempt,
    'start': config['start'] and not attempt,
  }
  images = np.stack([image for _, image, _ in problems])
  batch = {'image': images, 'lmbda': np.array([p[2] for p in problems], np.float32)}
  feed = pipeline.Pipeline(batch, lambda data, rng: data, None, None)
  mine = {**config, **changed}
  task = make(mine, warmed(mine, batch, folder))
  # Devices share problems evenly, so there may be fewer of them than there are.
  devices = math.gcd(len(problems), jax.device_count())
  kept = settings.plain(config) | changed
  return loop.train(task, feed, [batch], kept, folder, devices)


def _lost(config, problems, params, undone) -> list[int]:
  """Which problems came to nothing."""
  arch, total, out = arch_of(config), config['total_steps'], []
  for i, (name, image, _) in enumerate(problems):
    target = image.astype(np.float32) / 255
    shapes = archs.grid_shapes(arch, *image.shape[:2])
    grids = model.split(np.asarray(train.hard(params['latents'][i])), shapes)
    net = jax.tree.map(lambda x, i=i: x[i], params['synthesis'])
    mse = q_step_search.measure('synthesis', arch, net, grids, target)
    if divergence.lost(mse, int(undone[i]), total, target):
      out.append(i)
    elif undone[i]:
      logging.warning('%s: %d of %d steps were undone, as they led to no numbers', name,
                      undone[i], total)  # fmt: skip
  return out


def _seconds(config, folder: Path, begin: float) -> float:
  """What the steps of a group took, runs before a stop included."""
  lines = writers.read(folder / writers.TIMING)
  rates = [line['steps_per_s'] for line in lines if 'steps_per_s' in line]
  if not rates:  # too short a training to be timed: compilation is in it
    return time.monotonic() - begin
  return config['total_steps'] / float(np.median(rates))


def _finish(config, problem, group, i: int, workdir: Path) -> Finished:
  """File and sheet of a problem of a trained group, unless they are there."""
  name, image, lmbda = problem
  label = f'{name}_{lmbda:g}' if len(np.ravel(config['lmbdas'])) > 1 else name
  folder = workdir / 'sheets'
  encoded = result.kept(folder, label, container.decode)
  if encoded is None:
    params = jax.tree.map(lambda x: x[i], group.params)
    made = encode.Trained(params, lmbda, config['total_steps'], group.seconds, None)
    arch = arch_of(config)
    (encoded,) = encode.write(image, arch, made, refined=config['refine'])
    files.write_text(folder / f'{label}.md', report.markdown(encoded.details, label))
    result.keep(folder, label, encoded)
  bpp = encoded.details['bpp']
  facts = {'image': name, 'lmbda': lmbda}
  facts['network_bpp'] = bpp['synthesis'] + bpp['entropy']
  facts['macs_per_pixel'] = encoded.details['macs_per_pixel']['total']
  return Finished(label, image, encoded, facts)
