"""Bundles of a trained VQ-VAE: packs its components and unpacks them, checked.

A bundle holds the networks' weights (float32), the quantizer, the frozen prior as an
integer table and the context model in fixed point; nothing of the training state. The
quantizer is the array ``codebook`` [G, K, d] if it has an explicit codebook, else the
arrays ``quantizer/...`` that `codax.quantize.exported` describes.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codax import bundle as bundles
from codax.entropy import context_coder, tables
from codax.errors import CodaxError
from codax.quantize import exported
from codax.vqvae import components as components_lib
from codax.vqvae import model as nets
from codax.vqvae.components import Components

FAMILY = 'vqvae'
CODEBOOK, PREFIX = 'codebook', 'quantizer/'


class Model(NamedTuple):
  """Contents of a bundle.

  Attributes:
    config: architecture of the networks.
    encoder: parameters of the encoder.
    decoder: parameters of the decoder.
    codebooks: codewords of the quantizer, G codes at a position.
    prior: int64 [G, K], frequencies that sum to 2**tables.PRECISION.
    context: integer context model or None.
    sigma2: mean squared quantization error of a latent vector's group.
    lmbda: default weight of a bit, >= 0.
    id: 32 bytes, identity of the bundle.
  """

  config: nets.ModelConfig
  encoder: Any
  decoder: Any
  codebooks: exported.Codebooks
  prior: np.ndarray
  context: Any
  sigma2: float
  lmbda: float
  id: bytes


def pack(
  components: Components, params: Any, q_state: Any, error: float, metrics: Any
) -> bundles.Bundle:
  """Packs trained parameters into a bundle.

  Args:
    components: components of the configuration.
    params: parameters as evaluated; NumPy arrays.
    q_state: state of the quantizer.
    error: mean squared quantization error of a group's vector.
    metrics: JSON-able numbers to be stored beside.
  """
  arrays = bundles.flatten({name: params[name] for name in ('encoder', 'decoder')})
  quantizer = components.quantizer
  exports = jax.device_get(quantizer.export(params['quantizer'], q_state))
  if list(exports) != [CODEBOOK]:
    exports = {PREFIX + name: array for name, array in exports.items()}
  arrays |= exports
  prior = np.asarray(quantizer.code_prior(q_state), np.float64)
  arrays['prior'] = tables.quantize_pmf(prior).astype(np.int32)
  arrays['sigma2'] = np.float32(error)
  if components.context is not None:
    vectors = components_lib.code_vectors(components, params, q_state)
    learnt = components_lib.context_params(params['context'], vectors)
    integers = context_coder.to_int(jax.device_get(learnt), components.context)
    names = context_coder.to_arrays(integers)
    arrays |= {f'context/{name}': array for name, array in names.items()}
  return bundles.make(FAMILY, components.config.to_dict(), arrays, metrics)


def unpack(bundle: bundles.Bundle) -> Model:
  """Returns the contents of a bundle.

  Raises:
    CodaxError: another family, a missing array, or components that do not fit.
  """
  if bundle.family != FAMILY:
    raise CodaxError(f'the bundle is of family {bundle.family!r}, not {FAMILY!r}')
  tree = bundles.unflatten(bundle.arrays)
  try:
    config = nets.check(nets.ModelConfig(**bundle.config['model']))
    model = Model(
      config=config,
      encoder=tree['encoder'],
      decoder=tree['decoder'],
      codebooks=_codebooks(bundle.arrays, tree),
      prior=tables.check_freqs(np.asarray(tree['prior'], np.int64)),
      context=_context(bundle) if 'context' in tree else None,
      sigma2=float(tree['sigma2']),
      lmbda=float(bundle.config.get('lmbda', 0.0)),
      id=bundle.id,
    )
  except (LookupError, TypeError, ValueError) as e:
    if isinstance(e, CodaxError):
      raise
    raise CodaxError(f'the bundle lacks or misstates {e}') from e
  _check(model)
  return model


def _codebooks(arrays: Any, tree: Any) -> exported.Codebooks:
  """Returns the codewords of a bundle's quantizer."""
  if 'quantizer' not in tree:
    return exported.from_arrays({CODEBOOK: np.asarray(tree[CODEBOOK], np.float32)})
  if CODEBOOK in tree:
    raise CodaxError('the bundle has two quantizers: codebook and quantizer/')
  names = [name for name in arrays if name.startswith(PREFIX)]
  exports = {name.removeprefix(PREFIX): arrays[name] for name in names}
  return exported.from_arrays(exports)


def _context(bundle: bundles.Bundle) -> context_coder.IntContext:
  prefix = 'context/'
  names = [name for name in bundle.arrays if name.startswith(prefix)]
  return context_coder.from_arrays(
    {name.removeprefix(prefix): bundle.arrays[name] for name in names}
  )


def _check(model: Model) -> None:
  """Raises `CodaxError` unless the components of a model fit each other."""
  cfg, books = model.config, model.codebooks
  if model.prior.shape != (books.groups, books.num_codes):
    raise CodaxError(
      f'the bundle has codewords {[book.shape for book in books.stages]} and a prior '
      f'{model.prior.shape}'
    )
  if books.dim != cfg.latent_dim:
    raise CodaxError(
      f'the bundle has a codebook of {books.dim} channels for {cfg.latent_dim}-'
      'dimensional latents'
    )
  sizes = (books.num_codes, books.groups)
  if model.context and (model.context.config.codes, model.context.config.groups) != (
    sizes
  ):
    raise CodaxError('the bundle has a context model of another number of codes')
  image = jax.ShapeDtypeStruct((1, cfg.factor, cfg.factor, 3), jnp.float32)
  z = jax.ShapeDtypeStruct((1, 1, 1, cfg.latent_dim), jnp.float32)
  for name, net, x, given in (
    ('encoder', nets.Encoder(cfg), image, model.encoder),
    ('decoder', nets.Decoder(cfg), z, model.decoder),
  ):
    wanted = jax.eval_shape(net.init, jax.random.key(0), x)['params']
    shapes = lambda tree: jax.tree.map(lambda a: (a.shape, str(a.dtype)), tree)
    if shapes(wanted) != shapes(given):
      raise CodaxError(f'the bundle has another {name} than its configuration says')
  arrays = [*jax.tree.leaves((model.encoder, model.decoder)), *books.stages]
  if not all(np.isfinite(a).all() for a in arrays):
    raise CodaxError('the bundle has weights that are not finite')
  if not (np.isfinite(model.sigma2) and model.sigma2 > 0 and model.lmbda >= 0):
    raise CodaxError('the bundle has sigma2 or lmbda out of range')
