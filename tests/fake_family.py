"""A codec family small enough to read at a glance, for tests of what stands around one.

Pixels are divided by a step and packed by zlib. With a bundle the step is the bundle's,
without one it is 8.
"""

import zlib

import numpy as np

from codax import bitstream, bundle, codec

ID, TRAINED_ID = 200, 201


def register(monkeypatch):
  """Adds 'fake' and 'fake_trained' to the registry until the test ends."""
  add = {
    'fake': codec.Family(ID, 'fake_family', False, 'fake_family'),
    'fake_trained': codec.Family(TRAINED_ID, 'fake_family', True),
  }
  for name, entry in add.items():
    monkeypatch.setitem(codec.FAMILIES, name, entry)


def make_bundle(step=16):
  return bundle.make('fake_trained', {}, {'step': np.array([step], np.int32)}, {})


def describe(data):
  header, _ = bitstream.read(data)
  return {'step': header.profile, 'bytes': 'never replaces what the container says'}


def make(name, model, options):
  loaded = model
  if model is not None and not isinstance(model, bundle.Bundle):
    loaded = bundle.load(model)
  step = 8 if loaded is None else int(loaded.arrays['step'][0])
  family = codec.FAMILIES[name].id

  def encode(image, *, progress=None, should_stop=None):
    for i in range(3):
      if progress is not None:
        progress(i + 1, 3)
    h, w, c = image.shape
    payload = zlib.compress((image // step).tobytes())
    header = bitstream.Header(
      family, step, h, w, c, 0, loaded.id[:8] if loaded is not None else None
    )
    data = bitstream.write(header, [bitstream.Section(bitstream.CODES, payload)])
    return codec.Encoded(data, decode(data), 8.0 * len(payload), {'options': options})

  def decode(data):
    header, sections = bitstream.read(data)
    if loaded is not None:
      bundle.check_id(loaded, header.bundle_id)
    shape = header.height, header.width, header.channels
    size = int(np.prod(shape))
    payload = bitstream.find(sections, bitstream.CODES)
    try:
      raw = zlib.decompressobj().decompress(payload, size + 1)
    except zlib.error as e:
      raise bitstream.BitstreamError('codes are damaged') from e
    if len(raw) != size:
      raise bitstream.BitstreamError('codes have the wrong number of pixels')
    levels = np.frombuffer(raw, np.uint8).reshape(shape).astype(int)
    return np.clip(levels * step + step // 2, 0, 255).astype(np.uint8)

  return codec.Codec(name, encode, decode)


def picture(h=17, w=33, c=3):
  """A smooth picture with some noise, uint8 [h, w, c]."""
  y, x, k = np.mgrid[:h, :w, :c]
  noise = np.random.default_rng(0).integers(0, 16, (h, w, c))
  return ((5 * y + 3 * x + 40 * k) % 200 + noise).astype(np.uint8)
