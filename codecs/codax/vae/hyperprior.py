"""Entropy model of the transform codec: a scale hyperprior, and means with context.

Coefficients are logistic around a mean, with a scale; both depend on hyper-latents, a
few numbers for every 32 x 32 pixels that are coded first (Balle et al. 2018,
"Variational image compression with a scale hyperprior"; means: Minnen et al. 2018).
What is coded is the coefficient less its mean, rounded, under a table that the scale
alone picks. So only the path to the scales has to be exact, which `hyper_integer` makes
it, and means may be floats: in a file of another machine they differ in the last bits,
and so does the image.

Means come in two checkerboard passes (He et al. 2021, "Checkerboard context model for
efficient learned image compression"): those of the second pass also see the decoded
neighbours of the first.
"""

from typing import Any

from codax.layers import activations, twins
from codax.vae import scale_context
from codax.vae.transform import TransformConfig, units

_MAX_MEAN = 128.0  # greatest unit of a mean, in pixel values
_LATENT_SCALE = -2.0  # log2 of the scale of hyper-latents at first: few bits
ACTIVATION_MAX = 8.0  # of the network of scales, which has to run in integers


def init(rng: Any, config: TransformConfig, deviation: Any) -> dict[str, Any]:
  """Draws the parameters of the entropy model.

  Args:
    rng: key.
    config: architecture.
    deviation: float32 [C], standard deviations of the coefficients.

  Returns:
    A dict with 'gain' (log of the gains) and 'scale' (log2 of scales, relative to the
    gains) [L, C]; with a hyperprior also 'analysis', 'scales', 'means', 'latents', and
    'context' and 'scale_context' where there are such.
  """
  import jax
  import jax.numpy as jnp

  from codax.vae import levels

  steps = jnp.asarray(levels.initial_steps(config.levels), jnp.float32)
  dim, width = config.latent_dim, config.hyper_width
  gain = jnp.broadcast_to(-jnp.log(steps)[:, None], (config.levels, dim))
  # A logistic distribution's deviation is pi / sqrt(3) times its scale.
  scale = jnp.log2(jnp.maximum(deviation, 1e-3) * 3**0.5 / jnp.pi)
  params = {'gain': gain, 'scale': jnp.broadcast_to(scale[None], gain.shape)}
  if not config.hyper_dim:
    return params | {'mean': jnp.zeros((dim,), jnp.float32)}
  keys = jax.random.split(rng, 12)
  act = activations.get(config.act)
  wide = act.expansion * width
  hyper = config.hyper_dim
  params['analysis'] = {
    'first': twins.init_dense(keys[0], dim, wide, 2**0.5),
    'act_0': act.init(width),
    'merge': twins.init_dense(keys[1], 4 * width, wide, 2**0.5),
    'act_1': act.init(width),
    'conv': twins.init_conv3(keys[2], width, wide, 2**0.5),
    'act_2': act.init(width),
    'last': twins.init_dense(keys[3], width, hyper, 0.5),
  }
  params['scales'] = {
    'conv': twins.init_conv3(keys[4], hyper, width, 2**0.5),
    'middle': twins.init_dense(keys[5], width, width, 2**0.5),
    'last': twins.init_dense(keys[6], width, 4 * dim, 0.0),
  }
  params['means'] = {
    'conv': twins.init_conv3(keys[7], hyper, wide, 2**0.5),
    'level': jnp.zeros((config.levels, wide), jnp.float32),
    'act_0': act.init(width),
    'spread': twins.init_dense(keys[8], width, 4 * wide, 2**0.5),
    'act_1': act.init(width),
    'last': twins.init_dense(keys[9], width, dim, 0.0),
  }
  if config.context:
    params['context'] = {
      'first': twins.init_dense(keys[9], dim, width),
      'conv': twins.init_conv3(keys[10], width, wide),
      'hyper': twins.init_dense(keys[11], width, wide),
      'act': act.init(width),
      'last': twins.init_dense(keys[9], width, dim, 0.0),
    }
  if config.scale_context:
    params['scale_context'] = scale_context.init(keys[4], config)
  params['latents'] = {
    'gain': jnp.zeros((config.levels, hyper), jnp.float32),
    'mean': jnp.zeros((config.levels, hyper), jnp.float32),
    'scale': jnp.full((config.levels, hyper), _LATENT_SCALE, jnp.float32),
  }
  return params


def analyze(params: Any, config: TransformConfig, y: Any, gain: Any, xp: Any) -> Any:
  """Computes hyper-latents [B, h / 2, w / 2, hyper_dim] of coefficients.

  Coefficients enter in quantization steps, so that details too small to be coded at a
  rate level take no bits of hyper-latents either; and compressed, by the inverse
  hyperbolic sine, as they range over four orders of magnitude.

  Args:
    params: parameters of `init`.
    config: architecture.
    y: float [B, h, w, C], coefficients in pixel values; h and w are even.
    gain: float [B, 1, 1, C], gains.
    xp: array module.
  """
  p, act = params['analysis'], activations.get(config.act)
  x = xp.arcsinh(y * gain * xp.float32(2))
  x = act.apply(p.get('act_0', {}), twins.dense(p['first'], x), xp)
  x = twins.space_to_depth(x, 2)
  x = act.apply(p.get('act_1', {}), twins.dense(p['merge'], x), xp)
  x = act.apply(p.get('act_2', {}), twins.conv3(p['conv'], x, xp), xp)
  return twins.dense(p['last'], x)


