"""Causal context model of index maps: the fixed-point side, which codes files.

The twin of :mod:`codax.entropy.context` in NumPy integers. Encoder and decoder walk the
map wave by wave (:mod:`codax.entropy.wavefront`), and within a wave group by group:
look up the embedded neighbours, run the integer network, turn its logits into integer
frequencies, code. The same function does this on both sides, so the tables agree by
construction; nothing here is a rounded float and nothing needs JAX.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from codax.entropy import fixed_point, range_coder, tables, wavefront
from codax.entropy.context_config import (
  ACTIVATION_MAX,
  ContextConfig,
  check_config,
  margins,
)
from codax.errors import CodaxError

# A block of tables has at most this many entries, which bounds memory when a wave is
# long and the alphabet large.
_BLOCK = 2**22

_EMBED_FRAC = fixed_point.ACTIVATION_FRAC


class IntContext(NamedTuple):
  """Context model in integers; `to_int` and `from_arrays` make it.

  Attributes:
    config: sizes of the model.
    embed: float64 [G, K+1, e] with integer values; row K stands for 'outside the map'.
    mlps: networks, one per group.
  """

  config: ContextConfig
  embed: np.ndarray
  mlps: tuple[fixed_point.IntMLP, ...]


def _widths(config: ContextConfig, group: int) -> tuple[int, ...]:
  slots = len(config.offsets) * config.groups + group
  return (slots * config.embed, config.hidden, *config.layers, config.codes)


def _make(config: ContextConfig, embed: np.ndarray, mlps) -> IntContext:
  """Checks that the arrays fit the config and each other."""
  shape = (config.groups, config.codes + 1, config.embed)
  if embed.dtype.kind != 'i' or embed.shape != shape:
    raise CodaxError(
      f'context embedding is {embed.dtype} {embed.shape}; valid: integers {shape}'
    )
  largest = max(int(embed.max()), -int(embed.min()))
  for g, mlp in enumerate(mlps):
    widths = (mlp.kernels[0].shape[0], *(w.shape[1] for w in mlp.kernels))
    if widths != _widths(config, g):
      raise CodaxError(
        f'context network {g} has widths {widths}; valid: {_widths(config, g)}'
      )
    if largest > mlp.input_max:
      raise CodaxError(f'context embedding reaches {largest}, above {mlp.input_max}')
  return IntContext(config, embed.astype(np.float64), tuple(mlps))


def to_int(params: Mapping[str, Any], config: ContextConfig) -> IntContext:
  """Converts trained parameters to fixed point.

  Args:
    params: trained parameters as of `codax.entropy.context.init`; any array type.
    config: sizes of the model.

  Raises:
    CodaxError: parameters are not finite, too large, or not of this config.
  """
  config = check_config(config)
  embed = np.rint(np.asarray(params['embed'], np.float64) * 2**_EMBED_FRAC)
  if not np.abs(embed).max() < 2**31:  # NaN fails too
    raise CodaxError('context embedding is not finite or too large')
  embed = embed.astype(np.int64)
  mlps = []
  for g in range(config.groups):
    layers = params[f'group_{g}']
    layers = [layers[f'layer_{i}'] for i in range(len(layers))]
    mlps.append(
      fixed_point.quantize_mlp(
        [(layer['kernel'], layer['bias']) for layer in layers],
        input_frac=_EMBED_FRAC,
        input_max=int(np.abs(embed).max()),
        output_frac=tables.LOGIT_FRAC,
        activation_max=ACTIVATION_MAX,
        output_scale=math.log2(math.e),
      )
    )
  return _make(config, embed, mlps)


def to_arrays(context: IntContext) -> dict[str, np.ndarray]:
  """Returns the model as named integer arrays, complete in themselves, for a bundle."""
  c = context.config
  arrays = {
    'sizes': np.array([c.codes, c.groups, c.hidden, c.embed], np.int32),
    'offsets': np.array(c.offsets, np.int32).reshape(-1, 2),
    'layers': np.array(c.layers, np.int32),
    'embed': context.embed.astype(np.int32),
  }
  for g, mlp in enumerate(context.mlps):
    for name, array in fixed_point.to_arrays(mlp).items():
      arrays[f'group_{g}/{name}'] = array
  return arrays


def from_arrays(arrays: Mapping[str, np.ndarray]) -> IntContext:
  """Inverts `to_arrays`.

  Raises:
    CodaxError: arrays are missing, superfluous, do not fit each other, or form a
      network that float64 cannot run exactly.
  """
  arrays = dict(arrays)
  plain = {}
  for name, shape in (('sizes', (4,)), ('offsets', (None, 2)), ('layers', (None,))):
    array = arrays.pop(name, None)
    if array is None or array.dtype.kind != 'i' or array.ndim != len(shape):
      raise CodaxError(f'context model: {name} missing or not integers')
    if any(want not in (None, got) for want, got in zip(shape, array.shape)):
      raise CodaxError(f'context model: {name} has shape {array.shape}')
    plain[name] = array.tolist()
  codes, groups, hidden, width = plain['sizes']
  config = check_config(
    ContextConfig(
      codes, groups, plain['offsets'], hidden, tuple(plain['layers']), width
    )
  )
  embed = arrays.pop('embed', None)
  if embed is None:
    raise CodaxError('context model: embed missing')
  mlps = []
  for g in range(config.groups):
    prefix = f'group_{g}/'
    names = [name for name in arrays if name.startswith(prefix)]
    mlps.append(
      fixed_point.from_arrays({n[len(prefix) :]: arrays.pop(n) for n in names})
    )
  if arrays:
    raise CodaxError(f'context model: arrays {sorted(arrays)} have no use')
  return _make(config, embed, mlps)


def walk(
  context: IntContext,
  height: int,
  width: int,
  step: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> np.ndarray:
  """Visits a map in coding order.

  Args:
    context: the model.
    height: number of rows.
    width: number of columns.
    step: function of (positions, freqs), flat indices int64 [n] into [H*W*G] and their
      tables int64 [n, K], that returns the codes there, int [n].

  Returns:
    int32 [H, W, G], the codes from `step`.
  """
  config = context.config
  k, groups = config.codes, config.groups
  top, left, right = margins(config.offsets)
  pitch = left + width + right
  # The map with its margins, flat in space; a neighbour is then a fixed distance away.
  canvas = np.full(((top + height) * pitch, groups), k, np.int64)
  steps = np.array([dy * pitch + dx for dy, dx in config.offsets])
  table = context.embed.reshape(-1, config.embed)
  first_row = np.arange(groups) * (k + 1)
  block = max(1, _BLOCK // k)
  slope = wavefront.slope(config.offsets)
  for all_rows, all_cols in wavefront.schedule(height, width, slope):
    for g in range(groups):
      for start in range(0, len(all_rows), block):
        rows = all_rows[start : start + block]
        cols = all_cols[start : start + block]
        at = (rows + top) * pitch + cols + left
        around = canvas[at[:, None] + steps[None, :]] + first_row
        slots = around.reshape(len(at), -1)
        if g:
          slots = np.concatenate([slots, canvas[at, :g] + first_row[:g]], axis=1)
        features = table[slots].reshape(len(at), -1)
        logits = fixed_point.apply_int(context.mlps[g], features)
        freqs = tables.logits_to_freqs(logits)
        canvas[at, g] = step((rows * width + cols) * groups + g, freqs)
  inside = canvas.reshape(top + height, pitch, groups)[top:, left : left + width]
  return inside.astype(np.int32)


def _check_codes(codes: np.ndarray, k: int, groups: int) -> np.ndarray:
  codes = np.asarray(codes)
  if codes.ndim != 3 or codes.shape[2] != groups or not codes.size:
    raise CodaxError(f'codes of shape {codes.shape}; valid: [H, W, {groups}]')
  if codes.dtype.kind not in 'iu' or codes.min() < 0 or codes.max() >= k:
    raise CodaxError(f'codes must be integers from 0 to {k - 1}')
  return codes


def _check_size(height: int, width: int, groups: int, data: bytes) -> None:
  """Refuses a map that `data` cannot hold, before anything is allocated."""
  if height < 1 or width < 1:
    raise CodaxError(f'a map of {height} x {width} codes; valid: 1 x 1 or more')
  range_coder.check_count(data, height * width * groups)


def _ideal(total: float, count: int) -> float:
  """Returns the ideal length in bits, but no less than `count` codes must take."""
  return max(total, 8.0 * range_coder.least_bytes(count))


def encode(context: IntContext, codes: np.ndarray) -> tuple[bytes, float]:
  """Codes an index map.

  Args:
    context: the model.
    codes: int [H, W, G], each in [0, K).

  Returns:
    (the bytes, their ideal length in bits); see `range_coder.encode` for how close.

  Raises:
    CodaxError: codes of another shape or range.
  """
  config = context.config
  codes = _check_codes(codes, config.codes, config.groups)
  flat = codes.reshape(-1).astype(np.int32)
  encoder, total = range_coder.Encoder(), 0.0

  def step(positions, freqs):
    nonlocal total
    symbols = flat[positions]
    encoder.put(symbols, freqs)
    total += tables.bits(freqs, symbols)
    return symbols

  walk(context, codes.shape[0], codes.shape[1], step)
  return encoder.finish(), _ideal(total, flat.size)


def decode(context: IntContext, data: bytes, height: int, width: int) -> np.ndarray:
  """Inverts `encode`: int32 [height, width, G], each in [0, K).

  The caller has checked height and width against its limits. Time and memory grow with
  their product, which is refused at once if `data` is too short for it, and time with
  the content of `data`: decoding stops soon after its end.

  Raises:
    BitstreamError: `data` is damaged, where that can be told.
  """
  _check_size(height, width, context.config.groups, data)
  decoder = range_coder.Decoder(data)
  codes = walk(context, height, width, lambda _, freqs: decoder.decode(freqs))
  decoder.finish()
  return codes


def encode_static(freqs: np.ndarray, codes: np.ndarray) -> tuple[bytes, float]:
  """Codes an index map without context: one table per group.

  Args:
    freqs: int [G, K], rows as of `tables.quantize_pmf`.
    codes: int [H, W, G], each in [0, K).

  Returns:
    (the bytes, their ideal length in bits); see `range_coder.encode` for how close.

  Raises:
    CodaxError: arguments not as above.
  """
  freqs = _check_tables(freqs)
  codes = _check_codes(codes, freqs.shape[1], freqs.shape[0])
  encoder, total = range_coder.Encoder(), 0.0
  for g, row in enumerate(freqs):
    symbols = codes[:, :, g].reshape(-1)
    encoder.put(symbols, row)
    total += tables.bits(row, symbols)
  return encoder.finish(), _ideal(total, codes.size)


def decode_static(
  freqs: np.ndarray, data: bytes, height: int, width: int
) -> np.ndarray:
  """Inverts `encode_static`: int32 [height, width, G], each in [0, K).

  Raises:
    BitstreamError: `data` is damaged, where that can be told.
  """
  freqs = _check_tables(freqs)
  _check_size(height, width, len(freqs), data)
  decoder = range_coder.Decoder(data)
  groups = [decoder.decode(row, height * width) for row in freqs]
  decoder.finish()
  return np.stack(groups, axis=-1).reshape(height, width, len(freqs))


def _check_tables(freqs: np.ndarray) -> np.ndarray:
  freqs = tables.check_freqs(freqs)
  if freqs.ndim != 2 or not len(freqs):
    raise CodaxError(f'tables of shape {freqs.shape}; valid: [G, K]')
  return freqs
