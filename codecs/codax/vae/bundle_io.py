"""Bundles of the family: packs trained parameters and unpacks them, checked.

A bundle holds the networks (float32) and the integer tables of the entropy model, which
are made here from trained scales, gains and networks. ``config.objective`` says which
networks they are: 'rate', those of the transform codec; 'kl', those of the
convolutional VAE, whose rate levels are octaves around the quantization steps that the
training chose.
"""

from typing import Any, NamedTuple

import numpy as np

from codax import bundle as bundles
from codax.entropy import fixed_point
from codax.errors import CodaxError
from codax.vae import (
  arch,
  coding,
  describe,
  hyperprior,
  levels,
  scale_context,
  shapes,
  transform,
)
from codax.vae.format import integer_context, laws, scales
from codax.vae.transform import TransformConfig

FAMILY = 'vae'
_TABLES = 'tables/'
OCTAVES = (-3, 4)  # finest and coarsest steps of a VAE against those of its training
# Rate position of the transform codec where nothing is asked for: about 0.5 bpp.
DEFAULT_SHARE = 1 / 3


class Model(NamedTuple):
  """Contents of a bundle.

  Attributes:
    config: architecture: a `TransformConfig` or, of the VAE, an `arch.ModelConfig`.
    params: parameters of `transform.init`, or {'analysis', 'synthesis'} of the VAE.
    entropy: entropy model.
    lmbdas: weights of the rate against the MSE on [0, 1] at the first and the last rate
      position, the greater one first.
    position: rate position where nothing is asked for.
    id: 32 bytes, identity of the bundle.
  """

  config: TransformConfig | arch.ModelConfig
  params: Any
  entropy: coding.EntropyModel
  lmbdas: tuple[float, float]
  position: int
  id: bytes

  @property
  def profile(self) -> int:
    """Number of the entropy model in the header of a file."""
    tables = self.entropy.tables
    name = 'factorized' if tables.hyper is None else 'hyperprior'
    return describe.PROFILES['context' if tables.context else name]

  @property
  def is_transform(self) -> bool:
    """True for the transform codec, which runs in NumPy."""
    return isinstance(self.config, TransformConfig)

  @property
  def factor(self) -> int:
    """Side in pixels of a position of coefficients."""
    return self.config.patch if self.is_transform else self.config.factor


def export_tables(prior: Any, config: TransformConfig) -> dict[str, np.ndarray]:
  """Makes the integer tables of a trained entropy model.

  Args:
    prior: parameters of `hyperprior.init`, NumPy arrays.
    config: architecture.

  Returns:
    Arrays for `scales.from_arrays`.
  """
  unit = 2**scales.FRAC
  whole = lambda x: np.rint(np.asarray(x, np.float64) * unit).astype(np.int32)
  arrays = {f'laws/{k}': v for k, v in laws.logistic().items()}
  arrays['scale'] = whole(prior['scale'] + prior['gain'] / np.log(2))
  if not config.hyper_dim:
    return arrays
  latents, net = prior['latents'], prior['scales']
  inverse = np.exp(-np.asarray(latents['gain'], np.float64)) * 2**scales.INVERSE_FRAC
  arrays['hyper/mean'] = whole(latents['mean'])
  arrays['hyper/scale'] = whole(latents['scale'])
  arrays['hyper/inverse'] = np.maximum(np.rint(inverse), 1).astype(np.int32)
  kernel = np.asarray(net['conv']['kernel'])
  layers = [(kernel.reshape(-1, kernel.shape[-1]), net['conv']['bias'])]
  layers += [(net[k]['kernel'], net[k]['bias']) for k in ('middle', 'last')]
  network = fixed_point.quantize_mlp(
    layers,
    input_frac=scales.FRAC,
    input_max=scales.MAX_INPUT,
    output_frac=scales.FRAC,
    activation_max=hyperprior.ACTIVATION_MAX,
  )
  named = fixed_point.to_arrays(network)
  arrays |= {f'hyper/network/{k}': v for k, v in named.items()}
  return arrays | _export_context(prior.get('scale_context', {}))


def _export_context(networks: Any) -> dict[str, np.ndarray]:
  """Makes the integer networks of a trained context model."""
  arrays = {}
  for name, p in networks.items():
    near, side = p['conv']['kernel'], p['side']['kernel']
    kernel = np.concatenate([near.reshape(-1, near.shape[-1]), side])
    bias = p['conv']['bias'] + p['side']['bias']
    layers = {
      'entry': [(p['first']['kernel'], p['first']['bias'])],
      'rest': [(kernel, bias), (p['last']['kernel'], p['last']['bias'])],
    }
    limits = {'entry': integer_context.MAX_SIZE, 'rest': integer_context.MAX_INPUT}
    for part, limit in limits.items():
      network = fixed_point.quantize_mlp(
        layers[part],
        input_frac=integer_context.FRAC,
        input_max=limit,
        output_frac=integer_context.FRAC,
        activation_max=scale_context.ACTIVATION_MAX,
      )
      number = name.removeprefix('network_')
      named = fixed_point.to_arrays(network)
      arrays |= {f'context/{number}/{part}/{k}': v for k, v in named.items()}
  return arrays


