"""The registry of families: what each is, and how files find their way back to one.

A *family* is one way to train or to code: a codec whose weights come from a bundle, a
codec that trains on each image, a model that is no codec at all (a classifier), or a
baseline with a file format of its own. The registry names packages and imports one only
when it is asked for, so this module needs neither JAX nor Pillow::

  codec = get('vqvae', model='runs/vqvae_ba')
  data = codec.encode(pixels).data          # uint8 [H, W, C] -> bytes
  pixels = codec_for(data).decode(data)

Entry points are modules of the family's package, by convention and declared in its
record: ``codec`` (``make(name, model, options) -> Codec``, ``OPTIONS`` where
`Family.has_options` says so, ``SECONDS`` of learned codecs), ``task`` (see
`codax.training.task`), ``describe`` (``describe(data) -> dict`` without JAX or a model,
for `codax info`; ``COLUMNS`` and ``RIVAL`` for `codax.reports`), ``defaults``
(``RENAMED``, new names of configuration keys by old ones), ``bench``, ``probe``
(``make(bundle)`` -> a function from images to classes, see `codax.reports.probing`).
"""

import functools
import importlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from codax import bitstream, devices, pretrained, quality
from codax import codec as contract
from codax.codec import Codec, Option, Options, Progress
from codax.color import sections as color_sections
from codax.errors import CodaxError, unknown

KINDS = ('bundle', 'per_image', 'model', 'baseline')


class Family(NamedTuple):
  """A registry entry.

  Attributes:
    name: the registry's key.
    package: dotted name of the package with the entry points.
    kind: 'bundle', a codec whose weights come from a bundle; 'per_image', a codec that
      trains on each image; 'model', no codec; 'baseline', a codec with a file format
      of its own.
    id: family number in the header of a `.cdx` file, 1..255, never used again for
      another family; None without such files.
    entries: entry points that the package has.
    has_options: True if the package's ``codec`` lists options of its own (`OPTIONS`).
    default_model: name of the pretrained model that encodes where none is given.
    suffixes: endings of the files that it writes.
    has_quality: True for codecs that `Options.quality` sets the rate of.
    is_light: True for bundles whose `codec` codes without JAX but for what it starts
      itself.
  """

  name: str
  package: str
  kind: str
  id: int | None = None
  entries: tuple[str, ...] = ('codec', 'task', 'describe', 'defaults')
  has_options: bool = False
  default_model: str | None = None
  suffixes: tuple[str, ...] = ('.cdx',)
  is_light: bool = False
  has_quality: bool = False

  @property
  def is_codec(self) -> bool:
    """True for families that turn images into files."""
    return self.kind != 'model'

  @property
  def needs_bundle(self) -> bool:
    """True for families whose decoding takes a bundle."""
    return self.kind == 'bundle'


def _baseline(name: str, *suffixes: str) -> Family:
  """Makes the registry entry of a baseline."""
  package = 'codax.baselines'
  return Family(
    name, package, 'baseline', entries=('codec',), suffixes=suffixes, has_quality=True
  )


FAMILIES = {
  family.name: family
  for family in (
    Family(
      'vqvae', 'codax.vqvae', 'bundle', 1, default_model='vqvae_photos',
      has_quality=True,
    ),
    Family(
      'overfit', 'codax.overfit', 'per_image', 2, has_options=True, has_quality=True
    ),
    Family(
      'splat', 'codax.splat', 'per_image', 3,
      ('codec', 'task', 'describe', 'defaults', 'bench'), has_options=True,
      has_quality=True,
    ),
    Family('vae', 'codax.vae', 'bundle', 4, is_light=True, has_quality=True),
    Family(
      'classify', 'codax.classify', 'model', entries=('task', 'defaults', 'probe')
    ),
    _baseline('jpeg', '.jpg', '.jpeg'),
    _baseline('jpeg420', '.jpg', '.jpeg'),
    _baseline('webp', '.webp'),
    _baseline('avif', '.avif'),
    _baseline('jxl', '.jxl'),
  )
}  # fmt: skip

