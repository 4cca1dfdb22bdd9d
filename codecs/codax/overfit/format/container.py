"""Files of the overfitted codec: a picture's networks and latents in the container.

NumPy on integers, both ways; nothing here imports JAX.
"""

import numpy as np

from codax import bitstream
from codax.families import family, read_payload
from codax.overfit.format import arch as archs
from codax.overfit.format import integer, stream

NAME = 'overfit'


def decode(data: bytes) -> np.ndarray:
  """A `.cdx` file of this family to its picture, uint8 [H, W, C]."""
  return synthesise(unpack(data))


def synthesise(picture: stream.Picture) -> np.ndarray:
  """The pixels of a picture's networks and latents, uint8 [H, W, C]."""
  net = stream.synthesis_net(picture.modules['synthesis'], picture.arch)
  return integer.synthesise(net, picture.arch, picture.grids, picture.shape[2])


def pack(picture: stream.Picture) -> tuple[bytes, stream.Bits]:
  """The file of a picture, and what the parts of its payload take."""
  profile = archs.profile(picture.arch)
  payload, bits = stream.encode(picture)
  header = bitstream.Header(family(NAME).id, profile, *picture.shape)
  sections = [bitstream.Section(bitstream.CODES, payload)]
  if not profile:
    sections.append(bitstream.Section(stream.ARCH, stream.put_arch(picture.arch)))
  return bitstream.write(header, sections), bits


def unpack(data: bytes) -> stream.Picture:
  """What a file holds; `BitstreamError` if it is unsound."""
  return stream.decode(*parse(data))


def parse(data: bytes) -> tuple[bytes, archs.Arch, tuple[int, int, int]]:
  """(payload, shape of the networks, (H, W, C)) of a file.

  Raises:
    BitstreamError: it is unsound, or not of this family.
  """
  known = frozenset({bitstream.CODES, stream.ARCH})
  header, sections, payload = read_payload(NAME, data, known)
  spelled = bitstream.find(sections, stream.ARCH)
  if (spelled is None) == (header.profile == 0):
    raise bitstream.BitstreamError('a shape is spelled out with profile 0, and only so')
  if spelled is not None:
    arch = stream.get_arch(spelled)
  elif header.profile in archs.PROFILES:
    arch = archs.PROFILES[header.profile]
  else:
    raise bitstream.BitstreamError(f'the file has an unknown profile {header.profile}')
  return payload, arch, (header.height, header.width, header.channels)
