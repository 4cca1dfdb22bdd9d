"""Facts about VQ-VAE files for `codax info`, without a model and without JAX."""

from codax import bitstream

ENTROPY_MODELS = {0: 'static', 1: 'context'}  # header.profile


def describe(data: bytes) -> dict:
  """Returns facts about a file: its entropy model and the size of its codes."""
  header, sections = bitstream.read(
    data, known=frozenset({bitstream.CODES, bitstream.ALPHA})
  )
  payload = bitstream.find(sections, bitstream.CODES)
  bits = None if payload is None else 8 * len(payload)
  return {
    'entropy_model': ENTROPY_MODELS.get(header.profile),
    'code_bits': bits,
    'code_bpp': None if bits is None else bits / (header.height * header.width),
  }