# Keywords of `encode` that every codec has.
_COMMON = tuple(name for name in Options._fields if name != 'extra')

# Up to this size 'overfit' encodes where no codec is named: some minutes on two cores.
# Larger images go through the pretrained network, which takes seconds at any size.
DEFAULT_PIXELS = 2**19


def family(name: str) -> Family:
  """Returns the registry entry of this name.

  Raises:
    CodaxError: no such family; names the nearest.
  """
  if not isinstance(name, str) or name not in FAMILIES:
    raise unknown('family', name, FAMILIES)
  return FAMILIES[name]


def codec_names() -> tuple[str, ...]:
  """Returns every codec's name: learned ones first, then baselines."""
  return tuple(f.name for f in FAMILIES.values() if f.is_codec)


def codec_family(name: str) -> Family:
  """Returns the registry entry of a codec.

  Raises:
    CodaxError: no such codec; names the nearest.
  """
  if name not in codec_names():
    raise unknown('codec', name, codec_names())
  return FAMILIES[name]


def keeps_alpha(name: str) -> bool:
  """Returns whether a codec's files can have alpha: those of `.cdx` files can."""
  return codec_family(name).id is not None


def with_id(number: int) -> Family | None:
  """Finds the family whose files have this number; None if this version knows none."""
  return next((f for f in FAMILIES.values() if f.id == number), None)


def entry(owner: Family, name: str) -> ModuleType:
  """Imports an entry point of a family.

  Args:
    owner: the family.
    name: 'codec', 'task', 'describe', 'defaults', 'bench' or 'probe'.

  Raises:
    CodaxError: the family declares no such entry point; names those that do.
  """
  if name not in owner.entries:
    valid = [f.name for f in FAMILIES.values() if name in f.entries]
    raise CodaxError(
      f'family {owner.name!r} has no {name} (families that do: {", ".join(valid)})'
    )
  return importlib.import_module(f'{owner.package}.{name}')


def options_of(owner: Family) -> tuple[Option, ...]:
  """Lists the options that a codec has beside the common ones of `Options`."""
  return tuple(entry(owner, 'codec').OPTIONS) if owner.has_options else ()


def every_option() -> dict[str, tuple[Option, list[str]]]:
  """Maps the name of each family option to itself and the codecs that have it."""
  owners: dict[str, tuple[Option, list[str]]] = {}
  for owner in FAMILIES.values():
    for option in options_of(owner):
      owners.setdefault(option.name, (option, []))[1].append(owner.name)
  return owners


def default_codec(pixels: int) -> str:
  """Chooses the codec for an image where the user names none.

  Args:
    pixels: number of pixels of the image.
  """
  if pixels <= DEFAULT_PIXELS:
    return 'overfit'
  return pretrained.model(pretrained.DEFAULT_MODEL).family


def get(name: str, *, model: Any = None, options: Options = Options()) -> Codec:  # noqa: B008
  """Makes a codec for encoding and decoding.

  Args:
    name: one of `codec_names()`.
    model: run directory or bundle file (str or Path), a loaded `bundle.Bundle`, or
      None for the family's pretrained model or a codec without one.
    options: requests to the encoder; a preset of None is the family's default.

  Raises:
    CodaxError: unknown name, bad option, a model missing or out of place.
  """
  owner = codec_family(name)
  known = options_of(owner)
  origin = functools.partial(get, name, model=model, options=options)
  options = contract.check_options(options)
  options = options._replace(extra=contract.check_extra(name, options.extra, known))
  contract.check_targets(options, known)
  if owner.needs_bundle and model is None:
    if owner.default_model is None:
      raise CodaxError(
        f'codec {name!r} needs a trained model: train one (see docs/families) and pass '
        'its run directory, for example --model runs/vqvae_ba'
      )
    model = pretrained.bundle_path(owner.default_model)
  if not owner.needs_bundle and model is not None:
    raise CodaxError(f'codec {name!r} takes no model')
  if options.seconds is not None and owner.kind != 'per_image':
    raise CodaxError(
      f'codec {name!r} does not train while encoding: seconds have no meaning for it'
    )
  if options.quality is not None and not owner.has_quality:
    raise CodaxError(f'codec {name!r} has no rate that a quality could set')
  if owner.kind == 'per_image':
    options = quality.resolve(options)
  if options.preset is None:
    options = options._replace(preset=default_preset(owner))
  uses_jax = owner.needs_bundle and not owner.is_light
  if uses_jax:
    devices.start()  # before the package, which imports JAX
  made = entry(owner, 'codec').make(name, model, options)
  encode_in = devices.use if uses_jax or owner.kind == 'per_image' else nullcontext
  decode_in = devices.use if uses_jax else nullcontext
  return contract.guard(
    made, origin, encode_in, decode_in, owner.suffixes[0], is_tiled=owner.needs_bundle
  )