def log2_scales(params: Any, z: Any, xp: Any) -> Any:
  """Computes log2 of relative scales [B, h, w, C] of hyper-latents [B, h/2, w/2, D].

  The float twin of `hyper_integer.log2_scales`: ReLU clipped to `ACTIVATION_MAX`.
  """
  p = params['scales']
  clip = lambda x: xp.clip(x, 0, ACTIVATION_MAX)
  x = clip(twins.conv3(p['conv'], z, xp))
  x = clip(twins.dense(p['middle'], x))
  return twins.depth_to_space(twins.dense(p['last'], x), 2)


def mean_features(
  params: Any, config: TransformConfig, z: Any, mixing: Any, xp: Any
) -> Any:
  """Computes features [B, h, w, width] for the means, of hyper-latents.

  Args:
    params: parameters of `init`.
    config: architecture.
    z: float [B, h / 2, w / 2, D], decoded hyper-latents.
    mixing: float32 [B, L], weights of the rate levels, see `levels.mixing`.
    xp: array module.
  """
  p, act = params['means'], activations.get(config.act)
  x = twins.conv3(p['conv'], z, xp) + (mixing @ p['level'])[:, None, None]
  x = act.apply(p.get('act_0', {}), x, xp)
  x = twins.depth_to_space(twins.dense(p['spread'], x), 2)
  return act.apply(p.get('act_1', {}), x, xp)


def first_means(params: Any, features: Any, deviation: Any, xp: Any) -> Any:
  """Computes means [B, h, w, C] in pixel values from the hyper-latents alone."""
  return twins.dense(params['means']['last'], features) * _mean_unit(deviation, xp)


def _mean_unit(deviation: Any, xp: Any) -> Any:
  """Returns the unit of the means, [1, 1, 1, C]; bounded as in `transform.analyze`."""
  return xp.minimum(units(deviation, xp), xp.float32(_MAX_MEAN))[None, None, None]


def second_means(
  params: Any, config: TransformConfig, features: Any, y: Any, deviation: Any, xp: Any
) -> Any:
  """Computes means [B, h, w, C] that also see decoded coefficients.

  Args:
    params: parameters of `init`.
    config: architecture.
    features: result of `mean_features`.
    y: float [B, h, w, C], decoded coefficients, 0 at the positions of the second pass.
    deviation: float32 [C].
    xp: array module.
  """
  p, act = params['context'], activations.get(config.act)
  unit = units(deviation, xp)[None, None, None]
  x = twins.dense_only(y / unit, p['first']['kernel'])
  x = twins.conv3(p['conv'], x, xp) + twins.dense(p['hyper'], features)
  x = act.apply(p.get('act', {}), x, xp)
  return twins.dense(p['last'], x) * _mean_unit(deviation, xp)


def means(
  params: Any,
  config: TransformConfig,
  features: Any,
  parity: int,
  y: Any,
  deviation: Any,
  xp: Any,
) -> Any:
  """Computes the means of a pass, [B, h, w, C] in pixel values.

  Args:
    params: parameters of `init`.
    config: architecture.
    features: result of `mean_features`, or None with a factorized prior.
    parity: parity of row + column of the blocks of the pass, where means are right.
    y: float [B, h, w, C], decoded coefficients, 0 where there are none.
    deviation: float32 [C].
    xp: array module.
  """
  if features is None:
    return xp.broadcast_to(params['mean'][None, None, None], y.shape)
  if parity and config.context:
    return second_means(params, config, features, y, deviation, xp)
  return first_means(params, features, deviation, xp)


def is_first_pass(height: int, width: int, xp: Any) -> Any:
  """Returns the positions of the first checkerboard pass, bool [1, h, w, 1]."""
  rows, columns = xp.arange(height)[:, None], xp.arange(width)[None]
  return ((rows + columns) % 2 == 0)[None, :, :, None]


def logistic_bits(x: Any, scale: Any) -> Any:
  """Computes code lengths in bits of x in [x - 1/2, x + 1/2] under logistic laws.

  Args:
    x: float array, distance from the mean.
    scale: positive, broadcastable to x.

  Returns:
    -log2 of sigmoid((1/2 - |x|) / scale) - sigmoid((-1/2 - |x|) / scale), written as
    a sum of logarithms so that neither it nor its gradient vanishes far from the mean.
  """
  import jax
  import jax.numpy as jnp

  size, inverse = jnp.abs(x), 1 / scale
  near, far = (0.5 - size) * inverse, (-0.5 - size) * inverse
  nats = jax.nn.softplus(-near) + jax.nn.softplus(far)
  return (nats - jnp.log(-jnp.expm1(-inverse))) / jnp.log(2.0)
