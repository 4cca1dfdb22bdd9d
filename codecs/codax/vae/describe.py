"""Facts about VAE files for `codax info`, without a model and without JAX."""

from codax import bitstream

ENTROPY_MODELS = {0: 'factorized', 1: 'hyperprior', 2: 'context'}  # header.profile


def describe(data: bytes) -> dict:
  """Returns facts about a file: entropy model, rate position, size of its payload."""
  header, sections = bitstream.read(data)
  payload = bitstream.find(sections, bitstream.CODES)
  bits = None if payload is None else 8 * len(payload)
  return {
    'entropy_model': ENTROPY_MODELS.get(header.profile),
    'rate_position': payload[0] if payload else None,
    'code_bits': bits,
    'code_bpp': None if bits is None else bits / (header.height * header.width),
  }
