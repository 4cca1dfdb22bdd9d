"""Measures the time of activations, for ``launch/bench.py``."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from tqdm import tqdm

from codax.errors import unknown
from codax.layers import activations, timing
from codax.layers.activations import base, bezier, pade

_LAYOUT = ('NHWC', 'HWIO', 'NHWC')


def _interleave(params: Any, x: Any, xp: Any = jnp) -> Any:
  """Evaluates split curves whose five numbers of a channel lie side by side."""
  del params
  groups = x.reshape(*x.shape[:-1], -1, bezier.GROUPS)
  t, *points = (groups[..., i] for i in range(bezier.GROUPS))
  return bezier.evaluate(base.sigmoid(t, xp), points)


def _differentiate_bezier(params: Any, x: Any, xp: Any = jnp) -> Any:
  """Evaluates learnt curves without a gradient written by hand."""
  points = base.over_positions(params['points'], x)
  return bezier.evaluate(base.sigmoid(x, xp), points)


def _differentiate_pade(params: Any, x: Any, xp: Any = jnp) -> Any:
  """Evaluates rational functions without a gradient written by hand."""
  rows = (base.over_positions(params[k], x) for k in ('numerator', 'denominator'))
  upper, lower = pade.polynomials(*rows, x)
  return upper / (1 + xp.abs(lower))


# Other ways to compute an activation, to compare with.
VARIANTS = {
  'bezier_split, interleaved groups': ('bezier_split', _interleave),
  'bezier, plain differentiation': ('bezier', _differentiate_bezier),
  'pade, plain differentiation': ('pade', _differentiate_pade),
}


def candidates() -> dict[str, base.Activation]:
  """Returns every activation of the registry and `VARIANTS`, by name."""
  found = {name: activations.get(name) for name in activations.REGISTRY}
  for name, (of, apply) in VARIANTS.items():
    found[name] = found[of]._replace(apply=apply)
  return found


def layer_times(
  channels: int,
  size: tuple[int, int],
  num_images: int,
  times: int,
  only: Sequence[str] | None = None,
) -> dict[str, Any]:
  """Times activations behind a 3x3 convolution, and alone.

  The convolution has `channels` input channels and as many output channels as the
  activation takes for `channels` of its own. Activations take turns, and the least time
  of each counts: other load can only add to it.

  Args:
    channels: number of channels that enter the convolution and leave the activation.
    size: (height, width) of the images.
    num_images: number of images.
    times: measurements of each.
    only: names to measure, keys of `candidates`; None is all.

  Returns:
    JSON-able; 'activations' has a dict for each with 'activation', 'parameters' (those
    of the convolution included), 'forward_ms', 'step_ms' (forward and backward, all
    gradients), and both without the convolution: 'alone_forward_ms', 'alone_step_ms'.

  Raises:
    CodaxError: unknown name.
  """
  known = candidates()
  for name in only or ():
    if name not in known:
      raise unknown('activation', name, known)
  chosen = {name: known[name] for name in only or known}
  shape = (num_images, *size, channels)
  rows, programs = [], {}
  with tqdm(total=len(chosen), unit='program', disable=None) as bar:
    for name, act in chosen.items():
      with_conv, alone = _problems(act, shape)
      kernel_and_own = jax.tree.leaves(with_conv[1][:2])
      rows.append(
        {'activation': name, 'parameters': sum(x.size for x in kernel_and_own)}
      )
      for prefix, (function, args) in (('', with_conv), ('alone_', alone)):
        for kind, program in timing.make_programs(function).items():
          programs[name, prefix + kind] = (program, args)
      bar.update()
  least = timing.measure_in_turns(programs, times)
  for row in rows:
    row |= {
      key: 1e3 * seconds
      for (name, key), seconds in least.items()
      if name == row['activation']
    }
  return {
    'devices': f'{jax.device_count()} x {jax.devices()[0].device_kind}',
    'images': f'{num_images} of {size[1]} x {size[0]}',
    'channels': channels,
    'times': times,
    'activations': rows,
  }


def _problems(act: base.Activation, shape: tuple[int, ...]) -> tuple:
  """Makes (function, arguments) of the layer, and of the activation alone."""
  channels = shape[-1]
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  wide = act.expansion * channels
  kernel = draw(3, 3, channels, wide) / (9 * channels) ** 0.5
  params = jax.tree.map(jnp.asarray, act.init(channels))

  def layer(kernel: Any, params: Any, x: Any) -> Any:
    y = lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=_LAYOUT)
    return act.apply(params, y)

  alone = act.apply, (params, draw(*shape[:-1], wide), draw(*shape))
  return (layer, (kernel, params, draw(*shape), draw(*shape))), alone
