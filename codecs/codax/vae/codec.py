"""The family as a codec: images to `.cdx` files and back, through a trained bundle.

Encoding: pad to whole blocks, run the analysis, round the coefficients with the bits in
view, write the integers. The rate is set by a position between the rate levels of the
model, `lmbda` and targets included. Presets other than 'fast' first refine the
coefficients against the decoder (`refinement`), which takes JAX.

Decoding is the entropy decoder (integers only), means and the synthesis network, all
NumPy.
"""

import functools
import math
from typing import Any

import numpy as np

from codax import bitstream, rate_control
from codax import bundle as bundles
from codax.codec import Codec, Encoded, Options, ShouldStop
from codax.errors import CodaxError
from codax.families import family, read_payload
from codax.layers import tiling
from codax.vae import bundle_io, coding, levels, transform
from codax.vae.bundle_io import FAMILY as NAME
from codax.vae.bundle_io import Model

# Images with longer sides are run in tiles of this many pixels, to bound memory.
TILE = 1024
# Position of a file where neither lambda nor a target is given: about 0.5 bpp.
DEFAULT_SHARE = 1 / 3
SEARCH_STEPS = 12
# Change of log(bpp), and of PSNR in dB, for a change of log(lambda) by one; rough.
_BPP_SLOPE, _PSNR_SLOPE = -0.55, -3.0
_NEAR = 0.35  # share of the tolerance at which the search ends: its tries are cheap
# (start, per megapixel) in seconds on two CPU cores by preset: loading, then encoding.
SECONDS = {'fast': (2, 3), 'medium': (2, 3), 'full': (2, 3)}


def position_of(model: Model, lmbda: float) -> int:
  """Returns the position of a model's rate levels that a weight of the rate picks.

  Args:
    model: the model.
    lmbda: weight of a bit a pixel against the MSE on [0, 1].

  Raises:
    CodaxError: the model has no such level.
  """
  low, high = (levels.to_lmbda(x) for x in (levels.MAX_LMBDA, levels.MIN_LMBDA))
  if not low * 0.999 <= lmbda <= high * 1.001:
    raise CodaxError(f'lambda {lmbda:g} is out of range; valid: {low:.3g} to '
                     f'{high:.3g}')  # fmt: skip
  share = math.log(high / lmbda) / math.log(high / low)
  return round(min(max(share, 0.0), 1.0) * (model.entropy.tables.positions - 1))


def lmbda_of(model: Model, position: int) -> float:
  """Returns the weight of the rate at a position, the inverse of `position_of`."""
  share = position / (model.entropy.tables.positions - 1)
  ratio = levels.MAX_LMBDA / levels.MIN_LMBDA
  return levels.to_lmbda(levels.MIN_LMBDA * ratio**share)


def _pad(image: np.ndarray, multiple: int) -> np.ndarray:
  """Pads an image by its edge to whole blocks and repeats gray to RGB; float32."""
  h, w, c = image.shape
  image = np.pad(image, ((0, -h % multiple), (0, -w % multiple), (0, 0)), mode='edge')
  image = np.repeat(image, 3, axis=-1) if c == 1 else image
  return image.astype(np.float32)


