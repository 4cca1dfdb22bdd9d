"""The VQ-VAE as a codec: pictures to `.cdx` files and back, through a trained bundle.

Encoding: pad to whole latent steps, run the encoder, choose a code for every latent,
code the map of codes. The choice weighs bits against latent error, with the bits that
the entropy model will really charge::

  argmin_k  |z - e_k|^2 / sigma^2 + lmbda * bits(k | what is already coded)

sigma^2 is the model's own mean quantisation error, measured in training, so `lmbda`
means the same for every model: how many typical errors one bit is worth. The map is
coded with the context model or with the static prior, whichever file is smaller.

Decoding is the entropy decoder (integers only) and then the decoder network.
"""

import functools
import math
from typing import Any

import jax
import numpy as np

from codax import bitstream, rate_control
from codax import bundle as bundles
from codax.codec import Codec, Encoded, Options
from codax.entropy import context_coder, tables
from codax.families import family, read_payload
from codax.vqvae import latent_refinement
from codax.vqvae import model as nets
from codax.vqvae.bundle_io import FAMILY as NAME
from codax.vqvae.bundle_io import Model, unpack

STATIC, CONTEXT = 0, 1  # header.profile
# Pictures with longer sides are run in tiles of this many pixels, to bound memory.
TILE = 1024
# The rate search stays within: beyond this many typical errors a bit images break, and
# below the least a whole file of bits is worth less than an error.
MIN_LMBDA, MAX_LMBDA = 1e-6, 4.0
SEARCH_STEPS = 14
# Change of log(bpp), and of PSNR in dB, for a change of log(lambda) by one; rough.
_BPP_SLOPE, _PSNR_SLOPE = -0.2, -1.0
_NEAR = 0.1  # share of the tolerance at which the search ends: its tries are cheap
REFINE_STEPS = {'fast': 0, 'medium': 12, 'full': 60}


# Every shape is a program of its own; this many of the latest are kept. Without a limit
# a process that decodes files of ever new sizes would grow for ever.
@functools.lru_cache(maxsize=32)
def _encode_program(config: nets.ModelConfig, shape: tuple[int, ...]):
  """Compiled (params, image uint8 `shape`) -> latents."""
  del shape  # the key alone: a function of its own, dropped with its program
  net = nets.Encoder(config)
  return jax.jit(lambda p, image: net.apply({'params': p}, nets.to_model(image)))


@functools.lru_cache(maxsize=32)
def _decode_program(config: nets.ModelConfig, shape: tuple[int, ...]):
  """Compiled (params, values float32 `shape`) -> image uint8."""
  del shape
  net = nets.Decoder(config)
  return jax.jit(lambda p, values: nets.to_uint8(net.apply({'params': p}, values)))


def _windows(size: int, tile: int, halo: int):
  """(start, stop, first, last) of windows over an axis: read [start, stop), keep
  [first, last). Windows stay inside the picture, at whose edge the networks pad by
  zeros, and are all of one length, so that a picture is one program and not nine."""
  length = tile + 2 * halo
  if size <= length:
    yield 0, size, 0, size
    return
  for first in range(0, size, tile):
    start = min(max(first - halo, 0), size - length)
    yield start, start + length, first, min(first + tile, size)


def _tiled(run, x: np.ndarray, steps_in: int, steps_out: int, tile: int, halo: int):
  """Applies `run` ([1, h, w, c] -> [1, h', w', c']) in overlapping tiles.

  Args:
    x: [H, W, C], with `steps_in` samples to a latent step.
    steps_out: samples to a latent step in the result.
    tile, halo: in latent steps; with a halo of the receptive field the tiles agree.
  """
  h, w = x.shape[0] // steps_in, x.shape[1] // steps_in
  out = None
  for y0, y1, top, bottom in _windows(h, tile, halo):
    for x0, x1, left, right in _windows(w, tile, halo):
      window = x[y0 * steps_in : y1 * steps_in, x0 * steps_in : x1 * steps_in]
      part = np.asarray(run(window[None]))[0]
      if out is None:
        out = np.empty((h * steps_out, w * steps_out, part.shape[-1]), part.dtype)
      keep = part[
        (top - y0) * steps_out : (bottom - y0) * steps_out,
        (left - x0) * steps_out : (right - x0) * steps_out,
      ]
      out[
        top * steps_out : bottom * steps_out, left * steps_out : right * steps_out
      ] = keep
  return out


def _padded(image: np.ndarray, factor: int) -> np.ndarray:
  """RGB, padded by its edge to whole latent steps."""
  h, w, c = image.shape
  image = np.pad(image, ((0, -h % factor), (0, -w % factor), (0, 0)), mode='edge')
  return np.repeat(image, 3, axis=-1) if c == 1 else image


