"""Settings for every test: strict rank promotion, a compilation cache, Hypothesis."""

import os
import pathlib

import hypothesis
import pytest

# Compiled programs are kept between runs and shared between worker processes. Set
# before anything imports JAX, subprocesses included.
CACHE = pathlib.Path(__file__).parent.parent / '.cache' / 'jax'
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(CACHE))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.3')
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('MPLBACKEND', 'Agg')

hypothesis.settings.register_profile(
  'codax',
  deadline=None,
  derandomize=True,
  database=None,
  suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.load_profile('codax')


@pytest.fixture(autouse=True)
def strict_ranks():
  """Arrays of different ranks never meet by accident (broadcasting must be written)."""
  import jax

  with jax.numpy_rank_promotion('raise'):
    yield
