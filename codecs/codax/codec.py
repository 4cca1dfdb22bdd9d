"""The Codec contract: an image to bytes and back.

Codecs with trained weights, codecs that train on each image and the baselines (JPEG and
its successors) stand behind it alike; `codax.families` makes them by name. This module
needs neither JAX nor Pillow.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple

import numpy as np

from codax import alpha, bitstream, devices, quality
from codax.arguments import as_bytes
from codax.config import is_number
from codax.errors import CodaxError, unknown

PRESETS = ('fast', 'medium', 'full')
SUFFIX = '.cdx'
# Requests of `Options` for a size or a quality, which exclude each other.
TARGETS = ('quality', 'lmbda', 'bpp', 'psnr')

# Called as progress(done, total) from time to time while encoding; done <= total.
Progress = Callable[[int, int], None]
# Why an encoder ended early, or None.
StopReason = Literal['signal', 'max_seconds', 'diverged'] | None
# Asked from time to time while encoding for a reason to stop now. Watching for signals
# belongs to the command: without one, Ctrl-C raises KeyboardInterrupt as usual.
ShouldStop = Callable[[], str | None]


class Option(NamedTuple):
  """An option of one family's encoder, from which flags and checks are made.

  Attributes:
    name: keyword and, with dashes, name of the flag.
    kind: int or float, or str for one of `choices`.
    low, high: bounds of the valid numbers, both included.
    help: one line for ``--help``.
    is_target: True for options that set the size or quality of the file; they exclude
      `TARGETS`.
    choices: valid texts; empty for numbers.
  """

  name: str
  kind: type
  low: float
  high: float
  help: str
  is_target: bool = False
  choices: tuple[str, ...] = ()


class Options(NamedTuple):
  """Requests to any encoder; a codec refuses what it cannot do.

  Attributes:
    preset: encoding effort: 'fast', 'medium' or 'full'; None is the codec's default,
      'fast' for codecs that train on each image and 'medium' for the others.
    lmbda: weight of the rate against the distortion, > 0: more is a smaller file.
    bpp: bits per pixel of the file to aim at, > 0.
    psnr: PSNR in dB to aim at, > 0.
    quality: 1..100, on the scale of `codax.quality`: more is larger and better.
    seed: seed of everything random, 0 <= seed < 2**32.
    seconds: (codecs that train on each image) time budget in seconds, > 0; overrides
      the preset's steps and includes rate-target corrections.
    extra: values of the family's own options by name (`families.options_of`).

  At most one of `lmbda`, `bpp`, `psnr`, `quality` and the family's own targets may be
  set.
  """

  preset: str | None = None
  lmbda: float | None = None
  bpp: float | None = None
  psnr: float | None = None
  quality: int | None = None
  seed: int = 0
  seconds: float | None = None
  extra: Mapping[str, Any] = {}


class Encoded(NamedTuple):
  """The result of an encoder.

  Attributes:
    data: the file.
    reconstruction: uint8 [H, W, C], equal to the decoded `data`.
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
      C in {1, 3}, for `.cdx` files also {2, 4} with alpha last; `progress` is a
      `Progress` or None, `should_stop` a `ShouldStop` or None. Codecs that encode at
      once never ask it.
    decode: ``bytes -> uint8 [H, W, C]``; raises `BitstreamError` for unsound bytes.
    suffix: ending of its files.
    decode_prefix: ``(bytes, count) -> uint8 [H, W, C]``, the image of the first `count`
      elements of a file, as `describe` lists them; None if its files are not
      progressive.
    decode_scaled: ``(bytes, scale) -> uint8 [scale H, scale W, C]``; None if its files
      have one size.
  """

  name: str
  encode: Callable[..., Encoded]
  decode: Callable[[bytes], np.ndarray]
  suffix: str = SUFFIX
  decode_prefix: Callable[[bytes, int], np.ndarray] | None = None
  decode_scaled: Callable[[bytes, int], np.ndarray] | None = None

  def __reduce__(self):
    """Pickles the request that made the codec; it is made again where it is loaded.

    Compiled programs and weights stay in their process.

    Raises:
      TypeError: the codec is not one of `families.get`, or was changed since.
    """
    origins = [getattr(f, 'origin', None) for f in (self.encode, self.decode)]
    if origins[0] is None or origins[0] is not origins[1]:
      raise TypeError(
        f'codec {self.name!r} cannot be pickled, as it does not come from '
        'codax.families.get as it is: make it in each process'
      )
    return origins[0], ()


def guard(
  made: Codec,
  origin: Callable[[], Codec],
  encode_in: Callable[[], AbstractContextManager],
  decode_in: Callable[[], AbstractContextManager],
  suffix: str,
  is_tiled: bool = False,
) -> Codec:
  """Makes a codec that checks its arguments first and can be pickled.

  Args:
    made: codec of a family.
    origin: function that makes the codec again, in another process; it is pickled.
    encode_in, decode_in: functions that return the context in which the codec encodes
      and decodes, such as `devices.use`.
    suffix: ending of its files, for messages.
    is_tiled: whether large images are encoded in tiles, so that memory is bounded.
  """

  def encode(image: np.ndarray, *, progress=None, should_stop=None) -> Encoded:
    image = check_image(image, has_alpha=suffix == SUFFIX)
    for name, value in {'progress': progress, 'should_stop': should_stop}.items():
      if value is not None and not callable(value):
        raise CodaxError(f'{name} must be a function or None, not {value!r}')
    with encode_in(), devices.explain_memory(lambda: explain_encode(image)):
      colors, plane = alpha.split(image)
      encoded = made.encode(colors, progress=progress, should_stop=should_stop)
      return encoded if plane is None else _add_alpha(encoded, plane)

  def decode(data: bytes) -> np.ndarray:
    data = as_bytes(data, f'a {suffix} file')
    with decode_in(), devices.explain_memory(lambda: explain_decode(data)):
      colors = made.decode(data)  # first: the family has limits of its own
      return alpha.join(colors, alpha.read(data)) if suffix == SUFFIX else colors

  def decode_prefix(data: bytes, count: int) -> np.ndarray:
    data = as_bytes(data, f'a {suffix} file')
    return alpha.join(made.decode_prefix(data, count), alpha.read(data))

  def decode_scaled(data: bytes, scale: int) -> np.ndarray:
    data = as_bytes(data, f'a {suffix} file')
    colors, plane = made.decode_scaled(data, scale), alpha.read(data)
    if plane is not None:
      plane = plane.repeat(scale, 0).repeat(scale, 1)
    return alpha.join(colors, plane)

  def explain_encode(image: np.ndarray) -> str:
    height, width = image.shape[:2]
    return _advise_memory(f'encoding {width} x {height} pixels', made.name, is_tiled)

  def explain_decode(data: bytes) -> str:
    return _advise_memory(f'decoding {len(data)} bytes', made.name, True)

  encode.origin = decode.origin = origin
  extras = {'decode_prefix': decode_prefix, 'decode_scaled': decode_scaled}
  more = {name: f for name, f in extras.items() if getattr(made, name) is not None}
  return made._replace(encode=encode, decode=decode, **more)


def _add_alpha(encoded: Encoded, plane: np.ndarray) -> Encoded:
  """Returns the result of an encoder with alpha, uint8 [H, W], in its file."""
  data = alpha.add(encoded.data, plane)
  return encoded._replace(
    data=data,
    reconstruction=alpha.join(encoded.reconstruction, plane),
    estimated_bits=encoded.estimated_bits + 8 * (len(data) - len(encoded.data)),
  )


def _advise_memory(work: str, name: str, is_tiled: bool) -> str:
  """Returns the line for work that does not fit into memory.

  Args:
    work: the work, 'encoding 640 x 480 pixels'.
    name: the codec.
    is_tiled: whether a smaller image would take as much.
  """
  advice = [
    'close other programs that use the memory'
    if is_tiled
    else 'shrink the image, or cut it into pieces'
  ]
  if devices.is_accelerated():
    advice.append("JAX_PLATFORMS=cpu takes the computer's own memory")
  return f'{work} with {name!r} does not fit into memory: {"; ".join(advice)}'


def check_image(image: np.ndarray, *, has_alpha: bool = False) -> np.ndarray:
  """Returns the image as uint8 [H, W, C], C in {1, 3}; [H, W] becomes [H, W, 1].

  Args:
    image: array to check.
    has_alpha: whether C may also be 2 or 4, where the last channel is alpha.

  Raises:
    CodaxError: another dtype or shape, or larger than the format allows.
  """
  if isinstance(image, str | bytes | os.PathLike) or image is None:
    raise CodaxError(
      f'an image must be an array of uint8, not {type(image).__name__}: read it '
      'first, for example by numpy.asarray(PIL.Image.open(path))'
    )
  try:
    image = np.asarray(image)
  except ValueError as e:
    raise CodaxError(f'an image must be an array of uint8: {e}') from e
  if image.dtype != np.uint8:
    raise CodaxError(f'an image must be uint8, not {image.dtype}')
  if image.ndim == 2:
    image = image[..., None]
  valid = (1, 2, 3, 4) if has_alpha else (1, 3)
  if image.ndim != 3 or image.shape[2] not in valid or not image.size:
    more = '; alpha may come as a last channel' if has_alpha else ''
    raise CodaxError(
      'an image must be uint8 [H, W], [H, W, 1] or [H, W, 3] with at '
      f'least one pixel, not of shape {image.shape}{more}'
    )
  limits = bitstream.DEFAULT_LIMITS
  h, w = image.shape[:2]
  if max(h, w) > limits.max_side or h * w > limits.max_pixels:
    raise CodaxError(
      f'an image may have sides up to {limits.max_side} and up to '
      f'{limits.max_pixels} pixels, not {w} x {h}: cut it into pieces, or shrink it'
    )
  return image


def check_options(options: Options) -> Options:
  """Checks the common options.

  Returns:
    The options with Python's own numbers, whatever library theirs are of.

  Raises:
    CodaxError: one of them is out of its range or of another type.
  """
  if not isinstance(options, Options):
    kind = type(options).__name__
    raise CodaxError(f'options must be a codax.codec.Options, not {kind}')
  if options.preset is not None and options.preset not in PRESETS:
    raise unknown('preset', options.preset, PRESETS)
  checked = {}
  for name in ('lmbda', 'bpp', 'psnr', 'seconds'):
    value = getattr(options, name)
    if value is not None:
      if not (is_number(value) and value > 0):
        raise CodaxError(f'{name} must be a positive number, not {value!r}')
      checked[name] = float(value)
  if options.quality is not None:
    checked['quality'] = quality.check(options.quality)
  seed = options.seed
  if not (is_number(seed) and seed == int(seed) and 0 <= seed < 2**32):
    raise CodaxError(f'seed must be a whole number from 0 to 2**32 - 1, not {seed!r}')
  if not isinstance(options.extra, Mapping):
    raise CodaxError(f'extra must be a dict of options, not {options.extra!r}')
  return options._replace(seed=int(seed), **checked)


def check_extra(
  name: str, extra: Mapping[str, Any], known: Sequence[Option]
) -> dict[str, Any]:
  """Checks the options of a family.

  Args:
    name: the codec, for messages.
    extra: values by name.
    known: the options that the codec has.

  Returns:
    The options with Python's own numbers.

  Raises:
    CodaxError: the codec has no such option, or a value is out of its range or no
      choice of it.
  """
  by_name = {option.name: option for option in known}
  checked = {}
  for key, value in extra.items():
    if key not in by_name:
      valid = f' (it has: {", ".join(by_name)})' if by_name else ''
      raise CodaxError(f'codec {name!r} has no option {key!r}{valid}')
    option = by_name[key]
    if option.choices:
      if not isinstance(value, str) or value not in option.choices:
        raise unknown(f'value of {key}:', value, option.choices)
      checked[key] = value
      continue
    is_valid = is_number(value) and option.low <= value <= option.high
    if not is_valid or (option.kind is int and int(value) != value):
      number = 'whole number' if option.kind is int else 'number'
      raise CodaxError(
        f'{key} must be a {number} from {option.low:g} to {option.high:g}, '
        f'not {value!r}'
      )
    checked[key] = option.kind(value)
  return checked


def check_targets(options: Options, known: Sequence[Option]) -> None:
  """Checks that at most one size or quality is asked for.

  Args:
    options: requests of the user.
    known: the options of the family.

  Raises:
    CodaxError: several are set.
  """
  values = {name: getattr(options, name) for name in TARGETS}
  values |= {o.name: options.extra.get(o.name) for o in known if o.is_target}
  targets = [name for name, value in values.items() if value is not None]
  if len(targets) > 1:
    raise CodaxError(f'give one of {", ".join(values)}, not {" and ".join(targets)}')
