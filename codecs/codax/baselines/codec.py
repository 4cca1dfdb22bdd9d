"""JPEG, WebP, AVIF and JPEG XL behind the Codec contract, through Pillow.

Files are of the codec's own format, with no metadata in them, so that their size is
the cost of the pixels alone. Chroma is kept whole (4:4:4) except in 'jpeg420' and
'webp' (lossy WebP has 4:2:0 only). ``Options.preset`` sets the effort of the encoder,
never its quality.
"""

import io
import warnings
from typing import Any, NamedTuple

import numpy as np

from codax import rate_control
from codax.bitstream import BitstreamError
from codax.codec import Codec, Encoded, Options, check_image
from codax.errors import CodaxError, unknown
from codax.metrics import rate
from codax.rate_control import Target

DEFAULT_QUALITY = 75
QUALITIES = range(1, 101)
# Change of log(bpp), and of PSNR in dB, for a change of log(quality) by one; rough.
_BPP_SLOPE, _PSNR_SLOPE = 1.0, 5.0


class _Format(NamedTuple):
  """A baseline.

  Attributes:
    pillow: Pillow's name of the format.
    suffix: ending of its files.
    fixed: save options of every file.
    effort: further save options by preset.
  """

  pillow: str
  suffix: str
  fixed: dict[str, Any]
  effort: dict[str, dict[str, Any]]


_JPEG_EFFORT = {
  'fast': {},
  'medium': {'optimize': True},
  'full': {'optimize': True, 'progressive': True},
}
_FORMATS = {
  'jpeg': _Format('JPEG', '.jpg', {'subsampling': 0}, _JPEG_EFFORT),
  'jpeg420': _Format('JPEG', '.jpg', {'subsampling': 2}, _JPEG_EFFORT),
  'webp': _Format(
    'WEBP',
    '.webp',
    {},
    {'fast': {'method': 2}, 'medium': {'method': 6}, 'full': {'method': 6}},
  ),
  # One thread: with more, the bytes depend on how the image is cut up among them.
  'avif': _Format(
    'AVIF',
    '.avif',
    {'subsampling': '4:4:4', 'max_threads': 1},
    {'fast': {'speed': 9}, 'medium': {'speed': 6}, 'full': {'speed': 2}},
  ),
  'jxl': _Format(
    'JXL',
    '.jxl',
    {'num_threads': 1},
    {'fast': {'effort': 3}, 'medium': {'effort': 7}, 'full': {'effort': 9}},
  ),
}
NAMES = tuple(_FORMATS)


def _format(name: str) -> _Format:
  """Returns the format, once Pillow is known to have it."""
  from PIL import features

  if name not in _FORMATS:
    raise unknown('baseline codec', name, _FORMATS)
  if name == 'jxl':
    try:
      with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        import pillow_jxl  # noqa: F401  (importing registers the format)
    except ImportError as e:
      raise CodaxError(
        "codec 'jxl' needs a Pillow plugin: pip install 'codax[baselines]'"
      ) from e
  elif not features.check({'JPEG': 'jpg'}.get(_FORMATS[name].pillow, name)):
    raise CodaxError(
      f'codec {name!r} is not in this Pillow: pip install --upgrade pillow'
    )
  return _FORMATS[name]


def list_available() -> tuple[str, ...]:
  """Lists the names of the baselines that work here."""
  names = []
  for name in NAMES:
    try:
      _format(name)
    except CodaxError:
      continue
    names.append(name)
  return tuple(names)


def _save(image: np.ndarray, name: str, quality: int, preset: str) -> bytes:
  """Makes a file of this format."""
  from PIL import Image

  fmt = _format(name)
  squeezed = image[..., 0] if image.shape[-1] == 1 else image
  options = fmt.fixed | fmt.effort[preset] | {'quality': quality}
  if name == 'jxl' and quality == 100:
    options['lossless'] = True  # The plugin's quality 100 means this and needs it.
  out = io.BytesIO()
  try:
    Image.fromarray(np.ascontiguousarray(squeezed)).save(out, fmt.pillow, **options)
  except (OSError, ValueError, RuntimeError) as e:
    h, w = image.shape[:2]
    raise CodaxError(f'{name} cannot encode an image of {w} x {h}: {e}') from e
  return out.getvalue()


def _load(data: bytes, name: str) -> np.ndarray:
  """Decodes a file of this format; anything else is a `BitstreamError`."""
  from PIL import Image

  fmt = _format(name)
  try:
    with Image.open(io.BytesIO(data), formats=[fmt.pillow]) as im:
      im = im.convert('L' if im.mode == 'L' else 'RGB')
    pixels = np.array(im, np.uint8)
  # Damage surfaces as nearly any exception of Pillow's parsers and plugins.
  except Exception as e:
    raise BitstreamError(f'not a sound {fmt.pillow} file: {e}') from e
  return pixels[..., None] if pixels.ndim == 2 else pixels


