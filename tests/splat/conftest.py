"""Fixtures of the Gaussian codec's tests."""

import pytest
import skimage.data


@pytest.fixture(scope='session')
def image():
  """uint8 [48, 64, 3], of a photograph."""
  return skimage.data.astronaut()[60:108, 190:254]
