"""A trained VQ-VAE as a bundle, and back: what the codec reads, checked.

The bundle holds the networks' weights (float32), the codebook, the frozen prior as an
integer table and the context model in fixed point; nothing of the training state.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codax import bundle as bundles
from codax.entropy import context_coder, tables
from codax.errors import CodaxError
from codax.vqvae import components as parts_lib
from codax.vqvae import model as nets

FAMILY = 'vqvae'


class Model(NamedTuple):
  """A bundle, unpacked.

  Attributes:
    config: of the networks.
    encoder, decoder: their parameters.
    codebook: float32 [G, K, d].
    prior: int64 [G, K], frequencies that sum to 2**tables.PRECISION.
    context: integer context model or None.
    sigma2: mean squared quantisation error of a latent vector's group.
    lmbda: the default choice of `lmbda`.
    id: of the bundle.
  """

  config: nets.ModelConfig
  encoder: Any
  decoder: Any
  codebook: np.ndarray
  prior: np.ndarray
  context: Any
  sigma2: float
  lmbda: float
  id: bytes


def pack(
  parts: parts_lib.Parts, params: Any, q_state: Any, error: float, metrics: Any
) -> bundles.Bundle:
  """The bundle of trained parameters.

  Args:
    parts: of the configuration.
    params: as evaluated; NumPy arrays.
    q_state: of the quantiser.
    error: mean squared quantisation error of a group's vector.
    metrics: to be kept in it.
  """
  arrays = bundles.flatten({name: params[name] for name in ('encoder', 'decoder')})
  codebook = parts_lib.codebook_of(parts, params, q_state)
  arrays['codebook'] = np.asarray(codebook, np.float32)
  prior = np.asarray(parts.quantizer.code_prior(q_state), np.float64)
  arrays['prior'] = tables.quantize_pmf(prior).astype(np.int32)
  arrays['sigma2'] = np.float32(error)
  if parts.context is not None:
    learnt = parts_lib.context_params(params['context'], codebook)
    integers = context_coder.to_int(jax.device_get(learnt), parts.context)
    names = context_coder.to_arrays(integers)
    arrays |= {f'context/{name}': array for name, array in names.items()}
  return bundles.make(FAMILY, parts.config.to_dict(), arrays, metrics)


def unpack(bundle: bundles.Bundle) -> Model:
  """A bundle's arrays as a `Model`.

  Raises:
    CodaxError: it is of another family, lacks something, or its parts do not fit.
  """
  if bundle.family != FAMILY:
    raise CodaxError(f'the bundle is of family {bundle.family!r}, not {FAMILY!r}')
  tree = bundles.unflatten(bundle.arrays)
  try:
    config = nets.check(nets.ModelConfig(**bundle.config['model']))
    found = Model(
      config=config,
      encoder=tree['encoder'],
      decoder=tree['decoder'],
      codebook=np.asarray(tree['codebook'], np.float32),
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
  _check(found)
  return found


def _context(bundle: bundles.Bundle) -> context_coder.IntContext:
  prefix = 'context/'
  names = [name for name in bundle.arrays if name.startswith(prefix)]
  return context_coder.from_arrays(
    {name.removeprefix(prefix): bundle.arrays[name] for name in names}
  )


def _check(model: Model) -> None:
  """Raises `CodaxError` unless the parts of a model fit each other."""
  cfg, book = model.config, model.codebook
  if book.ndim != 3 or model.prior.shape != book.shape[:2]:
    raise CodaxError(
      f'the bundle has a codebook {book.shape} and a prior {model.prior.shape}'
    )
  if book.shape[0] * book.shape[2] != cfg.latent_dim:
    raise CodaxError(
      f'the bundle has a codebook {book.shape} for {cfg.latent_dim}-dimensional latents'
    )
  sizes = (book.shape[1], book.shape[0])
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
  arrays = [*jax.tree.leaves((model.encoder, model.decoder)), book]
  if not all(np.isfinite(a).all() for a in arrays):
    raise CodaxError('the bundle has weights that are not finite')
  if not (np.isfinite(model.sigma2) and model.sigma2 > 0 and model.lmbda >= 0):
    raise CodaxError('the bundle has sigma2 or lmbda out of range')
