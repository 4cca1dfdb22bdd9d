"""The quantizer contract that every module in this folder follows.

A quantizer is a record of pure functions over explicit pytrees and a few facts, made by
a factory from its configuration (``quantize.get('vq_ema', num_codes=512, ...)``)::

  params, state = q.init(rng, sample)        # sample: float [N, D], first latents
  out = q.quantize(params, state, z, train=True, rng=rng, step=step)
  z_hat = q.decode(params, state, out.codes)
  prior = q.code_prior(state)                # float [G, K], rows sum to 1
  params, state, moved = q.revive(params, state, rng)
  arrays = q.export(params, state)           # complete for encoders and decoders

and on the NumPy side, for files::

  books = exported.from_arrays(arrays)
  z_hat = exported.decode(books, codes)
  cost = exported.costs(books, z, codes)     # of the next code, for the RD search

`params` is what an optimizer changes (a dict, empty if nothing is learnt by gradient);
`state` is what the quantizer updates itself (averages, counts). `decode` takes both
because codebooks live in `params` for some quantizers and in `state` for others.
Codes always carry a trailing axis G, also when G = 1: one code for each group of
channels (`compose.grouped`) and each stage (`compose.residual`).

A quantizer module makes one group with one codebook; its arrays lead with a group axis
of length 1. Groups, stages, revival and the estimator are composed around it, see
`compose`. Rate-aware quantizers (`is_rate_aware`) also take ``log_prior``, float
[..., G, K] natural logarithms of conditional probabilities: the code lengths that an
entropy coder with side information charges at each position.
"""

import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from codax import config
from codax.errors import CodaxError, renamed, unknown

# Upper bounds of whole numbers that are not counts of steps.
_MOST = {'num_codes': 2**16, 'iterations': 2**16, 'kmeans_iterations': 2**16}


class Quantized(NamedTuple):
  """Result of `quantize`.

  Attributes:
    values: float, shape of z. Quantized latents with the straight-through gradient to
      z when training.
    codes: int32 [..., G]. Indices to be sent.
    losses: scalars to add to the objective, by name, already weighted.
    stats: scalars to log, by name.
    state: next quantizer state (unchanged when ``train=False``).
  """

  values: jax.Array
  codes: jax.Array
  losses: dict[str, jax.Array]
  stats: dict[str, jax.Array]
  state: Any


class Relocation(NamedTuple):
  """Functions by which `compose.with_revival` moves a quantizer's codewords.

  Attributes:
    usage: state -> float [G, K], frequencies of the codes.
    scale: state -> float [G, d], standard deviations of the latents, or None for those
      of the codewords.
    apply: (params, state, moves, codebook) -> (params, state, moved), which installs
      the new codebook and splits the statistics of each pair.
  """

  usage: Callable[[Any], jax.Array]
  scale: Callable[[Any], jax.Array | None]
  apply: Callable[..., tuple[Any, Any, Any]]


def keep_codes(params: Any, state: Any, rng: jax.Array) -> tuple[Any, Any, Any]:
  """Implements `Quantizer.revive` for quantizers without revival: nothing moves."""
  del rng
  return params, state, jax.tree.map(lambda p: jnp.zeros_like(p, bool), params)


def no_codebook(params: Any, state: Any) -> None:
  """Implements `Quantizer.codebook` for implicit and summed codebooks."""
  del params, state


class Quantizer(NamedTuple):
  """Functions and facts of a quantizer; the module docstring has the signatures.

  Attributes:
    init: (rng, sample) -> (params, state).
    quantize: (params, state, z, *, train, rng, step) -> `Quantized`.
    decode: (params, state, codes [..., G]) -> float [..., D].
    code_prior: state -> float [G, K], marginal probabilities of the codes.
    export: (params, state) -> dict of arrays, complete for a decoder.
    code_vectors: (params, state) -> float [G, K, e], one vector a code, close for codes
      that decode alike; the context model's embedding builds on them.
    num_codes: K of each code of a position, length G.
    codebook: (params, state) -> float [G, K, d], or None for implicit and summed
      codebooks.
    project: latents -> latents in the space where `quantize` takes the nearest value;
      differs from the identity for bounded quantizers.
    revive: (params, state, rng) -> (params, state, moved), after an optimizer step.
      `moved` has the structure of `params`, bool, and marks the entries whose optimizer
      statistics have lost their meaning.
    is_rate_aware: whether `quantize` accepts ``log_prior``.
    stages: number of codebooks whose codewords are summed.
    relocation: hooks of `compose.with_revival`, or None without codewords to move.
  """

  init: Callable[..., tuple[Any, Any]]
  quantize: Callable[..., Quantized]
  decode: Callable[..., jax.Array]
  code_prior: Callable[[Any], jax.Array]
  export: Callable[[Any, Any], dict[str, Any]]
  code_vectors: Callable[[Any, Any], jax.Array]
  num_codes: tuple[int, ...]
  codebook: Callable[[Any, Any], jax.Array | None] = no_codebook
  project: Callable[[jax.Array], jax.Array] = lambda z: z
  revive: Callable[..., tuple[Any, Any, Any]] = keep_codes
  is_rate_aware: bool = False
  stages: int = 1
  relocation: Relocation | None = None

  @property
  def groups(self) -> int:
    """Returns the number of codes at a position, G."""
    return len(self.num_codes)


