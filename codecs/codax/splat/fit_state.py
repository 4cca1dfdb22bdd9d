"""The state of a fit between two calls of `step.advance`: complete, and storable.

`pack_state` and `unpack_state` are exact: a fit that goes on from a stored state ends
with the same bytes as one that was never interrupted, on the same machine.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from codax.splat import quantization, tiles
from codax.splat.fit_config import FitConfig
from codax.splat.format import integer
from codax.splat.render import Gaussians
from codax.splat.step import QatInputs, State
from codax.splat.target import Target, TiledTarget, tile_target

# Names of arrays in stored fits by field; facts of stored fits that have new names.
_STORED_NAMES = {'xy': 'xy', 'shape': 'shape', 'color': 'colour', 'base': 'base'}
_RENAMED_FACTS = {
  'distortion_begun': 'initial_distortion',
  'unlisted': 'missing_pair_share',
}


class FitFacts(NamedTuple):
  """Measurements of a fit; None where there is none.

  Attributes:
    lost: largest number of pairs for which the lists of tiles had no capacity.
    steps: steps made.
    stopped: reason for which the fit ended early, or None.
    coded: quantization steps (`integer.QSteps`), once they are chosen.
    psnr_float: PSNR in dB before quantization began, or at the end if it never did.
    psnr_rounded: PSNR in dB of the same Gaussians, quantized ('alpha' has none).
    initial_distortion: mean squared distance from the first codebooks, by group.
    missing_pair_share: share of the final pairs of a tile and a Gaussian that the last
      lists lacked.
  """

  lost: int = 0
  steps: int = 0
  stopped: str | None = None
  coded: list[int] | None = None
  psnr_float: float | None = None
  psnr_rounded: float | None = None
  initial_distortion: dict[str, float] | None = None
  missing_pair_share: float | None = None

  def to_details(self) -> dict[str, Any]:
    """Returns what is known, JSON-able; 'stopped' is always in it."""
    known = {key: value for key, value in self._asdict().items() if value is not None}
    return {'stopped': None, **known}


class FitResult(NamedTuple):
  """A finished fit of one image.

  Attributes:
    gaussians: NumPy arrays, not quantized.
    facts: measurements.
  """

  gaussians: Gaussians
  facts: FitFacts


class Stage(NamedTuple):
  """A snapshot of a fit: the arguments of `fit.run`'s `look`, on the host."""

  name: str
  step: int
  gaussians: Gaussians


class ImageFit(NamedTuple):
  """One image's part of the state.

  Attributes:
    state: Gaussians, optimizer and step.
    target: the image.
    tiled: the image as programs take it, on the device.
    count: final number of Gaussians.
    num_active: number of Gaussians now.
    recipe: settings; their quantization steps are replaced by the image's own when
      quantization begins.
    rng: NumPy's generator.
    facts: measurements so far.
  """

  state: State
  target: Target
  tiled: TiledTarget
  count: int
  num_active: int
  recipe: FitConfig
  rng: np.random.Generator
  facts: FitFacts

  @property
  def units(self) -> quantization.Units:
    """Steps of quantization as programs take them."""
    channels = self.target.pixels.shape[2]
    return quantization.make_units(
      self.recipe.covariance, self.recipe.q_steps, channels
    )


class CallMetrics(NamedTuple):
  """Measurements of one call of `step.advance`, of P images.

  Attributes:
    mse: float32 [P], before the last step, levels from 0 to 1.
    boxes: rectangles of binned tiles, see `binning.tile_boxes`.
    qat: inputs of quantization, or None without.
  """

  mse: np.ndarray
  boxes: list
  qat: tuple[QatInputs, ...] | None


class FitState(NamedTuple):
  """Everything on which the remaining calls depend, beside the schedule.

  Attributes:
    call: number of calls of `step.advance` made.
    fits: each image's part.
    capacity: capacity of the tile lists in the last call, None before the first; the
      next call keeps it if it is still suitable.
  """

  call: int
  fits: tuple[ImageFit, ...]
  capacity: tiles.Capacity | None = None


def make_image_fit(
  state: State,
  target: Target,
  count: int,
  num_active: int,
  recipe: FitConfig,
  rng: np.random.Generator,
  facts: FitFacts | None = None,
) -> ImageFit:
  """Returns an `ImageFit`, its image on the device."""
  tiled = jax.tree.map(jnp.asarray, tile_target(target))
  facts = facts or FitFacts()
  return ImageFit(state, target, tiled, count, num_active, recipe, rng, facts)


