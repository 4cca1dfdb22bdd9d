"""The VQ-VAE as a codec: images to `.cdx` files and back, through a trained bundle.

Encoding: pad to whole latent steps, run the encoder, select a code for every latent,
code the map of codes. The selection weighs bits against latent error, with the code
lengths of the entropy model::

  argmin_k  |z - e_k|^2 / sigma^2 + lmbda * bits(k | codes before)

sigma^2 is the model's own mean quantization error, measured in training, so `lmbda`
means the same for every model: the weight of one bit in typical errors. The map is
coded with the context model or with the static prior, whichever file is smaller.

Decoding is the entropy decoder (integers only) and then the decoder network.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codax import bitstream, programs, quality, rate_control
from codax import bundle as bundles
from codax.codec import Codec, Encoded, Options, Progress, ShouldStop, StopReason
from codax.entropy import context_coder, tables
from codax.families import family, read_payload
from codax.layers import tiling
from codax.quantize import exported
from codax.vqvae import latent_refinement
from codax.vqvae import model as nets
from codax.vqvae.bundle_io import FAMILY as NAME
from codax.vqvae.bundle_io import Model, unpack

STATIC, CONTEXT = 0, 1  # header.profile
# Images with longer sides are run in tiles of this many pixels, to bound memory.
TILE = 1024
# The rate search stays within: beyond this many typical errors a bit images break, and
# below the least a whole file of bits is worth less than an error.
MIN_LMBDA, MAX_LMBDA = 1e-6, 4.0
SEARCH_STEPS = 14
# Lambda at quality 1 and 100, see `codax.quality`.
QUALITY_ENDS = 2.0, 5e-3
# Change of log(bpp), and of PSNR in dB, for a change of log(lambda) by one; rough.
_BPP_SLOPE, _PSNR_SLOPE = -0.2, -1.0
_NEAR = 0.1  # share of the tolerance at which the search ends: its tries are cheap
REFINE_STEPS = {'fast': 0, 'medium': 12, 'full': 60}
# (start, per megapixel) in seconds on two CPU cores by preset: loading, then encoding.
SECONDS = {'fast': (3, 3), 'medium': (5, 20), 'full': (5, 90)}


@programs.jit_by_shape(static=('config',), kept=programs.KEPT_SMALL)
def _encode_program(config: nets.ModelConfig, params: Any, image: jax.Array):
  """Computes the latents of an image, uint8."""
  net = nets.Encoder(config)
  return net.apply({'params': params}, nets.to_model(image))


@programs.jit_by_shape(static=('config',), kept=programs.KEPT_SMALL)
def _decode_program(config: nets.ModelConfig, params: Any, values: jax.Array):
  """Computes the image, uint8, of values float32."""
  net = nets.Decoder(config)
  return nets.to_uint8(net.apply({'params': params}, values))


def _pad(image: np.ndarray, factor: int) -> np.ndarray:
  """Pads an image by its edge to whole latent steps and repeats gray to RGB."""
  h, w, c = image.shape
  image = np.pad(image, ((0, -h % factor), (0, -w % factor), (0, 0)), mode='edge')
  return np.repeat(image, 3, axis=-1) if c == 1 else image


def latents(model: Model, image: np.ndarray) -> np.ndarray:
  """Encodes uint8 [H, W, 1 or 3] to float32 latents [ceil(H/f), ceil(W/f), D].

  The latents are in the space of the quantizer's codewords.
  """
  f = model.config.factor
  padded = _pad(image, f)
  run = lambda x: _encode_program(model.config, model.encoder, x)
  halo = 2 * model.config.encoder_blocks + 4
  z = tiling.apply_tiled(run, padded, f, 1, TILE // f, halo)
  return model.codebooks.project(z)


def refine_latents(
  model: Model,
  z: np.ndarray,
  image: np.ndarray,
  lmbda: float,
  steps: int,
  should_stop: ShouldStop = lambda: None,
) -> np.ndarray:
  """Runs `steps` of `latent_refinement` on latents z, tile by tile. Shape of z."""
  if not steps:
    return z
  f, dim = model.config.factor, z.shape[-1]
  target = np.asarray(nets.space_to_depth(_pad(image, f), f), np.float32)
  costs = model.sigma2 * lmbda * (tables.PRECISION - np.log2(model.prior))
  books = model.codebooks.stages
  costs = tuple(np.split(costs.astype(np.float32), len(books)))
  scale = math.sqrt(model.sigma2 / books[0].shape[-1])

  def run(x):
    original = jnp.asarray(x[..., dim:])  # NumPy would scale it to other last bits
    return latent_refinement.refine(
      model.config, model.decoder, books, costs, scale,
      x[..., :dim], nets.to_model(nets.depth_to_space(original, f)), steps,
      should_stop,
    )  # fmt: skip

  halo = 2 * model.config.decoder_blocks + 4
  both = np.concatenate([z, target], -1)
  return tiling.apply_tiled(run, both, 1, 1, TILE // f, halo)


def synthesize(
  model: Model, codes: np.ndarray, shape: tuple[int, int, int]
) -> np.ndarray:
  """Decodes codes int32 [h, w, G] to the image uint8 `shape` = [H, W, C]."""

  def run(tile):
    values = exported.decode(model.codebooks, tile)
    return _decode_program(model.config, model.decoder, values)

  f, halo = model.config.factor, 2 * model.config.decoder_blocks + 4
  image = tiling.apply_tiled(run, codes, 1, f, TILE // f, halo)
  image = image[: shape[0], : shape[1]]
  if shape[2] == 1:
    return ((image.astype(np.int32).sum(-1, keepdims=True) + 1) // 3).astype(np.uint8)
  return image


def rd_select_codes(
  model: Model, z: np.ndarray, lmbda: float, progress: Progress | None = None
) -> np.ndarray:
  """Selects the codes int32 [h, w, G] that minimize the module's objective.

  Greedy, in coding order: each selection knows the codes before it and not its effect
  on those after.
  """
  h, w, dim = z.shape
  groups = model.codebooks.groups
  flat = z.reshape(-1, dim)
  codes = np.empty((h * w, groups), np.int32)
  distances = lambda at, g: (
    exported.costs(model.codebooks, flat[at], codes[at, :g]) / model.sigma2
  )
  if lmbda == 0 or model.context is None:
    bits = lmbda * (tables.PRECISION - np.log2(model.prior))
    for g in range(groups):
      cost = distances(slice(None), g) + bits[g][None, :]
      codes[:, g] = np.argmin(cost, axis=-1)
    return codes.reshape(h, w, groups)
  done = 0

  def step(positions, freqs):
    nonlocal done
    at, g = positions // groups, int(positions[0] % groups)
    cost = distances(at, g) - lmbda * np.log2(freqs)
    codes[at, g] = np.argmin(cost, axis=-1)
    done += len(positions)
    if progress is not None:
      progress(done, h * w * groups)
    return codes[at, g]

  return context_coder.walk(model.context, h, w, step)


def pack(model: Model, codes: np.ndarray, shape: tuple[int, int, int]):
  """Writes a code map as a file; returns it, its estimated bits and its profile."""
  payload, bits = context_coder.encode_static(model.prior, codes)
  profile = STATIC
  if model.context is not None:
    other, other_bits = context_coder.encode(model.context, codes)
    if len(other) < len(payload):
      payload, bits, profile = other, other_bits, CONTEXT
  header = bitstream.Header(
    family(NAME).id, profile, *shape, bundle_id=model.id[: bitstream.BUNDLE_ID_BYTES]
  )
  data = bitstream.write(header, [bitstream.Section(bitstream.CODES, payload)])
  # besides the payload the size is known exactly
  return data, bits + 8 * (len(data) - len(payload)), profile


def unpack_codes(model: Model, data: bytes) -> tuple[np.ndarray, bitstream.Header]:
  """Reads a file's code map; `BitstreamError` if it is unsound or of another bundle."""
  header, _, payload = read_payload(NAME, data)
  bundles.check_id(model.id, header.bundle_id)
  f = model.config.factor
  h, w = -(-header.height // f), -(-header.width // f)
  if header.profile == STATIC:
    return context_coder.decode_static(model.prior, payload, h, w), header
  if header.profile == CONTEXT and model.context is not None:
    return context_coder.decode(model.context, payload, h, w), header
  raise bitstream.BitstreamError(f'the file has an unknown profile {header.profile}')


def _encode_latents(model: Model, z, image, lmbda: float, progress=None) -> Encoded:
  """Selects the codes of latents [h, w, D], writes their file and decodes it."""
  codes = rd_select_codes(model, z, lmbda, progress)
  data, bits, profile = pack(model, codes, image.shape)
  details = {
    'lmbda': lmbda,
    'entropy_model': ('static', 'context')[profile],
    'codes': int(codes.size),
    'codes_used': len(np.unique(codes)),
    'bits_per_code': bits / codes.size,
  }
  return Encoded(data, synthesize(model, codes, image.shape), bits, details)


def _search(model, z, image, target: rate_control.Target, should_stop) -> Encoded:
  """Moves lmbda until the target is met, see `rate_control`.

  Raises:
    OutOfReach: the target is.
  """
  slope = _BPP_SLOPE if target.bpp is not None else _PSNR_SLOPE
  lmbda = min(max(model.lmbda, MIN_LMBDA), MAX_LMBDA)
  tried, stop_reason = [], None
  while lmbda is not None and len(tried) < SEARCH_STEPS and not stop_reason:
    encoded = _encode_latents(model, z, image, lmbda)
    tried.append(rate_control.judge(target, image, lmbda, encoded))
    if rate_control.is_met(target, tried[-1].measured, _NEAR):
      break
    history = [(one.setting, one.gap) for one in tried]
    lmbda = rate_control.propose(history, (MIN_LMBDA, MAX_LMBDA), slope)
    stop_reason = should_stop() if should_stop is not None else None
  return rate_control.conclude(target, tried, stop_reason)


def _encode(
  model: Model,
  options: Options,
  image: np.ndarray,
  *,
  progress=None,
  should_stop=None,
) -> Encoded:
  reasons: list[StopReason] = []  # once there is one, it is not asked for again

  def stop() -> StopReason:
    if not reasons and should_stop is not None and (reason := should_stop()):
      reasons.append(reason)
    return reasons[0] if reasons else None

  z = latents(model, image)
  lmbda = model.lmbda if options.lmbda is None else options.lmbda
  steps = REFINE_STEPS[options.preset]
  z = refine_latents(model, z, image, lmbda, steps, stop)
  target = rate_control.find_target(options)
  if target is not None:
    return _search(model, z, image, target, stop)
  encoded = _encode_latents(model, z, image, lmbda, progress)
  return encoded._replace(stop_reason=reasons[0] if reasons else None)


def make(name: str, model: Any, options: Options) -> Codec:
  """Makes the codec for a run directory, a bundle file or a loaded bundle."""
  loaded = model if isinstance(model, bundles.Bundle) else bundles.load(model)
  unpacked = unpack(loaded)
  options = quality.resolve(options, QUALITY_ENDS)

  def decode(data: bytes) -> np.ndarray:
    codes, header = unpack_codes(unpacked, data)
    return synthesize(unpacked, codes, (header.height, header.width, header.channels))

  return Codec(
    name=name,
    encode=functools.partial(_encode, unpacked, options),
    decode=decode,
  )