def pack(config: Any, params: Any, model: TransformConfig, metrics: Any):
  """Packs trained parameters into a bundle.

  Args:
    config: whole configuration of the run.
    params: {'transform', 'prior'}, as evaluated; NumPy arrays.
    model: architecture.
    metrics: JSON-able numbers to be stored beside.
  """
  tables = export_tables(params['prior'], model)
  integer = ('scale', 'scales', 'latents', 'scale_context')
  prior = {k: v for k, v in params['prior'].items() if k not in integer}
  arrays = bundles.flatten({'transform': params['transform'], 'prior': prior})
  arrays |= {_TABLES + k: v for k, v in tables.items()}
  return bundles.make(FAMILY, config, arrays, metrics)


def pack_vae(
  config: Any, networks: Any, q_steps: np.ndarray, prior: Any, metrics: Any
) -> bundles.Bundle:
  """Packs a convolutional VAE into a bundle.

  Args:
    config: whole configuration of the run.
    networks: {'analysis', 'synthesis'}, as evaluated; NumPy arrays.
    q_steps: float [C], quantization step of each channel.
    prior: {'mean', 'log_scale'}, float [C], logistic law of the latents.
    metrics: JSON-able numbers to be stored beside.
  """
  finest, coarsest = OCTAVES
  octaves = np.arange(coarsest, finest - 1, -1, dtype=np.float64)
  steps = np.exp2(octaves)[:, None] * np.maximum(q_steps, 1e-6)[None]
  gain = -np.log(steps)
  scale = (prior['log_scale'][None] + gain) / np.log(2)
  floats = {'gain': gain.astype(np.float32), 'mean': np.float32(prior['mean'])}
  arrays = bundles.flatten({**networks, 'prior': floats})
  tables = {f'laws/{k}': v for k, v in laws.logistic().items()}
  tables['scale'] = np.rint(scale * 2**scales.FRAC).astype(np.int32)
  arrays |= {_TABLES + k: v for k, v in tables.items()}
  arrays['step'] = np.float32(q_steps)
  return bundles.make(FAMILY, config, arrays, metrics)


def unpack(bundle: bundles.Bundle) -> Model:
  """Returns the contents of a bundle.

  Raises:
    CodaxError: another family, a missing array, or parts that do not fit.
  """
  if bundle.family != FAMILY:
    raise CodaxError(f'the bundle is of family {bundle.family!r}, not {FAMILY!r}')
  found = {k: v for k, v in bundle.arrays.items() if k.startswith(_TABLES)}
  tables = scales.from_arrays({k.removeprefix(_TABLES): v for k, v in found.items()})
  tree = bundles.unflatten({k: v for k, v in bundle.arrays.items() if k not in found})
  try:
    if bundle.config.get('objective', 'kl') == 'rate':
      return _unpack_transform(bundle, tree, tables)
    return _unpack_vae(bundle, tree, tables)
  except (LookupError, TypeError) as e:
    raise CodaxError(f'the bundle lacks or misstates {e}') from e


def _unpack_transform(bundle, tree, tables) -> Model:
  """Unpacks a transform codec."""
  config = transform.read_config(bundle.config['model'])
  shapes.check_tables(tables, config)
  floats = {k: v for k, v in bundle.arrays.items() if not k.startswith(_TABLES)}
  shapes.check_arrays(floats, shapes.list_shapes(config))
  net = tree['transform']
  entropy = coding.EntropyModel(config, tree['prior'], net['deviation'], tables)
  ends = [levels.to_lmbda(x) for x in (levels.MIN_LMBDA, levels.MAX_LMBDA)]
  position = round(DEFAULT_SHARE * (tables.positions - 1))
  return Model(config, net, entropy, tuple(ends), position, bundle.id)


def _unpack_vae(bundle, tree, tables) -> Model:
  """Unpacks a convolutional VAE."""
  config = arch.from_section(bundle.config['model'])
  params = {name: tree[name] for name in ('analysis', 'synthesis')}
  prior = tree['prior']
  entropy = coding.EntropyModel(config, prior, np.ones_like(prior['mean']), tables)
  finest, coarsest = OCTAVES
  # The training's loss is, but for a factor, MSE on [0, 1] + lmbda * bits a pixel: its
  # errors are on [-1, 1], its divergence in nats a position.
  mse = bundle.config['loss'].get('mse', 0.0) or bundle.config['loss'].get('l1', 1.0)
  weight = bundle.config['kl']['weight'] or 1e-4
  lmbda = weight * np.log(2) * config.factor**2 / (4 * (mse or 1.0))
  ends = (lmbda * 4.0**coarsest, lmbda * 4.0**finest)
  return Model(config, params, entropy, ends, coarsest * scales.STEPS, bundle.id)