def split_groups(z: jax.Array, groups: int) -> jax.Array:
  """Reshapes [..., D] to [G, N, D/G]; D must be a multiple of `groups`."""
  check_latents(z)
  dim = z.shape[-1]
  if dim % groups:
    raise CodaxError(f'latent dimension {dim} is not a multiple of groups = {groups}')
  return jnp.moveaxis(z.reshape(-1, groups, dim // groups), 1, 0)


def merge_groups(values: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Reshapes [G, N, d] back to `shape` = [..., G * d]."""
  chex.assert_rank(values, 3)
  return jnp.moveaxis(values, 0, 1).reshape(shape)


def merge_codes(codes: jax.Array, lead: tuple[int, ...]) -> jax.Array:
  """Reshapes [G, N] codes to int32 [*lead, G]."""
  chex.assert_rank(codes, 2)
  return jnp.moveaxis(codes, 0, 1).reshape(*lead, -1).astype(jnp.int32)


def lookup(codebook: jax.Array, codes: jax.Array) -> jax.Array:
  """Returns the vectors [..., G * d] of codes [..., G] in a codebook [G, K, d]."""
  chex.assert_axis_dimension(codes, -1, codebook.shape[0])
  vectors = jnp.stack(
    [jnp.take(book, codes[..., g], axis=0) for g, book in enumerate(codebook)], axis=-2
  )
  return vectors.reshape(*codes.shape[:-1], -1)


def explicit_codebook(find: Callable[[Any, Any], jax.Array]) -> dict[str, Callable]:
  """Makes the functions of a `Quantizer` whose codes are rows of one codebook.

  Args:
    find: (params, state) -> codebook, float [G, K, d].

  Returns:
    'decode', 'export', 'code_vectors' and 'codebook'.
  """
  return {
    'decode': lambda params, state, codes: lookup(find(params, state), codes),
    'export': lambda params, state: {'codebook': find(params, state)},
    'code_vectors': find,
    'codebook': find,
  }


def code_bits(prior: jax.Array, codes: jax.Array) -> jax.Array:
  """Returns the mean code length in bits of codes [G, N] under `prior` [G, K]."""
  picked = jnp.take_along_axis(prior, codes, axis=1)
  return -jnp.log2(jnp.maximum(picked, 1e-9)).mean()


def mean_entropy_bits(prob: jax.Array) -> jax.Array:
  """Returns the entropy in bits of the rows of `prob` [G, K], averaged over groups."""
  terms = prob * jnp.log2(jnp.where(prob > 0, prob, 1.0))
  return -jnp.sum(terms, -1).mean()


def normalize(weights: jax.Array) -> jax.Array:
  """Divides the rows of `weights` [G, K] by their sums."""
  return weights / weights.sum(-1, keepdims=True)


def check_latents(z: jax.Array) -> None:
  """Raises `AssertionError` unless z is a float array [..., D]."""
  chex.assert_type(z, float)
  chex.assert_rank(z, set(range(1, 9)))


def make_config(
  kind: type,
  values: Mapping[str, Any],
  renames: Mapping[str, str] | None = None,
  prefix: str = '',
) -> Any:
  """Makes a quantizer's `Config` from values by name.

  Args:
    kind: NamedTuple class with defaults.
    values: configuration.
    renames: old keys, and complete names of the keys today.
    prefix: text between 'quantizer.' and the name in messages.

  Raises:
    CodaxError: an unknown, renamed or mistyped key.
  """
  for name, value in values.items():
    if name in (renames or {}) and name not in kind._fields:
      raise renamed(f'quantizer.{name}', renames[name])
    if name not in kind._fields:
      raise unknown('quantizer key', prefix + name, [prefix + f for f in kind._fields])
    default = kind._field_defaults[name]
    want = {int: numbers.Integral, float: numbers.Real}.get(
      type(default), type(default)
    )
    if not isinstance(value, want) or isinstance(value, bool):
      raise CodaxError(
        f'quantizer.{prefix}{name} = {value!r} must be of type {type(default).__name__}'
      )
    is_float = isinstance(default, float)
    high = config.MAX_FLOAT if is_float else _MOST.get(name, config.MAX_INT)
    if isinstance(value, numbers.Real) and value > high:
      raise CodaxError(f'quantizer.{prefix}{name} = {value} must be {high:g} or less')
  return kind(**values)


def check_numbers(
  cfg: Any,
  positive: Iterable[str] = (),
  not_negative: Iterable[str] = (),
  fractions: Iterable[str] = (),
  prefix: str = '',
) -> None:
  """Raises `CodaxError` for a number that is out of its range.

  Args:
    cfg: configuration of a quantizer.
    positive: names of numbers that must be > 0.
    not_negative: names of numbers that must be >= 0.
    fractions: names of numbers that must be in [0, 1).
    prefix: text between 'quantizer.' and the name in messages.
  """

  def check(names, valid, text):
    for name in names:
      value = getattr(cfg, name)
      if not (math.isfinite(value) and valid(value)):
        raise CodaxError(f'quantizer.{prefix}{name} = {value} must be {text}')

  check(positive, lambda x: x > 0, 'positive')
  check(not_negative, lambda x: x >= 0, '0 or more')
  check(fractions, lambda x: 0 <= x < 1, 'in [0, 1)')


def check_choices(
  cfg: Any, choices: Mapping[str, Iterable[str]], prefix: str = ''
) -> None:
  """Raises `CodaxError` for a value that is not one of its `choices`, by name."""
  for name, valid in choices.items():
    if getattr(cfg, name) not in valid:
      raise unknown(f'quantizer.{prefix}{name}', getattr(cfg, name), valid)
