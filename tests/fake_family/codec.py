"""The codec of the fake family. Its option is added here and nowhere else."""

import zlib

import numpy as np

from codax import bitstream, bundle, codec, families

OPTIONS = (codec.Option('shade', int, 1, 64, 'step between levels of grey'),)
SECONDS = {'fast': (0, 0), 'medium': (0, 0), 'full': (100, 0)}


def make(name, model, options):
  loaded = model
  if model is not None and not isinstance(model, bundle.Bundle):
    loaded = bundle.load(model)
  step = (
    options.extra.get('shade', 8) if loaded is None else int(loaded.arrays['step'][0])
  )
  family = families.family(name).id

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
    return codec.Encoded(
      data, decode(data), 8.0 * len(payload), {'options': options._asdict()}
    )

  def decode(data):
    header, sections, payload = families.read_payload(name, data)
    if loaded is not None:
      bundle.check_id(loaded, header.bundle_id)
    shape = header.height, header.width, header.channels
    size = int(np.prod(shape))
    try:
      raw = zlib.decompressobj().decompress(payload, size + 1)
    except zlib.error as e:
      raise bitstream.BitstreamError('codes are damaged') from e
    if len(raw) != size:
      raise bitstream.BitstreamError('codes have the wrong number of pixels')
    levels = np.frombuffer(raw, np.uint8).reshape(shape).astype(int)
    return np.clip(levels * header.profile + header.profile // 2, 0, 255).astype(
      np.uint8
    )

  return codec.Codec(name, encode, decode)
