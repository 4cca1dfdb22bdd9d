"""From a source to batches of crops, each a pure function of (seed, step).

Two ways, chosen by size. Images that fit `max_resident_mb` live on the device as one
uint8 atlas (all images stacked in one column) and ``sample(arrays, rng)`` cuts
random crops inside the compiled step; the host does nothing. Anything larger, and
anything endless, goes through ``grain.MapDataset`` on the host: ``host_batch(step)``
can be asked for any step in any order, so resuming needs no other state. The two
differ in one thing: resident sampling draws images with replacement, unless
``data.epochs`` is set, and the host way shuffles epochs, in which each image comes
once.

A batch is a dict: 'image' uint8 [B, crop, crop, 3], and 'label' int32 [B] if the
source has labels.
"""

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import chex
import grain
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from codax.data import alias, checks, epochs, sources
from codax.data.defaults import DEFAULTS, SOURCE_DEFAULTS, check_keys, check_values
from codax.data.tiles import cut_tiles, pad_to, shrink
from codax.errors import CodaxError

_MOST_SPLIT = 10**7  # images; endless sets have more


class Pipeline(NamedTuple):
  """Source of training batches; one of the two ways is None.

  Attributes:
    arrays: pytree of NumPy arrays for the device, to be passed to `sample` as an
      argument (a closure would be compiled in as a constant).
    sample: (arrays, rng) -> batch of jax arrays, or (arrays, rng, step) where
      `has_epochs`. Pure; made for jit and scan.
    host_batch: (step, shard=0, shards=1) -> batch of NumPy arrays. Pure; the
      shards of a step, one for each host, make up its batch in order.
    source: images of the split, at random access.
    has_epochs: whether `sample` draws each image once an epoch.
  """

  arrays: Any
  sample: Callable[..., dict] | None
  host_batch: Callable[..., dict] | None
  source: sources.Source
  has_epochs: bool = False


def settings(data: Mapping[str, Any]) -> dict[str, Any]:
  """Completes `config.data` by the defaults and checks it.

  Args:
    data: mapping or ConfigDict with any of the keys of `DEFAULTS` and
      `SOURCE_DEFAULTS`.

  Returns:
    A plain dict with all keys.

  Raises:
    CodaxError: unknown key, a value out of range, or an option that the source in use
      does not take (it would be ignored).
  """
  defaults = DEFAULTS | SOURCE_DEFAULTS
  overrides = dict(data.items())
  check_keys(overrides, defaults)
  out = defaults | check_values(overrides, defaults)
  takes = sources.options(out['name'])
  for key, default in SOURCE_DEFAULTS.items():
    if key not in takes and out[key] != default:
      raise CodaxError(
        f'data.{key} is set, but data set {out["name"]!r} does not use it'
        f' (it takes: {", ".join(takes)})'
      )
  if out['crop'] < 1:
    raise CodaxError(f'data.crop is {out["crop"]}; valid: 1 or more')
  for scale in out['scales']:
    if not 0 < scale <= 1 or abs(1 / scale - round(1 / scale)) > 1e-6:
      raise CodaxError(f'data.scales has {scale}; valid: 1, 1/2, 1/3, 1/4, ...')
  for key in ('skip_bad', 'epochs'):
    if not isinstance(out[key], bool):
      raise CodaxError(f'data.{key} is {out[key]!r}; valid: True or False')
  if not out['scales']:
    raise CodaxError('data.scales is empty; valid: (1.0,) or (1.0, 0.5), ...')
  return out


def source(data: Mapping[str, Any], split: str) -> sources.Source:
  """Returns the source that `config.data` names, for one split.

  Args:
    data: see `settings`.
    split: 'train', 'test', or 'validation': the share `val_fraction` of the training
      images, which are then in no other split.
  """
  s = settings(data)
  takes = sources.options(s['name'])
  of = 'test' if split == 'test' else 'train'
  found = sources.get(s['name'], of, **{k: s[k] for k in takes})
  if split == 'test' or not (s['val_fraction'] or split == 'validation'):
    return found
  if len(found) > _MOST_SPLIT:
    raise CodaxError(
      f'data.val_fraction is set, but data set {s["name"]!r} has no fixed images'
    )
  # salted: the names alone tell training images from held-out ones in `folder`
  shares = enumerate(sources.hash01(f'validation {name}') for name in found.names)
  is_held = {i: share < s['val_fraction'] for i, share in shares}
  wanted = [i for i, held in is_held.items() if held == (split == 'validation')]
  return checks.select(found, wanted)


def _load_all(
  src, s, bad: dict[int, checks.BadImage]
) -> tuple[list[np.ndarray], list[int]] | None:
  """Loads all images at all scales, padded to the crop; None if over the limit.

  Args:
    src: images to load.
    s: settings.
    bad: output: images that cannot be read, by index.
  """
  limit = s['max_resident_mb'] * 2**20
  least = (
    s['crop'] ** 2
    if src.shape is None
    else max(src.shape[0], s['crop']) * max(src.shape[1], s['crop'])
  )
  if len(src) * least * 3 > limit:
    return None
  images, labels, width, rows = [], [], 0, 0
  for i in range(len(src)):
    try:
      item = checks.read_image(src, i)
    except CodaxError as e:
      bad[i] = checks.BadImage(src.names[i], str(e))
      continue
    for scale in s['scales']:
      image = pad_to(shrink(item['image'], scale), s['crop'])
      images.append(image)
      if 'label' in item:
        labels.append(item['label'])
      rows, width = rows + image.shape[0], max(width, image.shape[1])
    if rows * width * 3 > limit:
      return None
  return images, labels


