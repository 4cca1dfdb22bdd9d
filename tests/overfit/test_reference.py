"""The decoder against a second one that was written from FORMAT.md alone."""

import numpy as np
import pytest
import reference
from tiny import SMALL, picture

from codax.layers.kan_spec import Spec
from codax.overfit import arch as archs
from codax.overfit import codec

CUBIC, HATS = Spec(4, 3, -2.0, 2.0, 'relu'), Spec(8, 1, -4.0, 4.0, 'none')
FINE = Spec(4, 3, -0.5, 0.5, 'linear')
CASES = [
  (archs.PROFILES[1], (3, 5, 3)),
  (archs.C3, (4, 3, 1)),
  (SMALL._replace(activation='pwl'), (5, 4, 3)),
  (SMALL._replace(synthesis_kan=CUBIC, entropy_kan=HATS), (3, 4, 3)),
  (SMALL._replace(synthesis_kan=HATS, entropy_kan=CUBIC), (4, 3, 1)),
  (SMALL._replace(synthesis_kan=FINE, convs=0, linear=False), (3, 3, 3)),
  (archs.Arch(2, 3, (), (), 1), (6, 7, 3)),
]


@pytest.mark.parametrize(('arch', 'shape'), CASES)
def test_both_decoders_agree(arch, shape):
  # coarse steps: many weights are escaped with fine ones
  for seed, fracs in enumerate([(7, 9), (0, 0), (9, 2)]):
    made = picture(arch, shape, seed, fracs)
    data, _ = codec.pack(made)
    grids, pixels = reference.decode(data)
    for found, wanted in zip(grids, made.grids, strict=True):
      np.testing.assert_array_equal(found.astype(int), wanted)
    np.testing.assert_array_equal(pixels, codec.decode(data))
