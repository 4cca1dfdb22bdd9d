"""The overfitted codec for the training loop: the data set is the pictures themselves.

`run` is what ``launch/train.py`` calls. Pictures of one shape, each with every lambda,
are one group: one program, one loop, with its checkpoints, metrics and plots. At the
end each picture has its file and its report sheet.
"""

import collections
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
from codax.data.pictures import pictures
from codax.errors import CodaxError, unknown
from codax.layers.kan_spec import Spec
from codax.overfit import arch as archs
from codax.overfit import encode, model, sheet, start, train, trained, warm
from codax.training import checkpoints, loop, settings, writers
from codax.training.outcome import Finished, Outcome
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

  def train_step(state, batch, rng):
    ends = jnp.int32(length.first), jnp.int32(length.second)
    state, metrics = train.step(
      arch, recipe, ends, state, targets(batch), batch['lmbda'], rng
    )
    return state, {k: v.mean() for k, v in metrics.items()}

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
    _, height, width, channels = batch['image'].shape
    count = len(archs.grid_shapes(arch, height, width))
    nets = start.networks(arch, count, channels) if config['start'] else None
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
  candidates, steps = warm.check(config['candidates'], config['warm_steps'])
  if candidates < 2 or checkpoints.newest(workdir / loop.CHECKPOINTS) is not None:
    return None
  arch, images = arch_of(config), batch['image']
  _, height, width, channels = images.shape
  count = len(archs.grid_shapes(arch, height, width))
  nets = start.networks(arch, count, channels) if config['start'] else None
  return warm.begin(
    arch, recipe_of(config), jnp.asarray(images, jnp.float32) / 255, batch['lmbda'],
    jax.random.key(config['seed']), nets, candidates, steps,
  )  # fmt: skip


def run(config: Mapping[str, Any], workdir: Path) -> Outcome:
  """Encodes every picture of the configuration's data set with every lambda.

  Args:
    config: see `defaults`.
    workdir: gets a folder for each group's loop, and ``sheets/``. The same call goes on
      with a run that stopped.

  Raises:
    CodaxError: a bad configuration, or a training that diverged.
  """
  lmbdas = tuple(float(x) for x in np.ravel(config['lmbdas']))
  if not lmbdas or not all(x > 0 for x in lmbdas):
    raise CodaxError(f'config.lmbdas is {config["lmbdas"]}; valid: numbers above 0')
  settings.check_same(config, workdir)
  settings.save(config, workdir)
  most = config['at_once']
  if isinstance(most, bool) or not isinstance(most, int) or most < 0:
    raise CodaxError(f'config.at_once is {most}; valid: 0, which is all, or more')
  made, speeds = [], []
  for name, problems in groups(pictures(config['data']), lmbdas, most).items():
    folder = workdir / 'groups' / name
    stopped = _train(config, name, problems, folder)
    if stopped:
      return Outcome(stopped, [], {})
    made.append((problems, folder))
    speeds += writers.read(folder / writers.TIMING)
  finished, sources = [], []
  total = sum(len(problems) for problems, _ in made)
  with tqdm(total=total, unit='file', disable=None) as bar:
    for problems, folder in made:
      group = trained.load(folder / trained.FILE)
      finished += _finish(config, problems, group, workdir, bar.update)
      sources.append({'seconds': group.seconds, **group.source})
  speeds = [line['images_per_s'] for line in speeds if 'images_per_s' in line]
  metrics = {'step_ms_a_picture': 1e3 / float(np.median(speeds))} if speeds else {}
  return Outcome(None, finished, metrics, sources)


def _train(config, name: str, problems, folder: Path) -> str | None:
  """Trains a group, unless that is done, and keeps what its files are made of.

  Returns:
    None, or why it stopped early.
  """
  if (folder / trained.FILE).is_file():
    logging.info('%s: trained already', name)
    return None
  logging.info('%s: %d pictures with their lambdas', name, len(problems))
  begin = time.monotonic()
  images = np.stack([image for _, image, _ in problems])
  batch = {'image': images, 'lmbda': np.array([p[2] for p in problems], np.float32)}
  feed = pipeline.Pipeline(batch, lambda data, rng: data, None, None)
  task = make(config, warmed(config, batch, folder))
  result = loop.train(task, feed, [batch], config, folder)
  if result.stopped:
    return result.stopped
  params = jax.device_get(result.state.params)
  if not all(np.isfinite(x).all() for x in jax.tree.leaves(params)):
    raise CodaxError(f'training of {name} diverged')
  trained.save(folder / trained.FILE, params, time.monotonic() - begin)
  return None


def _finish(config, problems, group, workdir: Path, report) -> list[Finished]:
  """Files and sheets of a trained group; `report` is called after each."""
  arch, steps = arch_of(config), config['total_steps']
  several = len(np.ravel(config['lmbdas'])) > 1
  out = []
  for i, (name, image, lmbda) in enumerate(problems):
    params = jax.tree.map(lambda x, i=i: x[i], group.params)
    result = encode.Trained(params, lmbda, steps, group.seconds, None)
    (encoded,) = encode.write(image, arch, result, refined=config['refine'])
    label = f'{name}_{lmbda:g}' if several else name
    bpp = encoded.details['bpp']
    facts = {'image': name, 'lmbda': lmbda}
    facts['network_bpp'] = bpp['synthesis'] + bpp['entropy']
    facts['macs_per_pixel'] = encoded.details['macs_per_pixel']['total']
    text = files.json_text(encoded.details)
    files.write_text(workdir / 'sheets' / f'{label}.json', text)
    page = sheet.markdown(encoded.details, label)
    files.write_text(workdir / 'sheets' / f'{label}.md', page)
    out.append(Finished(label, image, encoded, facts))
    report()
  return out
