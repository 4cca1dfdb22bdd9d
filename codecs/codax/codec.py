"""The Codec contract (image <-> bytes) and the registry of codecs.

Three sorts of codec stand behind one contract: trained ones, whose weights come from a
*bundle*; per-image ones, which train inside `encode`; and the baselines (JPEG and its
successors), which write their own formats. The registry names modules and imports one
only when it is asked for, so this module needs neither JAX nor Pillow::

  codec = get('vqvae', model='runs/vqvae_ba')
  data = codec.encode(pixels).data          # uint8 [H, W, C] -> bytes
  pixels = codec_for(data).decode(data)     # the family and the bundle by the header

A family module has ``make(name, model, options) -> Codec``.
"""

import importlib
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from codax import bitstream
from codax.errors import CodaxError, unknown

PRESETS = ('fast', 'medium', 'full')
MODEL_VARIABLE = 'CODAX_MODEL'

# Called as progress(done, total) from time to time while encoding; done <= total.
Progress = Callable[[int, int], None]
# Why an encoder ended early, or None.
StopReason = Literal['signal', 'max_seconds', 'diverged'] | None
# Asked from time to time while encoding for a reason to stop now. Watching for signals
# belongs to the command: without one, Ctrl-C raises KeyboardInterrupt as usual.
ShouldStop = Callable[[], str | None]


class Options(NamedTuple):
  """What the user may ask of any encoder; a codec refuses what it cannot do.

  Attributes:
    preset: how much time to spend: 'fast', 'medium' or 'full'.
    lmbda: weight of the rate against the distortion, > 0: more is a smaller file.
    bpp: bits per pixel of the file to aim at, > 0.
    psnr: PSNR in dB to aim at, > 0.
    seed: seed of everything random, 0 <= seed < 2**32.
    seconds: train about so long in place of the preset's steps, > 0; of codecs that
      train while encoding.
    count: of Gaussians, > 0; of the Gaussian codec.
    layers: 1 to 4, of which the first ones are a picture too; of the Gaussian codec.

  At most one of `lmbda`, `bpp`, `psnr` and `count` is given.
  """

  preset: str = 'medium'
  lmbda: float | None = None
  bpp: float | None = None
  psnr: float | None = None
  seed: int = 0
  seconds: float | None = None
  count: int | None = None
  layers: int = 1


class Encoded(NamedTuple):
  """What an encoder returns.

  Attributes:
    data: the file.
    reconstruction: uint8 [H, W, C], what decoding `data` gives.
    estimated_bits: the rate model's estimate of ``8 * len(data)``.
    details: anything else worth reporting, JSON-able; 'target_miss' of a file that
      misses its target, see `rate_control`.
    stop_reason: None for a whole encoding; else the reason for its early end: 'signal',
      'max_seconds' or 'diverged'.
  """

  data: bytes
  reconstruction: np.ndarray
  estimated_bits: float
  details: dict
  stop_reason: StopReason = None


class Codec(NamedTuple):
  """An encoder and a decoder.

  Attributes:
    name: the registry's name.
    encode: ``(image uint8 [H, W, C], *, progress=None, should_stop=None) -> Encoded``,
      C in {1, 3}; `progress` is a `Progress` or None, `should_stop` a `ShouldStop` or
      None. Codecs that encode at once never ask it.
    decode: ``bytes -> uint8 [H, W, C]``; raises `BitstreamError` for unsound bytes.
    suffix: of its files.
    prefix: ``(bytes, count) -> uint8 [H, W, C]``, the picture of the first so many
      parts of a file, as `describe` lists them; None if its files are not progressive.
  """

  name: str
  encode: Callable[..., Encoded]
  decode: Callable[[bytes], np.ndarray]
  suffix: str = '.cdx'
  prefix: Callable[[bytes, int], np.ndarray] | None = None