def _pack(images, labels, s) -> dict[str, np.ndarray]:
  """Stacks images into the atlas that `_sample` reads.

  Returns:
    atlas uint8 [sum of H, widest W, 3]; top int32 [n] first row of each image; room
    int32 [n, 2] number of crop offsets (y, x); keep, other: the alias table; label
    int32 [n] if there are labels.
  """
  sizes = np.array([image.shape[:2] for image in images], np.int64)
  top = np.concatenate([[0], np.cumsum(sizes[:, 0])])
  atlas = np.zeros((top[-1], sizes[:, 1].max(), 3), np.uint8)
  for image, y in zip(images, top):
    atlas[y : y + image.shape[0], : image.shape[1]] = image
  keep, other = alias.make_table(np.prod(sizes, axis=1) ** float(s['area_power']))
  arrays = {
    'atlas': atlas,
    'top': top[:-1].astype(np.int32),
    'room': (sizes - s['crop'] + 1).astype(np.int32),
    'keep': keep,
    'other': other,
  }
  if labels:
    arrays['label'] = np.array(labels, np.int32)
  return arrays


def _recolour(image, rng, permute_channels: float, jitter: float):
  """Permutes channels and changes contrast and brightness of uint8 [B, h, w, 3].

  A handful of photographs holds few colours; this makes more of them.
  """
  keys = jax.random.split(rng, 3)
  b = image.shape[0]
  orders = jnp.array(list(itertools.permutations(range(3))))
  order = orders[jax.random.randint(keys[0], (b,), 0, len(orders), jnp.int32)]
  mixed = jax.random.bernoulli(keys[1], permute_channels, (b, 1))
  order = jnp.where(mixed, order, jnp.arange(3)[None])
  image = jnp.take_along_axis(image, order[:, None, None, :], axis=-1)
  if not jitter:
    return image
  shape = (2, b, 1, 1, 1)
  u = jax.random.uniform(keys[2], shape, jnp.float32, -jitter, jitter)
  x = image.astype(jnp.float32)
  mean = x.mean(axis=(1, 2, 3), keepdims=True)
  x = (x - mean) * jnp.exp(u[0]) + mean + 64 * u[1]
  return jnp.round(jnp.clip(x, 0, 255)).astype(jnp.uint8)


def _sample(
  arrays,
  rng,
  step=0,
  *,
  batch_size: int,
  crop: int,
  flip: bool,
  permute_channels=0.0,
  jitter=0.0,
  seed: int | None = None,
):
  """Returns a batch of random crops from the atlas; see `Pipeline.sample`."""
  arrays = jax.tree.map(jnp.asarray, arrays)
  chex.assert_shape(arrays['atlas'], (None, None, 3))
  chex.assert_shape(
    [arrays['top'], arrays['keep'], arrays['other']], (len(arrays['top']),)
  )
  chex.assert_shape(arrays['room'], (len(arrays['top']), 2))
  keys = jax.random.split(rng, 5)
  n = arrays['keep'].shape[0]
  if seed is None:
    i = jax.random.randint(keys[0], (batch_size,), 0, n, jnp.int32)
    stay = jax.random.uniform(keys[1], (batch_size,), jnp.float32) < arrays['keep'][i]
    i = jnp.where(stay, i, arrays['other'][i])
  else:  # without replacement
    i = epochs.draw(seed, step, batch_size, n)
  offset = jax.random.randint(keys[2], (batch_size, 2), 0, arrays['room'][i], jnp.int32)
  y = arrays['top'][i] + offset[:, 0]

  def cut(corner):
    return lax.dynamic_slice(arrays['atlas'], (*corner, jnp.int32(0)), (crop, crop, 3))

  # On CPU a loop of copies, because XLA would fuse the mirroring below into the gather
  # that vmap makes: 16 crops of 64 x 64 then take 2.9 ms in place of 0.1.
  image = lax.platform_dependent(
    (y, offset[:, 1]),
    cpu=lambda corners: lax.map(cut, corners),
    default=jax.vmap(cut),
  )
  if flip:
    mirror = jax.random.bernoulli(keys[3], shape=(batch_size, 1, 1, 1))
    image = jnp.where(mirror, image[:, :, ::-1], image)
  if permute_channels or jitter:
    image = _recolour(image, keys[4], permute_channels, jitter)
  batch = {'image': image}
  if 'label' in arrays:
    batch['label'] = arrays['label'][i]
  return batch


