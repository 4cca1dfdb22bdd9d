"""Scales from what is decoded already: the context model of the transform codec.

A coefficient is as large as its neighbours are: those of the blocks around, and the
coarser ones of its own block. So coefficients come in four stages: of every second
block (a checkerboard) first the coarse ones, then the others, and of the blocks between
likewise. From the second stage on a network adds to log2 of the scales what the sizes
of decoded integers around say (Minnen and Singh 2020, "Channel-wise autoregressive
entropy models", with the checkerboard of He et al. 2021). It sees integers, so decoders
run it in integers (`format.integer_context`), and it agrees on every machine. The
functions here are its float twin, for training.
"""

from typing import Any, NamedTuple

from codax.layers import twins
from codax.vae.format import integer_context
from codax.vae.transform import TransformConfig

# The networks run in integers.
ACTIVATION_MAX = integer_context.MAX_INPUT / 2**integer_context.FRAC


class Stage(NamedTuple):
  """Coefficients that are coded together.

  Attributes:
    parity: parity of row + column of the blocks, or None for all blocks.
    start: first channel.
    stop: end of the channels.
    network: number of the network that adds to its scales, or None.
  """

  parity: int | None
  start: int
  stop: int
  network: int | None = None


def list_stages(config: TransformConfig) -> list[Stage]:
  """Lists the stages of an architecture, in coding order."""
  low, dim = config.coarse_dim, config.latent_dim
  if config.scale_context:
    return [
      Stage(0, 0, low),
      Stage(0, low, dim, 0),
      Stage(1, 0, low, 1),
      Stage(1, low, dim, 2),
    ]
  if config.hyper_dim and config.context:
    return [Stage(0, 0, dim), Stage(1, 0, dim)]
  return [Stage(None, 0, dim)]


def init(rng: Any, config: TransformConfig) -> dict[str, Any]:
  """Draws the networks, {'network_k': {'first', 'conv', 'side', 'last'}}."""
  import jax

  dim, width = config.latent_dim, config.scale_context
  params = {}
  for stage in list_stages(config):
    if stage.network is not None:
      keys = jax.random.split(jax.random.fold_in(rng, stage.network), 4)
      params[f'network_{stage.network}'] = {
        'first': twins.init_dense(keys[0], dim, width, 2**0.5),
        'conv': twins.init_conv3(keys[1], width, width, 2**0.5),
        'side': twins.init_dense(keys[2], dim, width),
        'last': twins.init_dense(keys[3], width, stage.stop - stage.start, 0.0),
      }
  return params


def sizes(values: Any, xp: Any) -> Any:
  """Returns the sizes of integers as the networks see them, float32.

  Linear between powers of two, near log2(1 + |value|); the same in integers is
  `format.integer_context.sizes`.
  """
  grown = 1 + xp.abs(values)
  power = xp.floor(xp.log2(grown))
  return power + grown * xp.exp2(-power) - 1


def log2_scales(p: Any, known: Any, base: Any, xp: Any) -> Any:
  """Computes what a network adds to log2 of the scales of its stage.

  Args:
    p: 'network_k' of `init`.
    known: float [B, h, w, C], sizes of decoded integers, 0 where there are none.
    base: float [B, h, w, C], log2 of the scales of all coefficients from the
      hyper-latents, clipped to the range of the tables.
    xp: array module.

  Returns:
    float [B, h, w, channels of the stage].
  """
  clip = lambda x: xp.clip(x, 0, ACTIVATION_MAX)
  x = clip(twins.dense(p['first'], known))
  x = clip(twins.conv3(p['conv'], x, xp) + twins.dense(p['side'], base))
  return twins.dense(p['last'], x)
