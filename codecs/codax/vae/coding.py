"""Coefficients to integers and back: the encoder's choices and the decoder's sums.

The stream holds rounded differences of coefficients from their means, times gains.
Their tables follow from the hyper-latents alone, in integers (`format.scales`); means
and gains are floats. The encoder rounds with the bits in view (rate-distortion
optimized quantization): each difference goes to the integer of least cost ``bits +
weight * squared error`` among the nearest and its neighbour towards 0.
"""

from typing import Any, NamedTuple

import numpy as np

from codax.bitstream import BitstreamError
from codax.entropy import range_coder
from codax.vae import hyperprior, levels
from codax.vae.format import laws, scales, stream
from codax.vae.transform import TransformConfig


class EntropyModel(NamedTuple):
  """What turns coefficients into integers, for encoder and decoder.

  Attributes:
    config: architecture.
    params: float32 parameters: those of `hyperprior.init`, or 'gain' and 'mean' alone.
    deviation: float32 [C], standard deviations of the coefficients.
    tables: integer tables.
  """

  config: TransformConfig
  params: Any
  deviation: np.ndarray
  tables: scales.Tables


class Symbols(NamedTuple):
  """Integers of a file.

  Attributes:
    position: position between the rate levels.
    latents: int64 [ceil(h / 2), ceil(w / 2), D], or None with a factorized prior.
    coefficients: int64 [h, w, C].
  """

  position: int
  latents: np.ndarray | None
  coefficients: np.ndarray


class Sided(NamedTuple):
  """What hyper-latents say about the coefficients of an image.

  Attributes:
    index: uint8 [h, w, C], scales.
    features: float32 [1, h', w', width], for means; None with a factorized prior.
    gain: float32 [C].
  """

  index: np.ndarray
  features: np.ndarray | None
  gain: np.ndarray


class Quantized(NamedTuple):
  """Quantized coefficients of an image.

  Attributes:
    symbols: integers of the file.
    decoded: float32 [h, w, C], coefficients as they decode.
    sided: side information of the hyper-latents.
  """

  symbols: Symbols
  decoded: np.ndarray
  sided: Sided


def mixing(model: EntropyModel, position: int) -> np.ndarray:
  """Returns the weights of the rate levels at a position of a file, float32 [1, L]."""
  at = np.array([position / scales.STEPS], np.float32)
  return levels.mixing(at, len(model.tables.scale), np)


def gains(model: EntropyModel, position: int) -> np.ndarray:
  """Returns the gain of each channel at a position of a file, float32 [C]."""
  return np.exp(mixing(model, position) @ model.params['gain'])[0].astype(np.float32)


def side_information(
  model: EntropyModel, latents: np.ndarray | None, position: int, shape: tuple[int, int]
) -> Sided:
  """Computes scales, features and gains of a file.

  Args:
    model: entropy model.
    latents: rounded hyper-latents [h', w', D], None with a factorized prior.
    position: position between the rate levels.
    shape: rows and columns of coefficients.
  """
  gain, mix = gains(model, position), mixing(model, position)
  if model.tables.hyper is None:
    index = scales.coefficient_index(model.tables, None, position, shape)
    return Sided(index, None, gain)
  values = scales.latents(model.tables.hyper, latents, position)
  index = scales.coefficient_index(model.tables, values, position, shape)
  z = (values.astype(np.float32) / np.float32(2**scales.FRAC))[None]
  features = hyperprior.mean_features(model.params, model.config, z, mix, np)
  return Sided(index, features[:, : shape[0], : shape[1]], gain)


def run_passes(
  model: EntropyModel, sided: Sided, take: Any, xp: Any = np, first: Any = None
) -> Any:
  """Runs the passes over the coefficients, for encoder and decoder alike.

  Args:
    model: entropy model; its tables are not looked at.
    sided: scales, features and gains of the file.
    take: (mean float32 [h, w, C], positions bool [h, w, 1]) -> rounded differences
      [h, w, C], right at the positions of the pass.
    xp: array module.
    first: bool [h, w, 1], positions of the first pass; None is those of a whole image.

  Returns:
    float32 [h, w, C], decoded coefficients in pixel values.
  """
  h, w, dim = sided.index.shape
  everywhere = xp.ones((h, w, 1), bool)
  gain = sided.gain[None, None]
  decode = lambda mean, at: take(mean, at).astype(np.float32) / gain + mean
  if sided.features is None:
    return decode(
      xp.broadcast_to(model.params['mean'][None, None], (h, w, dim)), everywhere
    )
  features, deviation = sided.features, model.deviation
  mean = hyperprior.first_means(model.params, features, deviation, xp)[0]
  if not model.config.context:
    return decode(mean, everywhere)
  first = hyperprior.is_first_pass(h, w, xp)[0] if first is None else first
  y = xp.where(first, decode(mean, first), xp.float32(0))
  mean = hyperprior.second_means(
    model.params, model.config, features, y[None], deviation, xp
  )[0]
  return xp.where(first, y, decode(mean, ~first))


def analyze_latents(model: EntropyModel, y: np.ndarray, position: int) -> np.ndarray:
  """Rounds the hyper-latents of coefficients.

  Args:
    model: entropy model with hyper-latents.
    y: float32 [h, w, C], coefficients in pixel values.
    position: position between the rate levels.

  Returns:
    int64 [ceil(h / 2), ceil(w / 2), D].
  """
  y = np.pad(y, ((0, y.shape[0] % 2), (0, y.shape[1] % 2), (0, 0)), mode='edge')
  gain = gains(model, position)[None, None, None]
  z = hyperprior.analyze(model.params, model.config, y[None], gain, np)[0]
  return quantize_latents(model, z, position)