def start_devices(name: str) -> None:
  """Starts JAX (`devices.start`) if a codec encodes by it, before the work."""
  owner = codec_family(name)
  if owner.kind != 'baseline' and not owner.is_light:
    devices.start()


def default_preset(owner: Family) -> str:
  """Returns the preset of a codec where the user gives none."""
  return 'fast' if owner.kind == 'per_image' else 'medium'


def expected_seconds(
  name: str, shape: tuple[int, ...], options: Options
) -> float | None:
  """Estimates how long encoding takes on two CPU cores, compilation included.

  Args:
    name: the codec.
    shape: (H, W, C) of the image.
    options: requests to the encoder.

  Returns:
    Seconds; None for baselines. With a target, corrections can take up to twice as
    long. A time budget is taken at its word, see `startup_seconds`.
  """
  owner = codec_family(name)
  if owner.kind == 'baseline':
    return None
  if options.seconds is not None:
    return options.seconds
  preset = options.preset or default_preset(owner)
  start, per_megapixel = entry(owner, 'codec').SECONDS[preset]
  return start + per_megapixel * shape[0] * shape[1] / 1e6


def startup_seconds(name: str, options: Options) -> float:
  """Estimates what no time budget can save: how long compilation and the like take.

  Args:
    name: the codec.
    options: requests to the encoder.

  Returns:
    Seconds, on two CPU cores; 0 for baselines.
  """
  return expected_seconds(name, (0, 0, 1), options._replace(seconds=None)) or 0.0


def codec_for(data: bytes, *, model: Any = None) -> Codec:
  """Makes the codec that decodes this file.

  Args:
    data: a `.cdx` file.
    model: run directory, bundle file or loaded bundle; None searches for the bundle
      that the file names (see `pretrained.find_bundle`).

  Raises:
    CodaxError: unsound file, family that this version does not know, no bundle.
  """
  header = bitstream.peek(data)
  owner = with_id(header.family)
  if owner is None:
    raise bitstream.BitstreamError(
      f'the file is of codec family {header.family}, which this codax does not know'
    )
  if model is None and header.bundle_id is not None:
    model = pretrained.find_bundle(header.bundle_id)
  return get(owner.name, model=model)


def encode(
  image: np.ndarray,
  codec: str | None = None,
  model: Any = None,
  *,
  progress: Progress | None = None,
  **options: Any,
) -> bytes:
  """Compresses an image.

  Args:
    image: uint8 [H, W, C] with C in {1, 3}, or [H, W]; for codecs with `.cdx` files
      also C in {2, 4}, where the last channel is alpha.
    codec: one of `codec_names()`; None is 'vqvae' where a model is given, and else
      `default_codec`.
    model: run directory, bundle file or loaded bundle, for codecs with bundles.
    progress: called as ``progress(done, total)`` while encoding.
    **options: fields of `Options` and options of the family.

  Returns:
    The file's bytes (in the baseline's own format for a baseline).

  Raises:
    CodaxError: unknown codec or option, bad image, a target out of reach.
  """
  common = {key: value for key, value in options.items() if key in _COMMON}
  extra = {key: value for key, value in options.items() if key not in common}
  if wrong := [name for name in extra if name not in every_option()]:
    raise unknown('option', wrong[0], [*_COMMON, *every_option()])
  if codec is None:
    height, width = contract.check_image(image, has_alpha=True).shape[:2]
    codec = 'vqvae' if model is not None else default_codec(height * width)
  made = get(codec, model=model, options=Options(**common, extra=extra))
  return made.encode(image, progress=progress).data


