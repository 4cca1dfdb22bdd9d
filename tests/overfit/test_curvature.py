"""The quadratic model of a network's loss, against differences of the loss itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import SMALL, grids, networks, photo

from codax.overfit import curvature, measure, model
from codax.overfit.format import arch as archs

SHAPE = (24, 32, 3)
# one program each: operation by operation there are a hundred
RATE = jax.jit(model.rate, static_argnums=1)
IMAGE_LOSS = jax.jit(measure.image_loss, static_argnums=0)


def listed(arch, name):
  tensors = archs.tensors(arch, arch.grids, 3)
  return tuple(t for t in tensors if t.module == name)


def along(name, arch, net, latents, target, direction, step):
  """Losses at -step, 0 and step along a direction."""
  tensors = listed(arch, name)
  flat = curvature.flatten(net, tensors)
  out = []
  for t in (-step, 0, step):
    moved = curvature.unflatten(np.float32(flat + t * direction), tensors)
    out.append(loss(name, arch, moved, latents, target))
  return out


def loss(name, arch, net, latents, target):
  """The loss of the whole image at once."""
  if name == 'entropy':
    return float(RATE(net, arch, latents))
  return float(IMAGE_LOSS(arch, net, latents, target))


@pytest.mark.parametrize('name', archs.MODULES)
def test_gradient_of_the_loss_is_that_of_differences(name):
  nets = networks(SMALL, SHAPE, spread=0.05)
  latents = tuple(jnp.asarray(g, jnp.float32) for g in grids(SMALL, SHAPE))
  target = jnp.asarray(photo(*SHAPE[:2]), jnp.float32) / 255
  args = name, SMALL, nets[name], latents, target
  fixed = measure.fix_latents(SMALL, latents)
  found = measure.gradient(name, SMALL, nets[name], fixed, target)
  found = curvature.flatten(found, listed(SMALL, name))
  direction = found / np.linalg.norm(found)
  low, _, high = along(*args, direction, 1e-3)
  assert (high - low) / 2e-3 == pytest.approx(np.linalg.norm(found), rel=0.02)


def test_hessian_of_a_matched_image_is_exact(monkeypatch):
  """Where the error is 0 Gauss and Newton leave out nothing but sampling: none here."""
  monkeypatch.setitem(curvature.SQUARES, 'synthesis', (64, 1))
  arch = SMALL._replace(activation='gelu')
  net = networks(arch, SHAPE, spread=0.02)['synthesis']
  net['b1'] = np.full(3, 0.5, np.float32)
  latents = tuple(np.float32(g) for g in grids(arch, SHAPE, scale=0.3))
  tensors = listed(arch, 'synthesis')
  target = model.synthesize(net, arch, latents)
  assert 0 < float(target.min()) and float(target.max()) < 1  # nothing is clipped
  found = curvature.hessian('synthesis', arch, net, latents, 3, tensors)
  np.testing.assert_allclose(found, found.T, atol=1e-6)
  rng = np.random.default_rng(0)
  for _ in range(4):
    direction = rng.normal(size=len(found))
    args = 'synthesis', arch, net, latents, target, direction, 3e-3
    low, middle, high = along(*args)
    wanted = (low - 2 * middle + high) / 3e-3**2
    assert direction @ found @ direction == pytest.approx(wanted, rel=0.03)


def test_hessian_of_a_code_that_fits_is_its_mean_curvature(monkeypatch):
  """Fisher's matrix is the mean of the code's curvature if latents are as it says."""
  monkeypatch.setitem(curvature.SQUARES, 'entropy', (256, 1))
  shape = (128, 128, 3)
  net = {k: 0 * v for k, v in networks(SMALL, shape)['entropy'].items()}
  net['b1'] = np.array([0.0, 2.0], np.float32)  # log2(scale) is 1
  latents = tuple(np.float32(g) for g in grids(SMALL, shape, scale=2.0))
  tensors = listed(SMALL, 'entropy')
  found = curvature.hessian('entropy', SMALL, net, latents, 3, tensors)
  owner = np.repeat([t.name for t in tensors], [int(np.prod(t.shape)) for t in tensors])
  for direction in np.eye(len(found))[owner == 'b1']:
    args = 'entropy', SMALL, net, latents, None, direction, 0.3
    low, middle, high = along(*args)
    wanted = (low - 2 * middle + high) / 0.3**2
    assert direction @ found @ direction == pytest.approx(wanted, rel=0.1)


def test_squares_of_all_grids_are_of_the_same_place():
  latents = tuple(
    np.arange(h * w).reshape(h, w) for h, w in archs.grid_shapes(SMALL, 50, 70)
  )
  found = curvature.cut_squares(latents, 16, 99)
  assert [g.shape for g in found] == [(12, 16, 16), (12, 8, 8), (12, 4, 4)]
  tops, lefts = np.divmod(found[0][:, 0, 0].astype(int), 70)
  assert {(t, l) for t, l in zip(tops, lefts)} == {
    (t, l) for t in (0, 16, 32) for l in (0, 16, 32, 48)
  }
  for i, (top, left) in enumerate(zip(tops, lefts)):
    for k in (1, 2):
      part = latents[k][top >> k : (top + 16) >> k, left >> k : (left + 16) >> k]
      np.testing.assert_array_equal(found[k][i], part)
  assert len(curvature.cut_squares(latents, 16, 5)[0]) == 5
  assert curvature.cut_squares(latents, 64, 5)[0].shape == (1, 50, 64)