class Family(NamedTuple):
  """A registry entry.

  Attributes:
    id: family number in the header of a `.cdx` file, 1..255; never used again for
      another family. 0 for a codec with a file format of its own.
    module: module with ``make(name, model, options) -> Codec``.
    trained: whether it cannot work without a bundle.
    describe: module with ``describe(data) -> dict`` for `codax info`, or None. It
      must not import JAX and gets no model.
    suffixes: of the files that it writes, for messages.
    gaussians: whether `Options.count` and `Options.layers` have a meaning for it.
  """

  id: int
  module: str
  trained: bool
  describe: str | None = None
  suffixes: tuple[str, ...] = ('.cdx',)
  gaussians: bool = False


def _baseline(*suffixes: str) -> Family:
  return Family(0, 'codax.baselines.codec', False, None, suffixes)


FAMILIES = {
  'vqvae': Family(1, 'codax.vqvae.codec', True, 'codax.vqvae.describe'),
  'overfit': Family(2, 'codax.overfit.codec', False, 'codax.overfit.describe'),
  'splat': Family(
    3, 'codax.splat.codec', False, 'codax.splat.describe', gaussians=True
  ),
}

BASELINES = {
  'jpeg': _baseline('.jpg', '.jpeg'),
  'jpeg420': _baseline('.jpg', '.jpeg'),
  'webp': _baseline('.webp'),
  'avif': _baseline('.avif'),
  'jxl': _baseline('.jxl'),
}


def names() -> tuple[str, ...]:
  """Every codec's name: families first, then baselines."""
  return (*FAMILIES, *BASELINES)


def family(name: str) -> Family:
  """The registry entry of this name.

  Raises:
    CodaxError: no such codec; names the nearest.
  """
  found = FAMILIES.get(name) or BASELINES.get(name)
  if found is None:
    raise unknown('codec', name, names())
  return found


def family_name(number: int) -> str | None:
  """The name of the family of this number, None if this version knows none."""
  return next((name for name, f in FAMILIES.items() if f.id == number), None)


def trains_while_encoding(name: str) -> bool:
  """Whether a codec fits networks to the picture that it encodes."""
  entry = family(name)
  return entry.id > 0 and not entry.trained


def get(name: str, *, model: Any = None, options: Options = Options()) -> Codec:  # noqa: B008
  """Makes a codec for encoding and decoding.

  Args:
    name: one of `names()`.
    model: run directory or bundle file (str or Path), a loaded `bundle.Bundle`, or
      None for a codec that is not trained.
    options: what to ask of the encoder.

  Returns:
    The codec, whose `encode` checks its image.

  Raises:
    CodaxError: unknown name, bad option, a model missing or out of place.
  """
  entry = family(name)
  check_options(options)
  if entry.trained and model is None:
    raise CodaxError(
      f'codec {name!r} needs a trained model: train one (the first command of the '
      'README does) and pass its run directory, for example --model runs/vqvae_ba'
    )
  if not entry.trained and model is not None:
    raise CodaxError(f'codec {name!r} takes no model')
  if options.seconds is not None and not trains_while_encoding(name):
    raise CodaxError(
      f'codec {name!r} does not train while encoding: seconds have no meaning for it'
    )
  if not entry.gaussians and (options.count is not None or options.layers != 1):
    raise CodaxError(
      f'codec {name!r} has no Gaussians: count and layers have no meaning for it'
    )
  made = importlib.import_module(entry.module).make(name, model, options)
  return made._replace(encode=_checked(made.encode))


def codec_for(data: bytes, *, model: Any = None) -> Codec:
  """Makes the codec that decodes this file.

  Args:
    data: a `.cdx` file.
    model: as for `get`; if None, the bundle that the file names is looked for (see
      `find_bundle`).

  Raises:
    CodaxError: unsound file, family that this version does not know, no bundle.
  """
  header = bitstream.peek(data)
  name = family_name(header.family)
  if name is None:
    raise bitstream.BitstreamError(
      f'the file is of codec family {header.family}, which this codax does not know'
    )
  if model is None and header.bundle_id is not None:
    model = find_bundle(header.bundle_id)
  return get(name, model=model)


