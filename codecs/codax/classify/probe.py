"""Trained classifiers as functions, for `launch/evaluate.py --probe`."""

from collections.abc import Callable

import jax
import numpy as np

from codax import bundle as bundles
from codax.classify import bundle_io, network


def make(bundle: bundles.Bundle) -> Callable[[np.ndarray], np.ndarray]:
  """Returns a function from images uint8 [B, H, W, 3] to classes int [B].

  Raises:
    CodaxError: the bundle is not that of a classifier, or damaged.
  """
  model = bundle_io.unpack(bundle)
  predict = jax.jit(
    lambda weights, images: network.predict(weights, model.config, images).argmax(-1)
  )
  weights = jax.device_put(model.network)
  return lambda images: np.asarray(predict(weights, images))