def decode(data: bytes, model: Any = None) -> np.ndarray:
  """Decompresses a `.cdx` file.

  Args:
    data: the file's bytes.
    model: run directory, bundle file or loaded bundle; looked for if None (see
      `pretrained.find_bundle`).

  Returns:
    uint8 [H, W, C], C in {1, 3}, or {2, 4} where the file has alpha.
  """
  return codec_for(data, model=model).decode(data)


def read_payload(name: str, data: bytes, known=frozenset({bitstream.CODES})):
  """Reads the container of a file, with the checks that every family makes.

  Args:
    name: the family.
    data: the file.
    known: critical sections that the family understands; alpha, which every file may
      have, is not the family's matter.

  Returns:
    (header, sections, payload of the codes).

  Raises:
    BitstreamError: the file is unsound, of another family, with or without a bundle
      against the family's habit, of a number of channels that none has, or without
      codes.
  """
  header, sections = bitstream.read(data, known=known | {bitstream.ALPHA})
  owner = family(name)
  if header.family != owner.id:
    raise bitstream.BitstreamError(f'the file is not of family {name!r}')
  if owner.needs_bundle and header.bundle_id is None:
    raise bitstream.BitstreamError('the file names no bundle')
  if header.bundle_id is not None and not owner.needs_bundle:
    raise bitstream.BitstreamError(f'a file of family {name!r} needs no bundle')
  if header.channels not in (1, 3):
    raise bitstream.BitstreamError(f'{name} has no {header.channels}-channel images')
  payload = bitstream.find(sections, bitstream.CODES)
  if payload is None:
    raise bitstream.BitstreamError('the file has no section of codes')
  return header, sections, payload


def describe(data: bytes) -> dict:
  """Collects facts about a `.cdx` file that need no model, JSON-able.

  Returns:
    bytes, height, width, channels, family (name or None), family_id, format_version,
    profile, bundle_id (hex or None), bpp (8 * bytes / pixels), orientation, color_space
    (name), overhead (bytes outside payloads), sections (list of kind, name, critical,
    bytes), and what the family adds.
  """
  header, sections = bitstream.read(data, known=None)
  owner = with_id(header.family)
  facts = {
    'bytes': len(data),
    'height': header.height,
    'width': header.width,
    'channels': header.channels,
    'family': None if owner is None else owner.name,
    'family_id': header.family,
    'format_version': bitstream.VERSION,
    'profile': header.profile,
    'bundle_id': header.bundle_id.hex() if header.bundle_id else None,
    'bpp': 8 * len(data) / (header.height * header.width),
    'orientation': bitstream.orientation(sections),
    'color_space': _name_color(sections, header.channels),
    'overhead': len(data) - sum(len(s.payload) for s in sections),
    'sections': [_section_facts(s) for s in sections],
  }
  if owner is not None and 'describe' in owner.entries:
    more: Mapping[str, Any] = entry(owner, 'describe').describe(data)
    facts.update((key, value) for key, value in more.items() if key not in facts)
  return facts


def _name_color(sections: Sequence[bitstream.Section], channels: int) -> str:
  """Names the color space of a file, with what is wrong about it."""
  color, notes = color_sections.read_sections(sections, channels)
  return ', '.join([color_sections.name_space(color, channels), *notes])


def _section_facts(section: bitstream.Section) -> dict:
  """Collects facts about a section of a file, JSON-able."""
  name = bitstream.SECTION_NAMES.get(section.kind, f'0x{section.kind:02x}')
  facts = {'kind': section.kind, 'name': name, 'bytes': len(section.payload)}
  return facts | {'critical': not section.kind & bitstream.ANCILLARY}