def quantize_latents(model: EntropyModel, z: np.ndarray, position: int) -> np.ndarray:
  """Rounds hyper-latents z float32 [h, w, D]."""
  hyper = model.tables.hyper
  inverse = scales.row(hyper.inverse, position) / 2**scales.INVERSE_FRAC
  mean = scales.row(hyper.mean, position) / 2**scales.FRAC
  symbols = np.rint(z / inverse - mean).astype(np.int64)
  index = scales.latent_index(hyper, position)
  return limit(model.tables.laws, symbols, np.broadcast_to(index, symbols.shape))


def quantize(
  model: EntropyModel,
  y: np.ndarray,
  position: int,
  weight: float,
) -> Quantized:
  """Rounds the coefficients of an image.

  With the bits in view this is done twice: the second time under hyper-latents of the
  coefficients that the first time left.

  Args:
    model: entropy model.
    y: float32 [h, w, C], coefficients.
    position: position between the rate levels.
    weight: bits that a squared error of one quantization step is worth; 0 rounds to
      the nearest.

  """
  has_hyper, decoded = model.tables.hyper is not None, y
  for _ in range(2 if weight and has_hyper else 1):
    latents = analyze_latents(model, decoded, position) if has_hyper else None
    chosen = _quantize(model, y, latents, position, weight)
    decoded = chosen.decoded
  return chosen


def _quantize(model, y, latents, position, weight):
  """Rounds coefficients under given hyper-latents; see `quantize`."""
  sided = side_information(model, latents, position, y.shape[:2])
  out = np.zeros(y.shape, np.int64)

  def take(mean, at):
    x = (y - mean) * sided.gain
    symbols = round_cheaply(model.tables.laws, x, sided.index, weight)
    out[:] = np.where(at, symbols, out)
    return out

  decoded = run_passes(model, sided, take)
  return Quantized(Symbols(position, latents, out), decoded, sided)


def round_cheaply(
  tables: laws.Laws, x: np.ndarray, index: np.ndarray, weight: float
) -> np.ndarray:
  """Rounds x to the nearest integer, or one towards 0 where that costs less.

  Args:
    tables: tables by scale.
    x: float32 [h, w, C].
    index: scale of each, [h, w, C].
    weight: bits that a squared error of 1 is worth; 0 rounds to the nearest.
  """
  nearest = np.rint(x)
  if weight:
    closer = nearest - np.sign(nearest)
    cost = lambda q: (
      laws.bits(tables, q.astype(np.int64), index) + weight * (x - q) ** 2
    )
    nearest = np.where(cost(closer) < cost(nearest), closer, nearest)
  return limit(tables, nearest.astype(np.int64), index)


def limit(tables: laws.Laws, symbols: np.ndarray, index: np.ndarray) -> np.ndarray:
  """Keeps integers within what a stream can hold."""
  most = np.where(tables.reach[index] > 0, laws.MAX_MAGNITUDE - 1, 0)
  return np.clip(symbols, -most, most)


def write(model: EntropyModel, symbols: Symbols, sided: Sided) -> tuple[bytes, float]:
  """Writes the payload of a file; returns it and its ideal length in bits."""
  encoder = range_coder.Encoder()
  total = 0.0
  if symbols.latents is not None:
    index = scales.latent_index(model.tables.hyper, symbols.position)
    index = np.broadcast_to(index, symbols.latents.shape)
    total += stream.put(
      encoder, model.tables.laws, symbols.latents.ravel(), index.ravel()
    )
  total += stream.put(
    encoder, model.tables.laws, symbols.coefficients.ravel(), sided.index.ravel()
  )
  return bytes([symbols.position]) + encoder.finish(), 8 + total


def read(
  model: EntropyModel, payload: bytes, shape: tuple[int, int]
) -> tuple[Symbols, Sided]:
  """Reads the payload of a file.

  Args:
    model: entropy model.
    payload: payload of `write`.
    shape: rows h and columns w of coefficients.

  Raises:
    BitstreamError: the payload is unsound.
  """
  if not payload or payload[0] >= model.tables.positions:
    raise BitstreamError('the file has a rate position that its model has not')
  position, (h, w) = payload[0], shape
  decoder = range_coder.Decoder(payload[1:])
  dim = model.tables.scale.shape[1]
  latents = None
  count = h * w * dim
  if (hyper := model.tables.hyper) is not None:
    side = (-(-h // 2), -(-w // 2), hyper.mean.shape[1])
    decoder.expect(count + side[0] * side[1] * side[2])  # before anything of that size
    index = np.broadcast_to(scales.latent_index(hyper, position), side)
    latents = stream.get(decoder, model.tables.laws, index.ravel()).reshape(side)
  decoder.expect(count)
  sided = side_information(model, latents, position, shape)
  values = stream.get(decoder, model.tables.laws, sided.index.ravel())
  decoder.finish()
  return Symbols(position, latents, values.reshape(h, w, dim)), sided


def decode(model: EntropyModel, symbols: Symbols, sided: Sided) -> np.ndarray:
  """Decodes coefficients float32 [h, w, C] of the integers of a file."""
  return run_passes(model, sided, lambda mean, at: symbols.coefficients)


# Bits that a squared error of one step is worth. Where log(step) grows by 1, a fine
# uniform quantizer saves 1 / ln 2 bits and adds step**2 / 6 to its error: the step is
# best at a price of 6 / ln 2 = 8.7. Twice that gave smaller files at equal PSNR.
RD_WEIGHT = 17.0

PROFILES = {'factorized': 0, 'hyperprior': 1}  # header.profile
