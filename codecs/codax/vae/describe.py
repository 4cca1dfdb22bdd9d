"""Facts about VAE files for `codax info`, without a model and without JAX."""

from codax import bitstream

PROFILES = {'factorized': 0, 'hyperprior': 1, 'context': 2}  # header.profile


def describe(data: bytes) -> dict:
  """Returns facts about a file: entropy model, rate position, size of its payload."""
  header, sections = bitstream.read(
    data, known=frozenset({bitstream.CODES, bitstream.ALPHA})
  )
  payload = bitstream.find(sections, bitstream.CODES)
  names = {number: name for name, number in PROFILES.items()}
  bits = None if payload is None else 8 * len(payload)
  return {
    'entropy_model': names.get(header.profile),
    'rate_position': payload[0] if payload else None,
    'code_bits': bits,
    'code_bpp': None if bits is None else bits / (header.height * header.width),
  }
