"""A codec family small enough to read at a glance, for tests of what stands around one.

Pixels are divided by a step and packed by zlib. With a bundle the step is the bundle's,
without one it is 8, or the family's own option `shade`.
"""

import numpy as np

from codax import bundle, families

ID, TRAINED_ID = 200, 201


def register(monkeypatch):
  """Adds 'fake' and 'fake_trained' to the registry until the test ends."""
  entries = ('codec', 'describe')
  for entry in (
    families.Family('fake', 'fake_family', 'per_image', ID, entries, has_options=True),
    families.Family('fake_trained', 'fake_family', 'bundle', TRAINED_ID, ('codec',)),
  ):
    monkeypatch.setitem(families.FAMILIES, entry.name, entry)


def make_bundle(step=16):
  return bundle.make('fake_trained', {}, {'step': np.array([step], np.int32)}, {})


def smooth_image(h=17, w=33, c=3):
  """Returns a smooth image with some noise, uint8 [h, w, c]."""
  y, x, k = np.mgrid[:h, :w, :c]
  noise = np.random.default_rng(0).integers(0, 16, (h, w, c))
  return ((5 * y + 3 * x + 40 * k) % 200 + noise).astype(np.uint8)