def latents(model: Model, image: np.ndarray) -> np.ndarray:
  """uint8 [H, W, 1 or 3] to float32 latents [ceil(H/f), ceil(W/f), D]."""
  f = model.config.factor
  padded = _padded(image, f)
  run = lambda x: _encode_program(model.config, x.shape)(model.encoder, x)
  halo = 2 * model.config.encoder_blocks + 4
  return _tiled(run, padded, f, 1, TILE // f, halo)


def refined(model: Model, z: np.ndarray, image: np.ndarray, lmbda: float, steps: int):
  """Latents after `steps` of `latent_refinement`, tile by tile. Shape of z."""
  if not steps:
    return z
  f, dim = model.config.factor, z.shape[-1]
  target = np.asarray(nets.space_to_depth(_padded(image, f), f), np.float32)
  prices = model.sigma2 * lmbda * (tables.PRECISION - np.log2(model.prior))
  prices = prices.astype(np.float32)
  scale = math.sqrt(model.sigma2 / model.codebook.shape[-1])

  def run(x):
    return latent_refinement.refine(
      model.config, model.decoder, model.codebook, prices, scale,
      x[..., :dim], nets.to_model(nets.depth_to_space(x[..., dim:], f)), steps,
    )  # fmt: skip

  halo = 2 * model.config.decoder_blocks + 4
  return _tiled(run, np.concatenate([z, target], -1), 1, 1, TILE // f, halo)


def synthesise(model: Model, codes: np.ndarray, shape: tuple[int, int, int]):
  """Codes int32 [h, w, G] to the picture uint8 `shape` = [H, W, C]."""

  def run(part):
    values = look_up(model.codebook, part)
    return _decode_program(model.config, values.shape)(model.decoder, values)

  f, halo = model.config.factor, 2 * model.config.decoder_blocks + 4
  image = _tiled(run, codes, 1, f, TILE // f, halo)[: shape[0], : shape[1]]
  if shape[2] == 1:
    return ((image.astype(np.int32).sum(-1, keepdims=True) + 1) // 3).astype(np.uint8)
  return image


def look_up(codebook: np.ndarray, codes: np.ndarray) -> np.ndarray:
  """Codebook [G, K, d] at codes [..., G]: float32 [..., G * d]."""
  parts = [book[codes[..., g]] for g, book in enumerate(codebook)]
  return np.concatenate(parts, axis=-1)


def _distances(model: Model, z: np.ndarray, group: int) -> np.ndarray:
  """Latents [N, d] of one group to |z - e|^2 / sigma^2, up to a constant in n."""
  book = model.codebook[group]
  cross = z @ (2 * book.T)
  return ((book**2).sum(-1)[None, :] - cross) / model.sigma2


def choose(model: Model, z: np.ndarray, lmbda: float, progress=None) -> np.ndarray:
  """The codes int32 [h, w, G] that minimise the module's objective, in coding order.

  Greedy: each choice knows the codes before it and not its effect on those after.
  """
  h, w, _ = z.shape
  groups, k, dim = model.codebook.shape
  flat = z.reshape(-1, groups, dim)
  if lmbda == 0 or model.context is None:
    price = lmbda * (tables.PRECISION - np.log2(model.prior))
    codes = [
      np.argmin(_distances(model, flat[:, g], g) + price[g][None, :], axis=-1)
      for g in range(groups)
    ]
    return np.stack(codes, -1).reshape(h, w, groups).astype(np.int32)
  done = 0

  def step(positions, freqs):
    nonlocal done
    where, g = positions // groups, int(positions[0] % groups)
    cost = _distances(model, flat[where, g], g) - lmbda * np.log2(freqs)
    done += len(positions)
    if progress is not None:
      progress(done, h * w * groups)
    return np.argmin(cost, axis=-1)

  return context_coder.walk(model.context, h, w, step)


def pack(model: Model, codes: np.ndarray, shape: tuple[int, int, int]):
  """The file of a code map, and its estimated size in bits."""
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
  """The code map of a file; `BitstreamError` if it is unsound or of another bundle."""
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
  """Chooses the codes of latents [h, w, D], writes their file and decodes it."""
  codes = choose(model, z, lmbda, progress)
  data, bits, profile = pack(model, codes, image.shape)
  details = {
    'lmbda': lmbda,
    'entropy_model': ('static', 'context')[profile],
    'codes': int(codes.size),
    'codes_used': len(np.unique(codes)),
    'bits_per_code': bits / codes.size,
  }
  return Encoded(data, synthesise(model, codes, image.shape), bits, details)


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
  z = latents(model, image)
  lmbda = model.lmbda if options.lmbda is None else options.lmbda
  z = refined(model, z, image, lmbda, REFINE_STEPS[options.preset])
  target = rate_control.find_target(options)
  if target is not None:
    return _search(model, z, image, target, should_stop)
  return _encode_latents(model, z, image, lmbda, progress)


def make(name: str, model: Any, options: Options) -> Codec:
  """The codec for a run directory, a bundle file or a loaded bundle."""
  loaded = model if isinstance(model, bundles.Bundle) else bundles.load(model)
  unpacked = unpack(loaded)

  def decode(data: bytes) -> np.ndarray:
    codes, header = unpack_codes(unpacked, data)
    return synthesise(unpacked, codes, (header.height, header.width, header.channels))

  return Codec(
    name=name,
    encode=functools.partial(_encode, unpacked, options),
    decode=decode,
  )
