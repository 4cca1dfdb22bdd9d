"""The family as a codec: images to `.cdx` files and back, through a trained bundle.

Encoding: pad to whole blocks, run the analysis, round the coefficients, write the
integers. The rate is set by a position between the rate levels of the model. Presets:
'fast' rounds to the nearest integer, 'medium' with the bits in view, 'full' chooses all
integers together, against the decoder (`refinement`), which takes JAX.

Decoding is the entropy decoder (integers only), means and the synthesis network. All of
the transform codec is NumPy; the networks of a convolutional VAE run in JAX.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from codax import bitstream, devices, quality, rate_control
from codax import bundle as bundles
from codax.codec import Codec, Encoded, Options, Progress, ShouldStop, StopReason
from codax.errors import CodaxError
from codax.families import family, read_payload
from codax.layers import tiling, twins
from codax.vae import bundle_io, coding, hyperprior, transform
from codax.vae.bundle_io import FAMILY as NAME
from codax.vae.bundle_io import Model

# Images with longer sides are run in tiles of this many pixels, to bound memory.
TILE = 1024
SEARCH_STEPS = 12
# Change of log(bpp), and of PSNR in dB, for a change of log(lambda) by one; rough.
_BPP_SLOPE, _PSNR_SLOPE = -0.55, -3.0
_NEAR = 0.35  # share of the tolerance at which the search ends: its tries are cheap
# (start, per megapixel) in seconds on two CPU cores by preset: loading, then encoding.
SECONDS = {'fast': (2, 3), 'medium': (2, 3), 'full': (10, 60)}


def position_of(model: Model, lmbda: float) -> int:
  """Returns the rate position of a model that a weight of the rate picks.

  Args:
    model: the model.
    lmbda: weight of a bit a pixel against the MSE on [0, 1].

  Raises:
    CodaxError: the model has no such position.
  """
  high, low = model.lmbdas
  if not low * 0.999 <= lmbda <= high * 1.001:
    raise CodaxError(f'lambda {lmbda:g} is out of range; valid: {low:.3g} to '
                     f'{high:.3g}')  # fmt: skip
  share = math.log(high / lmbda) / math.log(high / low)
  return round(min(max(share, 0.0), 1.0) * (model.entropy.tables.positions - 1))


def lmbda_of(model: Model, position: int) -> float:
  """Returns the weight of the rate at a position, the inverse of `position_of`."""
  high, low = model.lmbdas
  return high * (low / high) ** (position / (model.entropy.tables.positions - 1))


def _pad(image: np.ndarray, multiple: int) -> np.ndarray:
  """Pads an image by its edge to whole positions and repeats gray to RGB."""
  h, w, c = image.shape
  image = np.pad(image, ((0, -h % multiple), (0, -w % multiple), (0, 0)), mode='edge')
  return np.repeat(image, 3, axis=-1) if c == 1 else image


def _halo(model: Model) -> int:
  """Returns the positions around a tile that its content depends on.

  The attention of a VAE sees more: there tiles are an approximation, which encoder and
  decoder share.
  """
  if not model.is_transform:
    return 8
  filtered = 2 * transform.FILTER  # pixels that the post-filter sees beyond its own
  if model.config.lapped:
    filtered += model.factor // 2
  return 2 * model.config.blocks + -(-filtered // model.factor)


def analyze(model: Model, image: np.ndarray) -> np.ndarray:
  """Computes coefficients float32 [h, w, C] of uint8 [H, W, 1 or 3]."""
  side = model.factor
  if model.is_transform:
    run = lambda x: transform.analyze(
      model.params, model.config, x.astype(np.float32), np
    )
  else:
    from codax.vae import convolutional

    run = functools.partial(convolutional.analyze, model.config, model.params)
  return tiling.apply_tiled(run, _pad(image, side), side, 1, TILE // side, _halo(model))


def synthesize(
  model: Model, y: np.ndarray, position: int, shape: tuple[int, int, int]
) -> np.ndarray:
  """Decodes coefficients float32 [h, w, C] to the image uint8 `shape` = [H, W, C]."""
  if model.is_transform:
    mix = coding.mixing(model.entropy, position)

    def run(tile):
      x = transform.synthesize(model.params, model.config, tile, mix, np)
      return np.rint(np.clip(x, 0, 255)).astype(np.uint8)

  else:
    from codax.vae import convolutional

    run = functools.partial(convolutional.synthesize, model.config, model.params)
  side = model.factor
  image = tiling.apply_tiled(run, y, 1, side, TILE // side, _halo(model))
  image = image[: shape[0], : shape[1]]
  if shape[2] == 1:
    return ((image.astype(np.int32).sum(-1, keepdims=True) + 1) // 3).astype(np.uint8)
  return image


def refine(
  model: Model,
  y: np.ndarray,
  image: np.ndarray,
  chosen: coding.Quantized,
  stop: Callable[[], Any],
  progress: Progress | None = None,
) -> coding.Quantized:
  """Chooses the integers of an image together, by `refinement`, tile by tile.

  Args:
    model: the transform codec.
    y: float32 [h, w, C], coefficients of the image.
    image: uint8 [H, W, 1 or 3].
    chosen: result of rounding.
    stop: asked before every step for a reason to make no more.
    progress: called as steps are made, or None.

  Returns:
    The better choice; all that is not an integer of a coefficient stays.
  """
  from codax.vae import refinement

  symbols, decoded, sided = chosen
  pixels = _pad(image, model.config.patch).astype(np.float32)
  weight = 1 / (3 * 255**2 * lmbda_of(model, symbols.position))
  near = refinement.start(symbols.coefficients, (y - decoded) * sided.gain)
  found = _anneal(model, near, chosen, pixels, weight, stop, progress)

  def take(stage, at, index):
    """Limits integers by their scales, which follow from those before."""
    return coding.limit(
      model.entropy.tables.laws, found[at, stage.start : stage.stop], index
    )

  def cost(one: coding.Quantized) -> float:
    shown = synthesize(model, one.decoded, symbols.position, pixels.shape)
    error = np.sum((shown - pixels) ** 2, dtype=np.float64)
    return coding.write(model.entropy, one.symbols, one.sided)[1] + weight * error

  coefficients, sided = coding.walk(model.entropy, sided, take)
  refined = symbols._replace(coefficients=coefficients)
  y = coding.decode(model.entropy, refined, sided)
  return min(chosen, coding.Quantized(refined, y, sided), key=cost)


def _anneal(model, near, chosen, pixels, weight, stop, progress) -> np.ndarray:
  """Runs `refinement.anneal` tile by tile; arguments as there and in `refine`."""
  from codax.vae import refinement

  side, sided = model.config.patch, chosen.sided
  mix = coding.mixing(model.entropy, chosen.symbols.position)
  first = hyperprior.is_first_pass(*near.shape[:2], np)[0]
  fields = [near, sided.index, first, twins.space_to_depth(pixels[None], side)[0]]
  if sided.features is not None:
    fields.append(sided.features[0])
  ends = np.cumsum([field.shape[-1] for field in fields])
  tile, halo = TILE // side, _halo(model)
  count = math.prod(len(list(tiling.windows(n, tile, halo))) for n in near.shape[:2])
  done = itertools.count(1)

  def should_continue() -> bool:
    if progress:
      progress(next(done), count * refinement.STEPS)
    return not stop()

  def run(window: np.ndarray) -> np.ndarray:
    x, index, first, target, *features = np.split(window, ends[:-1], axis=-1)
    own = coding.Sided(
      None, index[0].astype(np.int64), features[0] if features else None, sided.gain
    )
    original = twins.depth_to_space(target, side)
    with devices.use():
      integers = refinement.anneal(
        model.entropy, model.params, x[0], own, original, mix, weight,
        first[0].astype(bool), should_continue,
      )  # fmt: skip
    return integers[None]

  joined = np.concatenate(fields, -1, dtype=np.float32)
  return tiling.apply_tiled(run, joined, 1, 1, tile, halo)


def _grid(model: Model, height: int, width: int) -> tuple[int, int]:
  """Returns rows and columns of coefficients of an image."""
  return -(-height // model.factor), -(-width // model.factor)


def _write(model: Model, image: np.ndarray, chosen: coding.Quantized) -> Encoded:
  """Writes the file of an image and decodes it."""
  symbols, decoded, sided = chosen
  position = symbols.position
  payload, bits = coding.write(model.entropy, symbols, sided)
  header = bitstream.Header(
    family(NAME).id,
    model.profile,
    *image.shape,
    bundle_id=model.id[: bitstream.BUNDLE_ID_BYTES],
  )
  data = bitstream.write(header, [bitstream.Section(bitstream.CODES, payload)])
  details = {
    'lmbda': lmbda_of(model, position),
    'position': position,
    'coefficients': int(symbols.coefficients.size),
    'coefficients_not_zero': int(np.count_nonzero(symbols.coefficients)),
  }
  reconstruction = synthesize(model, decoded, position, image.shape)
  # besides the payload the size is known exactly
  return Encoded(data, reconstruction, bits + 8 * (len(data) - len(payload)), details)


def _search(
  write: Callable[[int], Encoded],
  model: Model,
  image: np.ndarray,
  target: rate_control.Target,
  position: int,
  stop: Callable[[], Any],
) -> Encoded:
  """Moves the position until the target is met, see `rate_control`.

  Args:
    write: makes the file of a position.
    model: the model.
    image: uint8 [H, W, C].
    target: the target.
    position: first one to try.
    stop: asked for a reason to stop.

  Raises:
    OutOfReach: the target is.
  """
  slope = _BPP_SLOPE if target.bpp is not None else _PSNR_SLOPE
  last = model.entropy.tables.positions - 1
  bounds = lmbda_of(model, last), lmbda_of(model, 0)
  tried: dict[int, rate_control.Trial] = {}
  while position not in tried and len(tried) < SEARCH_STEPS:
    lmbda = lmbda_of(model, position)
    tried[position] = rate_control.judge(target, image, lmbda, write(position))
    if rate_control.is_met(target, tried[position].measured, _NEAR) or stop():
      break
    history = [(one.setting, one.gap) for one in tried.values()]
    proposed = rate_control.propose(history, bounds, slope)
    if proposed is None:
      break
    position = position_of(model, proposed)
  return rate_control.conclude(target, list(tried.values()), stop())


def _encode(
  model: Model,
  options: Options,
  image: np.ndarray,
  *,
  progress=None,
  should_stop: ShouldStop | None = None,
) -> Encoded:
  reasons: list[StopReason] = []  # once there is one, it is not asked for again

  def stop() -> StopReason:
    if not reasons and should_stop is not None and (reason := should_stop()):
      reasons.append(reason)
    return reasons[0] if reasons else None

  y = analyze(model, image)
  position = model.position
  if options.lmbda is not None:
    position = position_of(model, options.lmbda)
  weight = 0.0 if options.preset == 'fast' else coding.RD_WEIGHT
  target = rate_control.find_target(options)

  def write(at: int) -> Encoded:
    return _write(model, image, coding.quantize(model.entropy, y, at, weight))

  def write_refined(at: int) -> Encoded:
    chosen = coding.quantize(model.entropy, y, at, weight)
    return _write(model, image, refine(model, y, image, chosen, stop, progress))

  is_refined = options.preset == 'full' and model.is_transform
  if target is None:
    encoded = (write_refined if is_refined else write)(position)
    return encoded._replace(stop_reason=reasons[0] if reasons else None)
  encoded = _search(write, model, image, target, position, stop)
  if is_refined:  # a little larger and better at the same position
    position = encoded.details['position']
    encoded = _search(write_refined, model, image, target, position, stop)
  return encoded


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
  if not unpacked.is_transform:
    devices.start()
    from codax.vae import convolutional

    convolutional.check_arrays(unpacked.config, loaded.arrays)
  options = quality.resolve(options, unpacked.lmbdas)
  return Codec(
    name=name,
    encode=functools.partial(_encode, unpacked, options),
    decode=functools.partial(decode, unpacked),
  )