def find_bundle(bundle_id: bytes) -> Any:
  """Looks for the bundle that a file names, where bundles usually are.

  Searched in order: every entry of the environment variable CODAX_MODEL (bundle files
  or run directories, separated as in PATH), then ``runs/*/bundle.safetensors``. What
  cannot be read is passed over.

  Args:
    bundle_id: the 8 bytes from the header.

  Returns:
    The loaded and verified `bundle.Bundle`.

  Raises:
    CodaxError: there is none; says how to pass one.
  """
  from codax import bundle

  for path in _bundle_files(bundle.FILE_NAME):
    # The file's own word is enough to pass it over: only a match is read in full.
    if _stated_id(path)[: len(bundle_id)] == bundle_id:
      try:
        found = bundle.load(path)
      except (CodaxError, OSError):
        continue
      if found.id[: len(bundle_id)] == bundle_id:
        return found
  raise CodaxError(
    f'the file needs bundle {bundle_id.hex()}, which is neither in ${MODEL_VARIABLE} '
    'nor in runs/*: pass its run directory or bundle file (--model, or model=)'
  )


def encode(
  image: np.ndarray,
  codec: str = 'vqvae',
  model: Any = None,
  *,
  progress: Progress | None = None,
  **options: Any,
) -> bytes:
  """Compresses an image.

  Args:
    image: uint8 [H, W, C] with C in {1, 3}, or [H, W].
    codec: one of `names()`.
    model: run directory, bundle file or loaded bundle, for trained codecs.
    progress: called as ``progress(done, total)`` while encoding.
    **options: fields of `Options`.

  Returns:
    The file's bytes (of the baseline's own format for a baseline).
  """
  for name in options:
    if name not in Options._fields:
      raise unknown('option', name, Options._fields)
  made = get(codec, model=model, options=Options(**options))
  return made.encode(image, progress=progress).data


def decode(data: bytes, model: Any = None) -> np.ndarray:
  """Decompresses a `.cdx` file.

  Args:
    data: the file's bytes.
    model: run directory, bundle file or loaded bundle; looked for if None (see
      `find_bundle`).

  Returns:
    uint8 [H, W, C].
  """
  return codec_for(data, model=model).decode(data)


def read_payload(name: str, data: bytes, known=frozenset({bitstream.CODES})):
  """What every family asks of its files before it looks into them.

  Args:
    name: the family's.
    data: the file.
    known: the critical sections that the family understands.

  Returns:
    (header, sections, payload of the codes).

  Raises:
    BitstreamError: the file is unsound, of another family, with or without a bundle
      against the family's habit, of a number of channels that none has, or without
      codes.
  """
  header, sections = bitstream.read(data, known=known)
  own = family(name)
  if header.family != own.id:
    raise bitstream.BitstreamError(f'the file is not of family {name!r}')
  if own.trained and header.bundle_id is None:
    raise bitstream.BitstreamError('the file names no bundle')
  if header.bundle_id is not None and not own.trained:
    raise bitstream.BitstreamError(f'a file of family {name!r} needs no bundle')
  if header.channels not in (1, 3):
    raise bitstream.BitstreamError(f'{name} has no {header.channels}-channel pictures')
  payload = bitstream.find(sections, bitstream.CODES)
  if payload is None:
    raise bitstream.BitstreamError('the file has no section of codes')
  return header, sections, payload


def describe(data: bytes) -> dict:
  """Facts about a `.cdx` file that need no model, JSON-able.

  Returns:
    bytes, height, width, channels, family (name or None), family_id, format_version,
    profile, bundle_id (hex or None), bpp (8 * bytes / pixels), orientation, overhead
    (bytes outside payloads), sections (list of kind, name, critical, bytes), and what
    the family adds.
  """
  header, sections = bitstream.read(data, known=None)
  name = family_name(header.family)
  facts = {
    'bytes': len(data),
    'height': header.height,
    'width': header.width,
    'channels': header.channels,
    'family': name,
    'family_id': header.family,
    'format_version': bitstream.VERSION,
    'profile': header.profile,
    'bundle_id': header.bundle_id.hex() if header.bundle_id else None,
    'bpp': 8 * len(data) / (header.height * header.width),
    'orientation': bitstream.orientation(sections),
    'overhead': len(data) - sum(len(s.payload) for s in sections),
    'sections': [
      {
        'kind': s.kind,
        'name': bitstream.SECTION_NAMES.get(s.kind, f'0x{s.kind:02x}'),
        'critical': not s.kind & bitstream.ANCILLARY,
        'bytes': len(s.payload),
      }
      for s in sections
    ],
  }
  if name is not None and FAMILIES[name].describe is not None:
    more = importlib.import_module(FAMILIES[name].describe).describe(data)
    facts.update((key, value) for key, value in more.items() if key not in facts)
  return facts


