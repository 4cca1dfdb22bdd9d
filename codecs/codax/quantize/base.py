"""The quantiser contract that every module in this folder follows.

A quantiser is five pure functions over explicit pytrees, made by a factory that takes
the knobs (``quantize.get('vq_ema', num_codes=512, ...)``)::

  params, state = q.init(rng, sample)        # sample: float [N, D], first latents
  out = q.quantize(params, state, z, train=True, rng=rng, step=step)
  z_hat = q.decode(params, state, out.codes)
  prior = q.code_prior(state)                # float [G, K], rows sum to 1
  params, state, moved = q.revive(params, state, rng)

`params` is what an optimiser changes (a dict, empty if nothing is learnt by gradient);
`state` is what the quantiser keeps itself (averages, counts). `decode` takes both
because codebooks live in `params` for some quantisers and in `state` for others.
Quantisers that price their codes (`blahut_arimoto`) also take ``log_prior``, float
[..., G, K] natural logarithms of conditional probabilities: what an entropy coder that
sees more than the marginal will charge for each code at each position.
`revive` moves dead codes after an optimiser step; `moved` has the structure of `params`
and marks the entries whose optimiser statistics no longer mean anything.
Codes always carry a trailing group axis G, also when G = 1.
"""

import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from codax.errors import CodaxError, unknown


class Quantized(NamedTuple):
  """What `quantize` returns.

  Attributes:
    values: float, shape of z. The quantised latents, carrying the straight-through
      gradient to z when training.
    codes: int32 [..., G]. The indices that would be sent.
    losses: scalars to add to the objective, by name, already weighted.
    stats: scalars to log, by name.
    state: the next quantiser state (unchanged when ``train=False``).
  """

  values: jax.Array
  codes: jax.Array
  losses: dict[str, jax.Array]
  stats: dict[str, jax.Array]
  state: Any


class Quantizer(NamedTuple):
  """See the module docstring for the signatures."""

  init: Callable[..., tuple[Any, Any]]
  quantize: Callable[..., Quantized]
  decode: Callable[..., jax.Array]
  code_prior: Callable[[Any], jax.Array]
  revive: Callable[..., tuple[Any, Any, Any]]


def split_groups(z: jax.Array, groups: int) -> jax.Array:
  """[..., D] to [G, N, D/G]; D must be a multiple of `groups`."""
  dim = z.shape[-1]
  if dim % groups:
    raise CodaxError(f'latent dimension {dim} is not a multiple of groups = {groups}')
  return jnp.moveaxis(z.reshape(-1, groups, dim // groups), 1, 0)


def merge_groups(values: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """[G, N, d] back to `shape` = [..., G * d]."""
  return jnp.moveaxis(values, 0, 1).reshape(shape)


def estimate(
  estimator: Callable[[jax.Array, jax.Array], jax.Array],
  z: jax.Array,
  values: jax.Array,
  groups: int,
) -> jax.Array:
  """A straight-through `estimator` of (z, values) [..., D], group by group."""
  parts = (*z.shape[:-1], groups, z.shape[-1] // groups)
  return estimator(z.reshape(parts), values.reshape(parts)).reshape(z.shape)


def merge_codes(codes: jax.Array, lead: tuple[int, ...]) -> jax.Array:
  """[G, N] codes to int32 [*lead, G]."""
  return jnp.moveaxis(codes, 0, 1).reshape(*lead, -1).astype(jnp.int32)


def look_up(codebook: jax.Array, codes: jax.Array) -> jax.Array:
  """Codebook [G, K, d] at codes [..., G] to vectors [..., G * d]."""
  vectors = jnp.stack(
    [jnp.take(book, codes[..., g], axis=0) for g, book in enumerate(codebook)], axis=-2
  )
  return vectors.reshape(*codes.shape[:-1], -1)


def mean_entropy_bits(prob: jax.Array) -> jax.Array:
  """Entropy in bits of the rows of `prob` [G, K], averaged over the groups."""
  terms = prob * jnp.log2(jnp.where(prob > 0, prob, 1.0))
  return -jnp.sum(terms, -1).mean()


def normalised(weights: jax.Array) -> jax.Array:
  """Rows of `weights` [G, K] divided by their sums."""
  return weights / weights.sum(-1, keepdims=True)


def config(kind: type, knobs: Mapping[str, Any]) -> Any:
  """A quantiser's `Config` from knobs by name; unknown or mistyped ones are errors."""
  for name, value in knobs.items():
    if name not in kind._fields:
      raise unknown('quantizer knob', name, kind._fields)
    default = kind._field_defaults[name]
    want = {int: numbers.Integral, float: numbers.Real}.get(
      type(default), type(default)
    )
    if not isinstance(value, want) or isinstance(value, bool):
      raise CodaxError(
        f'quantizer.{name} = {value!r} must be of type {type(default).__name__}'
      )
  return kind(**knobs)


def check_numbers(
  cfg: Any,
  positive: Iterable[str] = (),
  not_negative: Iterable[str] = (),
  fractions: Iterable[str] = (),
) -> None:
  """Raises `CodaxError` for a number knob that is out of its range.

  Args:
    cfg: a quantiser's `Config`.
    positive: names of knobs that must be > 0.
    not_negative: names of knobs that must be >= 0.
    fractions: names of knobs that must be in [0, 1).
  """

  def check(names, valid, text):
    for name in names:
      value = getattr(cfg, name)
      if not (math.isfinite(value) and valid(value)):
        raise CodaxError(f'quantizer.{name} = {value} must be {text}')

  check(positive, lambda x: x > 0, 'positive')
  check(not_negative, lambda x: x >= 0, '0 or more')
  check(fractions, lambda x: 0 <= x < 1, 'in [0, 1)')


def check_choices(cfg: Any, choices: Mapping[str, Iterable[str]]) -> None:
  """Raises `CodaxError` for a knob that is not one of its `choices`, by knob name."""
  for name, valid in choices.items():
    if getattr(cfg, name) not in valid:
      raise unknown(f'quantizer.{name}', getattr(cfg, name), valid)
