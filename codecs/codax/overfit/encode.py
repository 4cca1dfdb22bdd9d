"""Encoding: train, quantise, write, and check against the decoder."""

import jax
import jax.numpy as jnp
import numpy as np

from codax.codec import Encoded, Options
from codax.overfit import arch as archs
from codax.overfit import codec, search, stream, train

STEPS = {'fast': 1000, 'medium': 10_000, 'full': 110_000}
DEFAULT_LMBDA = 1e-3


def analyse(image: np.ndarray, options: Options, progress=None) -> Encoded:
  lmbda = options.lmbda or DEFAULT_LMBDA
  recipe = train.Recipe(steps=STEPS[options.preset])
  arch = archs.Arch()
  targets = jnp.asarray(image, jnp.float32)[None] / 255
  key = jax.random.key(options.seed)
  state = train.init(key, arch, targets)

  def report(done, metrics):
    if progress is not None:
      progress(done, recipe.steps)
    return True

  state = train.run(arch, recipe, state, targets, jnp.array([lmbda]), key, report)
  params = jax.device_get(jax.tree.map(lambda x: x[0], state.params))
  return finish(image, arch, params, lmbda)


def finish(image, arch, params, lmbda) -> Encoded:
  grids = tuple(np.asarray(g).astype(np.int32) for g in train.hard(params['latents']))
  target = np.asarray(image, np.float32) / 255
  modules = search.choose(arch, params, grids, target, lmbda)
  picture = stream.Picture(arch, image.shape, modules, grids)
  data, bits = codec.pack(picture)
  pixels = codec.synthesise(picture)
  overhead = 8 * len(data)
  return Encoded(data, pixels, bits.total + 8 * 20, {'bits': bits._asdict(), 'steps': {
    name: (m.weight_frac, m.bias_frac) for name, m in modules.items()}})