def check_image(image: np.ndarray) -> np.ndarray:
  """The image as uint8 [H, W, C], C in {1, 3}; [H, W] becomes [H, W, 1].

  Raises:
    CodaxError: another dtype or shape, or larger than the format allows.
  """
  image = np.asarray(image)
  if image.dtype != np.uint8:
    raise CodaxError(f'an image must be uint8, not {image.dtype}')
  if image.ndim == 2:
    image = image[..., None]
  if image.ndim != 3 or image.shape[2] not in (1, 3) or not image.size:
    raise CodaxError(
      'an image must be uint8 [H, W], [H, W, 1] or [H, W, 3] with at '
      f'least one pixel, not of shape {image.shape}'
    )
  limits = bitstream.DEFAULT_LIMITS
  h, w = image.shape[:2]
  if max(h, w) > limits.max_side or h * w > limits.max_pixels:
    raise CodaxError(
      f'an image may have sides up to {limits.max_side} and up to '
      f'{limits.max_pixels} pixels, not {w} x {h}'
    )
  return image


def check_options(options: Options) -> None:
  """Raises `CodaxError` unless every option is in its range."""
  if options.preset not in PRESETS:
    raise unknown('preset', options.preset, PRESETS)
  targets = {name: getattr(options, name) for name in ('lmbda', 'bpp', 'psnr', 'count')}
  given = {name: value for name, value in targets.items() if value is not None}
  for name, value in given.items():
    if not (math.isfinite(value) and value > 0):
      raise CodaxError(f'{name} must be a positive number, not {value}')
  if len(given) > 1:
    raise CodaxError(
      f'give one of lmbda, bpp, psnr and count, not {" and ".join(given)}'
    )
  if options.count is not None and int(options.count) != options.count:
    raise CodaxError(f'count must be a whole number, not {options.count}')
  if options.seconds is not None and not (
    math.isfinite(options.seconds) and options.seconds > 0
  ):
    raise CodaxError(f'seconds must be a positive number, not {options.seconds}')
  if options.layers not in range(1, 5):
    raise CodaxError(f'layers must be 1 to 4, not {options.layers}')
  if not 0 <= options.seed < 2**32:
    raise CodaxError(f'seed must be 0 to 2**32 - 1, not {options.seed}')


def _checked(encode: Callable[..., Encoded]) -> Callable[..., Encoded]:
  def checked(
    image: np.ndarray,
    *,
    progress: Progress | None = None,
    should_stop: ShouldStop | None = None,
  ) -> Encoded:
    return encode(check_image(image), progress=progress, should_stop=should_stop)

  return checked


def _bundle_files(file_name: str) -> list[Path]:
  """Candidates for `find_bundle`, in order; they may not exist."""
  entries = os.environ.get(MODEL_VARIABLE, '').split(os.pathsep)
  paths = [Path(entry) for entry in entries if entry]
  paths = [path / file_name if path.is_dir() else path for path in paths]
  return paths + sorted(Path('runs').glob(f'*/{file_name}'))


def _stated_id(path: Path) -> bytes:
  """The id in the metadata of a bundle file, unverified; empty if there is none."""
  import safetensors

  try:
    with safetensors.safe_open(path, framework='numpy') as f:
      return bytes.fromhex((f.metadata() or {}).get('id', ''))
  except (OSError, ValueError, safetensors.SafetensorError):
    return b''