def analyze(model: Model, image: np.ndarray) -> np.ndarray:
  """Computes coefficients float32 [h, w, C] of uint8 [H, W, 1 or 3], h and w even."""
  config = model.config
  run = lambda x: transform.analyze(model.params, config, x, np)
  halo = 2 * config.blocks
  padded = _pad(image, 2 * config.patch)
  return tiling.apply_tiled(run, padded, config.patch, 1, TILE // config.patch, halo)


def synthesize(
  model: Model, y: np.ndarray, position: int, shape: tuple[int, int, int]
) -> np.ndarray:
  """Decodes coefficients float32 [h, w, C] to the image uint8 `shape` = [H, W, C]."""
  config, mix = model.config, coding.mixing(model.entropy, position)

  def run(tile):
    x = transform.synthesize(model.params, config, tile, mix, np)
    return np.rint(np.clip(x, 0, 255)).astype(np.uint8)

  halo = 2 * config.blocks + 1
  image = tiling.apply_tiled(run, y, 1, config.patch, TILE // config.patch, halo)
  image = image[: shape[0], : shape[1]]
  if shape[2] == 1:
    return ((image.astype(np.int32).sum(-1, keepdims=True) + 1) // 3).astype(np.uint8)
  return image


def _grid(model: Model, height: int, width: int) -> tuple[int, int]:
  """Returns rows and columns of coefficients of an image."""
  return -(-height // model.config.patch), -(-width // model.config.patch)


def _encode_coefficients(
  model: Model, y: np.ndarray, image: np.ndarray, position: int
) -> Encoded:
  """Rounds coefficients [h, w, C], writes their file and decodes it."""
  shape = _grid(model, *image.shape[:2])
  lmbda = lmbda_of(model, position)
  # bits that a squared error of 1 in one of the three numbers of a pixel is worth
  weight = levels.to_lmbda(lmbda) / 3
  symbols, decoded, sided = coding.quantize(model.entropy, y, position, shape, weight)
  payload, bits = coding.write(model.entropy, symbols, sided)
  header = bitstream.Header(
    family(NAME).id,
    model.profile,
    *image.shape,
    bundle_id=model.id[: bitstream.BUNDLE_ID_BYTES],
  )
  data = bitstream.write(header, [bitstream.Section(bitstream.CODES, payload)])
  details = {
    'lmbda': lmbda,
    'position': position,
    'coefficients': int(symbols.coefficients.size),
    'coefficients_not_zero': int(np.count_nonzero(symbols.coefficients)),
  }
  reconstruction = synthesize(model, decoded, position, image.shape)
  # besides the payload the size is known exactly
  return Encoded(data, reconstruction, bits + 8 * (len(data) - len(payload)), details)


def _search(model, y, image, target: rate_control.Target, should_stop) -> Encoded:
  """Moves lambda until the target is met, see `rate_control`.

  Raises:
    OutOfReach: the target is.
  """
  slope = _BPP_SLOPE if target.bpp is not None else _PSNR_SLOPE
  last = model.entropy.tables.positions - 1
  bounds = lmbda_of(model, last), lmbda_of(model, 0)
  lmbda = lmbda_of(model, round(DEFAULT_SHARE * last))
  tried, stop_reason, seen = [], None, set()
  while lmbda is not None and len(tried) < SEARCH_STEPS and not stop_reason:
    position = position_of(model, lmbda)
    if position in seen:
      break
    seen.add(position)
    lmbda = lmbda_of(model, position)
    encoded = _encode_coefficients(model, y, image, position)
    tried.append(rate_control.judge(target, image, lmbda, encoded))
    if rate_control.is_met(target, tried[-1].measured, _NEAR):
      break
    history = [(one.setting, one.gap) for one in tried]
    lmbda = rate_control.propose(history, bounds, slope)
    stop_reason = should_stop() if should_stop is not None else None
  return rate_control.conclude(target, tried, stop_reason)


def _encode(
  model: Model,
  options: Options,
  image: np.ndarray,
  *,
  progress=None,
  should_stop: ShouldStop | None = None,
) -> Encoded:
  y = analyze(model, image)
  target = rate_control.find_target(options)
  if target is not None:
    return _search(model, y, image, target, should_stop)
  last = model.entropy.tables.positions - 1
  position = round(DEFAULT_SHARE * last)
  if options.lmbda is not None:
    position = position_of(model, options.lmbda)
  return _encode_coefficients(model, y, image, position)


def decode(model: Model, data: bytes) -> np.ndarray:
  """Decodes a file.

  Raises:
    BitstreamError: it is unsound or of another bundle.
  """
  header, _, payload = read_payload(NAME, data)
  bundles.check_id(model.id, header.bundle_id)
  if header.profile != model.profile:
    raise bitstream.BitstreamError(f'the file has an unknown profile {header.profile}')
  shape = _grid(model, header.height, header.width)
  symbols, sided = coding.read(model.entropy, payload, shape)
  y = coding.decode(model.entropy, symbols, sided)
  size = (header.height, header.width, header.channels)
  return synthesize(model, y, symbols.position, size)


def make(name: str, model: Any, options: Options) -> Codec:
  """Makes the codec for a run directory, a bundle file or a loaded bundle."""
  loaded = model if isinstance(model, bundles.Bundle) else bundles.load(model)
  unpacked = bundle_io.unpack(loaded)
  return Codec(
    name=name,
    encode=functools.partial(_encode, unpacked, options),
    decode=functools.partial(decode, unpacked),
  )
