"""The decoder against a second one that was written from its page alone."""

import numpy as np
import pytest
import reference
from tiny import SMALL, make_payload

from codax.layers.kan_spec import Spec
from codax.overfit import codec
from codax.overfit.format import arch as archs
from codax.overfit.format import stream

CUBIC, HATS = Spec(4, 3, -2.0, 2.0, 'relu'), Spec(8, 1, -4.0, 4.0, 'none')
FINE = Spec(4, 3, -0.5, 0.5, 'linear')
CASES = [
  (archs.PROFILES[1], (3, 5, 3)),
  (archs.C3, (4, 3, 1)),
  (SMALL._replace(activation='pwl'), (5, 4, 3)),
  (SMALL._replace(synthesis_kan=CUBIC, entropy_kan=HATS), (3, 4, 3)),
  (SMALL._replace(synthesis_kan=HATS, entropy_kan=CUBIC), (4, 3, 1)),
  (SMALL._replace(synthesis_kan=FINE, convs=0, linear_skip=False), (3, 3, 3)),
  (archs.Arch(2, 3, (), (), 1), (6, 7, 3)),
  (archs.Arch(5, 6, inter_grid_context=14, upsampling='learned'), (7, 9, 3)),
  (
    SMALL._replace(inter_grid_context=4, synthesis_kan=CUBIC, entropy_kan=HATS),
    (5, 4, 3),
  ),
  (SMALL._replace(upsampling='learned', synthesis_kan=HATS), (6, 5, 1)),
]


@pytest.mark.parametrize(('arch', 'shape'), CASES)
def test_both_decoders_agree(arch, shape):
  # coarse steps: many weights are escaped with fine ones
  for seed, fracs in enumerate([(7, 9), (0, 0), (9, 2)]):
    made = make_payload(arch, shape, seed, fracs)
    data, _ = codec.pack(made)
    grids, pixels = reference.decode(data)
    for found, wanted in zip(grids, made.grids, strict=True):
      np.testing.assert_array_equal(found.astype(int), wanted)
    np.testing.assert_array_equal(pixels, codec.decode(data))


def _work(arch, shape, ranges):
  """The format page's formula."""
  (height, width, channels), sides = shape, [shape[:2]]
  while len(sides) < arch.grids and sides[-1] != (1, 1):
    sides.append(tuple((n + 1) // 2 for n in sides[-1]))
  data = stream.put_arch(arch)
  counts, numbers = {}, 0
  ends = {
    'synthesis': (len(sides), channels),
    'entropy': (arch.context + arch.inter_grid_context, 2),
  }
  described = reference.read_shape(data)
  for name, (first, last) in ends.items():
    net = reference.Net(name, described, [first, *described[name][0], last])
    convs = arch.convs if name == 'synthesis' else 0
    counts[name] = 0
    filters = described['learned'] * (len(sides) - 1) if name == 'synthesis' else 0
    for key, size in net.listed(convs, channels, filters):
      total = int(np.prod(size))
      numbers += total
      if key[0] == 's':
        k, a, b = net.splines[1], *size[1:]
        counts[name] += a * b * (k + 2) + a * k * (k + 1)
      elif key[0] in 'klw' and not (net.splines and key[0] == 'w'):
        counts[name] += total
    counts[name] *= 4 if net.splines else 1
  work = height * width * (256 + counts['synthesis']) + 256 * numbers
  if described['learned']:
    pairs = enumerate(zip(sides, sides[1:]))
    work += sum(
      16 * (len(sides) - 1 - i) * r * (c + half) for i, ((r, c), (_, half)) in pairs
    )
  layers = len(arch.entropy) + 1 if arch.entropy_kan else 0
  slope = reference.SLOPES.get(arch.context, 2)
  for (r, c), (low, high) in zip(sides, ranges):
    if k := low + high:
      work += (
        r * c * (512 + 16 * arch.inter_grid_context + counts['entropy'] + 32 * (k + 1))
      )
      work += (2**17 + layers * 2**16) * min(c + slope * (r - 1), r * c)
  return work


@pytest.mark.parametrize(('arch', 'shape'), CASES)
def test_work_is_as_documented(arch, shape):
  rng = np.random.default_rng(0)
  for height, width in ((1, 1), (1, 400), (400, 1), (50, 60)):
    shape = height, width, shape[2]
    count = len(archs.grid_shapes(arch, height, width))
    ranges = rng.integers(0, 256, (count, 2)) * rng.integers(0, 2, (count, 1))
    assert stream.work(arch, shape, ranges) == _work(arch, shape, ranges)
