"""Facts about a file of an overfitted image for `codax info`, without JAX.

The networks and ranges are read, which also checks them; the latents are not.
"""

import math

import numpy as np

from codax.entropy import range_coder
from codax.layers.kan_spec import Spec
from codax.overfit.format import arch as archs
from codax.overfit.format import container, stream

# Columns of this family in tables: heading, figure of a file's row, format.
COLUMNS = (
  ('networks, bpp', 'network_bpp', '.3f'),
  ('MAC/pixel', 'macs_per_pixel', '.0f'),
)


def describe(data: bytes) -> dict:
  """Collects JSON-able facts about a file of this family.

  Args:
    data: the file.

  Returns:
    grids (number of this image's), latents (their number), coded_latents (without those
    of constant grids), latent_ranges ([lowest, highest] of each grid, finest first),
    context and parents (numbers of neighbors and of latents of coarser grids that the
    entropy network sees), upsampling, entropy_widths and synthesis_widths (of hidden
    layers), entropy_layers and synthesis_layers ('dense' or, for KAN layers, a dict:
    the splines), activation (of dense layers), convolutions, linear (whether networks
    have a skip), weights (their number), steps (quantization steps of weights and
    biases), network_bytes (to the last whole word), latent_bytes (the rest),
    macs_per_pixel (by part).

  Raises:
    BitstreamError: the file is unsound, as far as this tells.
  """
  payload, arch, shape = container.parse(data)
  decoder = range_coder.Decoder(payload)
  head = stream.read_head(decoder, len(payload), arch, shape)
  stream.check_work(arch, shape, len(payload), head.ranges)
  macs = archs.macs(arch, *shape)
  sizes = [h * w for h, w in head.shapes]
  listed = archs.tensors(arch, len(head.shapes), shape[2])
  return {
    'grids': len(head.shapes),
    'latents': sum(sizes),
    'coded_latents': sum(n for n, r in zip(sizes, head.ranges) if r.any()),
    'latent_ranges': (head.ranges * np.array([-1, 1])).tolist(),
    'context': arch.context,
    'parents': arch.inter_grid_context,
    'upsampling': arch.upsampling,
    'entropy_widths': list(arch.entropy),
    'synthesis_widths': list(arch.synthesis),
    'entropy_layers': _layers(arch.entropy_kan),
    'synthesis_layers': _layers(arch.synthesis_kan),
    'activation': arch.activation,
    'convolutions': arch.convs,
    'linear': arch.linear_skip,
    'weights': sum(math.prod(t.shape) for t in listed),
    'steps': {
      name: {'weights': 2.0**-m.weight_frac, 'biases': 2.0**-m.bias_frac}
      for name, m in head.modules.items()
    },
    'network_bytes': head.bytes,
    'latent_bytes': len(payload) - head.bytes,
    'macs_per_pixel': {**macs._asdict(), 'total': macs.total},
  }


def _layers(spec: Spec | None) -> dict | str:
  return 'dense' if spec is None else spec._asdict()
