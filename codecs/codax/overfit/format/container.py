"""Files of the overfitted codec: an image's networks and latents in the container.

NumPy on integers, both ways; nothing here imports JAX.
"""

import numpy as np

from codax import bitstream
from codax.families import family, read_payload
from codax.overfit.format import arch as archs
from codax.overfit.format import integer, stream

NAME = 'overfit'


def decode(data: bytes) -> np.ndarray:
  """Decodes a `.cdx` file of this family to its image, uint8 [H, W, C]."""
  return synthesize(unpack(data))


def synthesize(payload: stream.Payload) -> np.ndarray:
  """Computes the pixels of networks and latents, uint8 [H, W, C]."""
  net = stream.synthesis_net(payload.modules['synthesis'], payload.arch)
  return integer.synthesize(net, payload.arch, payload.grids, payload.shape[2])


def pack(payload: stream.Payload) -> tuple[bytes, stream.Bits]:
  """Writes a file, and returns it with the ideal lengths of its payload's parts."""
  profile = archs.profile(payload.arch)
  codes, bits = stream.encode(payload)
  header = bitstream.Header(family(NAME).id, profile, *payload.shape)
  sections = [bitstream.Section(bitstream.CODES, codes)]
  if not profile:
    sections.append(bitstream.Section(stream.ARCH, stream.put_arch(payload.arch)))
  return bitstream.write(header, sections), bits


def unpack(data: bytes) -> stream.Payload:
  """Inverts `pack`; raises `BitstreamError` if the file is unsound."""
  return stream.decode(*parse(data))


def parse(data: bytes) -> tuple[bytes, archs.Arch, tuple[int, int, int]]:
  """Takes a file apart.

  Returns:
    (coded payload, architecture, (H, W, C)).

  Raises:
    BitstreamError: the file is unsound, or not of this family.
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