def pack_gaussians(prefix: str, gaussians: Gaussians) -> dict[str, np.ndarray]:
  """Returns Gaussians as arrays whose names begin with `prefix`."""
  out = {
    f'{prefix}.{stored}': getattr(gaussians, name)
    for name, stored in _STORED_NAMES.items()
  }
  for g, books in enumerate(gaussians.books or ()):
    out |= {f'{prefix}.books.{g}.{s}': book for s, book in enumerate(books)}
  return {key: np.ascontiguousarray(value) for key, value in out.items()}


def unpack_gaussians(prefix: str, arrays: Mapping[str, np.ndarray]) -> Gaussians:
  """Inverts `pack_gaussians`."""
  books: dict[int, list[np.ndarray]] = {}
  for name in sorted(arrays):  # stages have one digit
    if name.startswith(f'{prefix}.books.'):
      group = int(name.removeprefix(f'{prefix}.books.').split('.')[0])
      books.setdefault(group, []).append(arrays[name])
  groups = tuple(tuple(books[g]) for g in sorted(books)) or None
  fields = {name: arrays[f'{prefix}.{key}'] for name, key in _STORED_NAMES.items()}
  return Gaussians(**fields, books=groups)


def unpack_facts(stored: Mapping[str, Any]) -> FitFacts:
  """Returns the facts of a stored fit, of older versions too."""
  return FitFacts(
    **{_RENAMED_FACTS.get(key, key): value for key, value in stored.items()}
  )


def pack_state(state: FitState) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Returns a state as named NumPy arrays and JSON-able facts."""
  arrays: dict[str, np.ndarray] = {}
  images = []
  for i, fit in enumerate(state.fits):
    gaussians, moments, step = jax.device_get(fit.state)
    arrays |= pack_gaussians(f'{i}.gaussians', gaussians)
    arrays |= pack_gaussians(f'{i}.mu', moments.mu)
    arrays |= pack_gaussians(f'{i}.nu', moments.nu)
    arrays |= {f'{i}.count': np.asarray(moments.count), f'{i}.step': np.asarray(step)}
    images.append(
      {
        'count': fit.count,
        'num_active': fit.num_active,
        'q_steps': list(fit.recipe.q_steps),
        'adapted': fit.recipe.adaptive_steps,
        'rng': fit.rng.bit_generator.state,
        'facts': fit.facts._asdict(),
      }
    )
  capacity = state.capacity and list(state.capacity)
  return arrays, {'call': state.call, 'capacity': capacity, 'images': images}


def unpack_state(
  arrays: Mapping[str, np.ndarray],
  facts: Mapping[str, Any],
  targets: Sequence[Target],
  recipe: FitConfig,
) -> FitState:
  """Inverts `pack_state`.

  Args:
    arrays, facts: results of `pack_state`.
    targets: the images.
    recipe: initial settings of the fit.
  """
  fits = []
  for i, (about, target) in enumerate(zip(facts['images'], targets, strict=True)):
    rng = np.random.default_rng(0)
    rng.bit_generator.state = about['rng']
    moments = optax.ScaleByAdamState(
      arrays[f'{i}.count'],
      unpack_gaussians(f'{i}.mu', arrays),
      unpack_gaussians(f'{i}.nu', arrays),
    )
    state = State(
      unpack_gaussians(f'{i}.gaussians', arrays), moments, arrays[f'{i}.step']
    )
    fits.append(
      make_image_fit(
        state=jax.tree.map(jnp.asarray, state),
        target=target,
        count=about['count'],
        num_active=about['num_active'],
        recipe=recipe._replace(
          q_steps=integer.QSteps(*about['q_steps']), adaptive_steps=about['adapted']
        ),
        rng=rng,
        facts=unpack_facts(about['facts']),
      )
    )
  capacity = facts['capacity']
  if capacity is not None:  # older fits have no number of tiles; it is chosen anew
    is_current = len(capacity) == len(tiles.Capacity._fields)
    capacity = tiles.Capacity(*capacity) if is_current else None
  return FitState(facts['call'], tuple(fits), capacity)


def pack_stages(stages: Sequence[Stage]) -> tuple[dict[str, np.ndarray], list]:
  """Returns snapshots as named arrays and JSON-able facts."""
  arrays: dict[str, np.ndarray] = {}
  for k, stage in enumerate(stages):
    arrays |= pack_gaussians(f'stage{k}', stage.gaussians)
  return arrays, [[stage.name, stage.step] for stage in stages]


def unpack_stages(arrays: Mapping[str, np.ndarray], facts: Sequence) -> list[Stage]:
  """Inverts `pack_stages`."""
  return [
    Stage(name, step, unpack_gaussians(f'stage{k}', arrays))
    for k, (name, step) in enumerate(facts)
  ]
