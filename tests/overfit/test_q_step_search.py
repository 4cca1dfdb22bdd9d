"""The steps of the networks: every pair is weighed, by what the file really holds."""

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import SMALL, grids, networks, photo

from codax.errors import CodaxError
from codax.overfit import measure, q_step_search
from codax.overfit.format import arch as archs
from codax.overfit.format import container, stream

SHAPE = (24, 32, 3)


@pytest.fixture(scope='module')
def problem():
  nets = networks(SMALL, SHAPE, spread=0.1)
  nets['entropy']['b1'] = np.array([0.2, 2.5], np.float32)  # as wide as the latents
  latents = grids(SMALL, SHAPE)
  target = np.float32(photo(*SHAPE[:2])) / 255
  fixed = measure.fix_latents(SMALL, latents)
  return latents, target, q_step_search.candidates(SMALL, nets, fixed, target)


def test_candidates_have_every_pair_of_steps(problem):
  _, _, found = problem
  for listed in found.values():
    pairs = {(c.module.weight_frac, c.module.bias_frac) for c in listed}
    assert pairs == {
      (w, b) for w in q_step_search.WEIGHT_FRACS for b in q_step_search.BIAS_FRACS
    }


@pytest.mark.parametrize('rate_weight', [0.0, 1e-6, 1e-3])
def test_choice_has_the_least_loss(problem, rate_weight):
  _, _, found = problem
  chosen = q_step_search.choose(found, rate_weight)
  for name, listed in found.items():
    losses = [c.error + rate_weight * (c.latent_bits + c.bits) for c in listed]
    (mine,) = [c for c in listed if c.module is chosen[name]]
    assert mine.error + rate_weight * (mine.latent_bits + mine.bits) == min(losses)


def test_choice_with_a_larger_rate_weight_is_coarser(problem):
  _, _, found = problem
  bits = []
  for rate_weight in (1e-8, 1e-5, 1e-2):
    chosen = q_step_search.choose(found, rate_weight)
    bits.append(
      sum(c.bits for n, l in found.items() for c in l if c.module is chosen[n])
    )
  assert bits[0] >= bits[1] >= bits[2] and bits[0] > bits[2]


def test_candidate_has_the_bits_and_the_error_of_the_file(problem):
  latents, target, found = problem
  chosen = q_step_search.choose(found, 1e-6)
  payload = stream.Payload(SMALL, SHAPE, chosen, latents)
  _, bits = stream.encode(payload)
  for name in archs.MODULES:
    (mine,) = [c for c in found[name] if c.module is chosen[name]]
    assert mine.bits == pytest.approx(getattr(bits, name))
    if name == 'entropy':
      # what a law has beyond a grid's range goes to the ends: here that saves some
      assert 0.9 * mine.latent_bits < sum(bits.latents) < 1.01 * mine.latent_bits
    else:
      pixels = container.synthesize(payload)
      error = float(jnp.mean((pixels / 255.0 - target) ** 2))
      assert mine.error == pytest.approx(error, rel=0.02)


def test_choice_without_candidates_is_an_error():
  nets = networks(SMALL, SHAPE)
  nets['entropy'] = {k: v + 1e12 for k, v in nets['entropy'].items()}
  latents = measure.fix_latents(SMALL, grids(SMALL, SHAPE))
  found = q_step_search.candidates(SMALL, nets, latents, np.zeros(SHAPE, 'f4'))
  for name in archs.MODULES:
    found[name] = [] if name == 'entropy' else found[name]
  with pytest.raises(CodaxError, match='no file can hold'):
    q_step_search.choose(found, 1e-6)