def match_channels(decoded: np.ndarray, channels: int) -> np.ndarray:
  """Converts a decoded image to as many channels as its original had.

  WebP has no grey: a grey original comes back as RGB with three equal channels.

  Args:
    decoded: uint8 [H, W, 1 or 3].
    channels: 1 or 3.

  Returns:
    uint8 [H, W, channels]; grey is the green channel, RGB is grey three times.
  """
  if decoded.shape[-1] == channels:
    return decoded
  return decoded[..., 1:2] if channels == 1 else np.repeat(decoded, 3, axis=-1)


def _encode(image, name, quality, preset) -> Encoded:
  """Encodes at one quality."""
  data = _save(image, name, quality, preset)
  decoded = match_channels(_load(data, name), image.shape[-1])
  return Encoded(data, decoded, float(8 * len(data)), {'quality': quality})


def _search(image, name: str, preset: str, target: Target) -> list[rate_control.Trial]:
  """Encodes with ever nearer qualities.

  It ends at two neighbors around the target or at an end of the scale.
  """
  slope = _BPP_SLOPE if target.bpp is not None else _PSNR_SLOPE
  quality, tried = DEFAULT_QUALITY, []
  while quality is not None:
    encoded = _encode(image, name, quality, preset)
    tried.append(rate_control.judge(target, image, quality, encoded))
    history = [(one.setting, one.gap) for one in tried]
    bounds = QUALITIES[0], QUALITIES[-1]
    quality = rate_control.propose(history, bounds, slope, is_integer=True)
  return tried


def make(name: str, model: Any = None, options: Options = Options()) -> Codec:  # noqa: B008
  """Makes a baseline codec.

  Args:
    name: one of `NAMES`.
    model: must be None.
    options: `bpp` and `psnr` take the quality whose file is nearest (`rate_control`).
      Without either, `quality` on the codec's own scale, 75 by default. `preset` sets
      the effort.

  Raises:
    CodaxError: unknown or missing codec, a model, or `lmbda`, which baselines lack.
  """
  if model is not None:
    raise CodaxError(f'codec {name!r} takes no model')
  if options.lmbda is not None:
    raise CodaxError(f'codec {name!r} has no lmbda; give bpp or psnr')
  if options.bpp is None and options.psnr is None:
    quality = DEFAULT_QUALITY if options.quality is None else options.quality
    return at_quality(name, quality, preset=options.preset or 'medium')

  preset = options.preset or 'medium'
  target = rate_control.find_target(options)

  def encode(image, *, progress=None, should_stop=None) -> Encoded:
    del progress, should_stop  # It takes no time worth a bar.
    tried = _search(check_image(image), name, preset, target)
    return rate_control.conclude(target, tried)

  return at_quality(name, DEFAULT_QUALITY)._replace(encode=encode)


def at_quality(name: str, quality: int, *, preset: str = 'medium') -> Codec:
  """Makes a baseline codec at a fixed quality.

  Args:
    name: one of `NAMES`.
    quality: 1..100, on the codec's own scale (they are not comparable).
    preset: effort, 'fast', 'medium' or 'full'.

  Raises:
    CodaxError: unknown or missing codec, quality out of range, unknown preset.
  """
  fmt = _format(name)
  if quality not in QUALITIES:
    raise CodaxError(f'quality is {quality}; valid: 1..100')
  if preset not in fmt.effort:
    raise unknown('preset', preset, fmt.effort)

  def encode(image, *, progress=None, should_stop=None) -> Encoded:
    del progress, should_stop
    return _encode(check_image(image), name, int(quality), preset)

  return Codec(name, encode, lambda data: _load(data, name), fmt.suffix)


def encode_nearest_size(image: np.ndarray, name: str, nbytes: int) -> Encoded:
  """Encodes with the quality whose file is nearest to `nbytes`.

  Args:
    image: uint8 [H, W, C], C in {1, 3}.
    name: one of `NAMES`.
    nbytes: size to come near to, in bytes.

  Returns:
    The `Encoded`; ``details['quality']`` is its quality. At the ends of the scale it
    can be far off.
  """
  image = check_image(image)
  target = Target(bpp=rate.bpp(nbytes, *image.shape[:2]))
  tried = [trial.file for trial in _search(image, name, 'medium', target)]
  return min(tried, key=lambda file: abs(len(file.data) - nbytes))
