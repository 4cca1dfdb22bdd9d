"""The float context model: causality, the start at the prior, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from codax.entropy import context
from codax.errors import CodaxError


def randomised(config, seed=0):
  """Parameters whose last layer is not zero, so that every input matters."""
  rng = np.random.default_rng(seed)
  shapes = jax.eval_shape(lambda: context.init(jax.random.key(0), config))
  return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes)


def oracle(params, config, codes):
  """Logits [H, W, G, K] of one map, position by position in float64."""
  height, width, groups = codes.shape
  embed = np.asarray(params['embed'], np.float64)
  out = np.zeros((*codes.shape, config.codes))
  for y, x, g in np.ndindex(*codes.shape):
    row = []
    for dy, dx in config.offsets:
      inside = 0 <= y + dy and 0 <= x + dx < width
      for other in range(groups):
        code = codes[y + dy, x + dx, other] if inside else config.codes
        row.append(embed[other, code])
    row += [embed[other, codes[y, x, other]] for other in range(g)]
    h = np.concatenate(row)
    layers = params[f'group_{g}']
    for i in range(len(layers)):
      layer = jax.tree.map(lambda a: np.asarray(a, np.float64), layers[f'layer_{i}'])
      h = h @ layer['kernel'] + layer['bias']
      if i + 1 < len(layers):
        h = np.clip(h, 0, 256.0)
    out[y, x, g] = h
  return out


CONFIGS = [
  context.ContextConfig(7, hidden=6, embed=3),
  context.ContextConfig(5, groups=3, hidden=4, layers=(6, 5), embed=2),
  context.ContextConfig(4, groups=2, offsets=((-1, 2), (-2, -1)), hidden=3, embed=2),
  context.ContextConfig(3, offsets=((0, -1),), hidden=3, embed=2),
]


@pytest.mark.parametrize('config', CONFIGS)
@pytest.mark.parametrize('height, width', [(4, 5), (1, 1)])
def test_logits_equal_a_loop(config, height, width):
  params = randomised(config)
  rng = np.random.default_rng(1)
  codes = rng.integers(0, config.codes, (2, height, width, config.groups), np.int32)
  got = jax.jit(context.logits, static_argnums=1)(params, config, codes)
  assert got.shape == (*codes.shape, config.codes) and got.dtype == jnp.float32
  expected = np.stack([oracle(params, config, c) for c in codes])
  np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
  log_p = expected - np.log(np.exp(expected).sum(-1, keepdims=True))
  picked = np.take_along_axis(log_p, codes[..., None], -1)[..., 0]
  np.testing.assert_allclose(
    jax.jit(context.bits, static_argnums=1)(params, config, codes),
    -picked / np.log(2),
    rtol=1e-3,
    atol=1e-3,
  )


def test_initial_logits_are_the_prior():
  config = context.ContextConfig(6, groups=2)
  prior = np.random.default_rng(0).dirichlet(np.ones(6), 2)
  params = context.init(jax.random.key(0), config, prior=prior)
  codes = np.random.default_rng(1).integers(0, 6, (2, 4, 4, 2), np.int32)
  got = jax.jit(context.bits, static_argnums=1)(params, config, codes)
  expected = -np.log2(prior)[np.arange(2), codes]
  np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_initial_embedding_from_codewords_is_near_them():
  config = context.ContextConfig(20, embed=8)
  words = 5 + np.random.default_rng(0).normal(size=(1, 20, 4)) * 3
  table = np.asarray(context.init(jax.random.key(0), config, embed=words)['embed'])
  assert table.shape == (1, 21, 8)
  centered = words - words.mean(1, keepdims=True)
  for i in range(4):
    assert np.corrcoef(table[0, :20, i], centered[0, :, i])[0, 1] > 0.95


def test_gradients_equal_differences():
  config = context.ContextConfig(4, groups=2, hidden=3, embed=2)
  params = randomised(config)
  codes = jnp.asarray(np.random.default_rng(2).integers(0, 4, (1, 3, 3, 2), np.int32))
  check_grads(
    jax.jit(lambda p: context.bits(p, config, codes).mean()), (params,), 1, ['rev'],
    atol=1e-2, rtol=1e-2,
  )  # fmt: skip


@pytest.mark.parametrize(
  'changes',
  [
    dict(codes=0), dict(codes=2**16 + 1), dict(groups=0), dict(hidden=0),
    dict(layers=(0,)), dict(embed=10**6), dict(offsets=()), dict(offsets=((0, 0),)),
    dict(offsets=((-1, 99),)), dict(layers=(4,) * 9),
  ],
)  # fmt: skip
def test_config_out_of_range_is_refused(changes):
  with pytest.raises(CodaxError, match='context'):
    context.check_config(context.ContextConfig(**(dict(codes=4) | changes)))


def test_config_from_json_lists_becomes_tuples():
  config = context.check_config(
    context.ContextConfig(4, offsets=[[0, -1], [-1, 0]], layers=[8])
  )
  assert hash(config) and config.offsets == ((0, -1), (-1, 0)) and config.layers == (8,)
