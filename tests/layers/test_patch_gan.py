"""PatchGAN: sizes of the paper, losses and their weight in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codax.errors import CodaxError
from codax.layers import patch_gan


def test_discriminator_has_the_papers_parameters_and_size_of_output():
  net = patch_gan.PatchGan()
  x = jax.ShapeDtypeStruct((2, 256, 256, 3), jnp.float32)
  y, variables = jax.eval_shape(net.init_with_output, jax.random.key(0), x)
  assert y.shape == (2, 30, 30, 1)
  kernels = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512)
  norms_and_biases = 64 + 2 * (128 + 256 + 512) + 1
  sizes = [x.size for x in jax.tree.leaves(variables['params'])]
  assert sum(sizes) == kernels + norms_and_biases == 2_765_633


def test_logit_sees_seventy_pixels_and_never_other_images():
  x = np.zeros((2, 96, 96, 3), np.float32)
  net = patch_gan.PatchGan(width=1, is_normalized=False)
  variables = jax.eval_shape(net.init, jax.random.key(0), x)
  variables = jax.tree.map(lambda w: np.full(w.shape, 0.1, w.dtype), variables)

  @jax.jit
  def slope(x):
    middle = lambda x: net.apply(variables, x)[0, 5, 5, 0]
    return jax.grad(middle)(x)

  seen = np.asarray(slope(x)) != 0
  assert not seen[1].any()
  rows, columns = seen[0].any((1, 2)), seen[0].any((0, 2))
  for side in rows, columns:
    first = np.argmax(side)
    assert side.sum() == 70 and side[first : first + 70].all()


def test_smallest_image_leaves_one_logit_and_a_smaller_one_is_an_error():
  net = patch_gan.PatchGan(width=2)
  assert patch_gan.min_side(3) == 24
  shape = lambda n: jax.ShapeDtypeStruct((1, n, n, 3), jnp.float32)
  init = lambda n: jax.eval_shape(net.init_with_output, jax.random.key(0), shape(n))
  assert init(24)[0].shape == (1, 1, 1, 1)
  with pytest.raises(CodaxError, match='depth 3 needs images of 24 pixels .* 23x23'):
    init(23)


def test_hinge_losses_equal_their_closed_forms():
  real = np.float32([[2.0, 0.5], [-1.0, 1.0]]).reshape(1, 2, 2, 1)
  fake = np.float32([[-2.0, 0.0], [3.0, -0.5]]).reshape(1, 2, 2, 1)

  @jax.jit
  def both(real, fake):
    loss = patch_gan.discriminator_loss
    slopes = (
      jax.grad(lambda x: loss(x, fake).total)(real),
      jax.grad(patch_gan.generator_loss)(fake),
    )
    return loss(real, fake), patch_gan.generator_loss(fake), slopes

  loss, generator, slopes = both(real, fake)
  assert float(loss.real) == (0 + 0.5 + 2 + 0) / 4
  assert float(loss.fake) == (0 + 1 + 4 + 0.5) / 4
  assert float(loss.total) == (0.625 + 1.375) / 2
  assert float(generator) == -0.125
  # logits beyond the margin pull no more; the generator's slope is the same everywhere
  np.testing.assert_array_equal(np.ravel(slopes[0])[:3], [0, -0.125, -0.125])
  np.testing.assert_array_equal(np.ravel(slopes[1]), -0.25 * np.ones(4))


def test_adaptive_weight_balances_gradients_and_stops_at_its_bound():
  tree = lambda *x: {'kernel': np.float32(x), 'bias': np.zeros(2, np.float32)}

  @jax.jit
  def weigh(above, below):
    weight = patch_gan.adaptive_weight(above, below, max_weight=10.0)
    slope = jax.grad(lambda x: patch_gan.adaptive_weight(x, below).value)(above)
    return weight, slope

  weight, slope = weigh(tree(3.0, 4.0), tree(0.0, 2.0))
  assert float(weight.value) == pytest.approx(2.5) and float(weight.is_capped) == 0
  assert not any(np.any(leaf) for leaf in jax.tree.leaves(slope))
  # the fault: where the discriminator had no slope the weight was 5e6, 1e8 at last
  weight, _ = weigh(tree(3.0, 4.0), tree(0.0, 0.0))
  assert (float(weight.value), float(weight.is_capped)) == (10.0, 1.0)


def test_discriminator_is_off_until_its_step():
  factors = [float(patch_gan.start_factor(np.int32(s), 5)) for s in (0, 4, 5, 6)]
  assert factors == [0, 0, 1, 1]