def _crop_on_host(item, rng: np.random.Generator, s) -> dict[str, np.ndarray]:
  """Makes one element of the host way: scales, pads, crops, mirrors and recolours."""
  scales = np.array(s['scales'])
  chance = scales ** (2 * float(s['area_power']))
  scale = scales[rng.choice(len(scales), p=chance / chance.sum())]
  image = pad_to(shrink(item['image'], scale), s['crop'])
  y, x = (int(rng.integers(side - s['crop'] + 1)) for side in image.shape[:2])
  image = image[y : y + s['crop'], x : x + s['crop']]
  if s['flip'] and rng.integers(2):
    image = image[:, ::-1]
  if s['permute_channels'] and rng.random() < s['permute_channels']:
    image = image[..., rng.permutation(3)]
  if s['jitter']:
    contrast, shift = rng.uniform(-s['jitter'], s['jitter'], 2)
    x, mean = image.astype(np.float32), image.mean()
    x = (x - mean) * np.exp(contrast) + mean + 64 * shift
    image = np.rint(np.clip(x, 0, 255)).astype(np.uint8)
  out = {'image': np.ascontiguousarray(image)}
  if 'label' in item:
    out['label'] = np.int32(item['label'])
  return out


def _host_batches(src, s, seed: int):
  """Returns the `host_batch` of a pipeline."""
  dataset = grain.MapDataset.source(src).seed(seed).shuffle().repeat()
  dataset = dataset.random_map(functools.partial(_crop_on_host, s=s))

  def host_batch(step: int, shard: int = 0, shards: int = 1):
    if s['batch_size'] % shards or not 0 <= shard < shards:
      raise CodaxError(
        f'data.batch_size {s["batch_size"]} does not divide among {shards} hosts'
      )
    local = s['batch_size'] // shards
    start = step * s['batch_size'] + shard * local
    items = [dataset[start + i] for i in range(local)]
    return {key: np.stack([item[key] for item in items]) for key in items[0]}

  return host_batch


def make(
  data: Mapping[str, Any],
  seed: int,
  split: str = 'train',
  pass_over: checks.PassOver = checks.warn,
) -> Pipeline:
  """Returns the pipeline that `config.data` describes.

  Args:
    data: see `settings`.
    seed: seed of the order in epochs, and of the host way's crops (those of the
      resident way have `rng`).
    split: 'train' or 'test'.
    pass_over: called with each bad image if ``data.skip_bad`` is set; in the host way
      also later, from other threads, with images that turn out bad when it is their
      turn. The next readable image takes their place.

  Returns:
    A `Pipeline` with `sample` if the images fit `max_resident_mb`, else with
    `host_batch`.

  Raises:
    CodaxError: bad settings, missing data, an empty split, or images that cannot be
      used, all named.
  """
  s = settings(data)
  src = source(data, split)
  if len(src) == 0:
    raise CodaxError(f'data set {s["name"]!r} has no image in split {split!r}')
  bad, damaged = checks.find_bad(src), {}
  src = checks.leave_out(src, bad)
  loaded = _load_all(src, s, damaged)
  checks.handle([*bad.values(), *damaged.values()], s['skip_bad'], pass_over)
  src = checks.leave_out(src, damaged)
  if loaded is None:
    is_skipped = s['skip_bad']
    src = checks.replace_bad(src, pass_over) if is_skipped else checks.advise(src)
    return Pipeline(None, None, _host_batches(src, s, seed), src)
  arrays = _pack(*loaded, s)
  sample = functools.partial(
    _sample,
    **{key: s[key] for key in ('batch_size', 'crop', 'permute_channels', 'jitter')},
    flip=bool(s['flip']),
    seed=seed if s['epochs'] else None,
  )
  if s['epochs']:
    epochs.check_size(len(arrays['top']), s['batch_size'])
  return Pipeline(arrays, sample, None, src, s['epochs'])


def eval_batches(
  data: Mapping[str, Any],
  batch_size: int,
  pass_over: checks.PassOver = checks.warn,
  split: str = 'test',
) -> list[dict]:
  """Returns a split as batches of fixed crops, without overlap, each once.

  An image is cut into the tiles that fit, centred in it; one smaller than the crop is
  padded by its edge. Images of the crop's size, such as CIFAR-10's, are thus taken
  whole. Over `eval_crops`, tiles are left out evenly.

  Args:
    data: see `settings`.
    batch_size: number of crops in all batches but the last, which may be smaller.
    pass_over: called with each bad image if ``data.skip_bad`` is set.
    split: name of the images, 'test' as a rule; see `source`.

  Returns:
    Batches of NumPy arrays; none for an empty split.

  Raises:
    CodaxError: bad settings, or images that cannot be used, all named.
  """
  s = settings(data)
  if batch_size < 1:
    raise CodaxError(f'eval batch size is {batch_size}; valid: 1 or more')
  src = source(data, split)
  bad, damaged = checks.find_bad(src), {}
  src = checks.leave_out(src, bad)
  images, labels = cut_tiles(src, s, damaged)
  checks.handle([*bad.values(), *damaged.values()], s['skip_bad'], pass_over)
  batches = []
  for i in range(0, len(images), batch_size):
    batches.append({'image': np.stack(images[i : i + batch_size])})
    if labels:
      batches[-1]['label'] = np.array(labels[i : i + batch_size], np.int32)
  return batches
