"""Bundles of classifiers: networks packed for `launch/evaluate.py --probe`."""

from typing import Any, NamedTuple

import numpy as np

from codax import bundle as bundles
from codax.classify import architecture
from codax.classify.architecture import ModelConfig
from codax.errors import CodaxError

FAMILY = 'classify'


class Model(NamedTuple):
  """A trained classifier.

  Attributes:
    config: architecture.
    network: `network.Network` of NumPy arrays.
    shape: (H, W, C) of the images that it was trained on.
  """

  config: ModelConfig
  network: Any
  shape: tuple[int, int, int]


def pack(config: Any, network: Any, metrics: Any) -> bundles.Bundle:
  """Packs a trained network into a bundle.

  Args:
    config: the whole configuration.
    network: `network.Network` of NumPy arrays.
    metrics: final metrics.
  """
  return bundles.make(FAMILY, config, bundles.flatten(network._asdict()), metrics)


def unpack(bundle: bundles.Bundle) -> Model:
  """Unpacks a bundle and checks that its arrays are those of its architecture.

  Raises:
    CodaxError: the bundle is of another family, or damaged.
  """
  import jax

  from codax.classify import network

  if bundle.family != FAMILY:
    raise CodaxError(
      f'the bundle is of family {bundle.family!r}; a probe is a classifier, of family '
      f'{FAMILY!r}'
    )
  config = architecture.read(bundle.config['model'])
  side = bundle.config['data']['crop']
  shape = (side, side, 3)
  wanted = jax.eval_shape(lambda: network.init(jax.random.key(0), config, shape))
  flat = bundles.flatten(
    jax.tree.map(lambda x: np.empty(x.shape, np.int8), wanted._asdict())
  )
  for name, empty in flat.items():
    array = bundle.arrays.get(name)
    if array is None or array.shape != empty.shape:
      raise CodaxError(
        f'the bundle is not of model {architecture.name_of(config)!r}: {name} is '
        f'{"missing" if array is None else array.shape}, not {empty.shape}'
      )
  fields = network.Network({}, {}, {})._asdict() | bundles.unflatten(bundle.arrays)
  return Model(config, network.Network(**fields), shape)
