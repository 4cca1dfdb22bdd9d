"""Settings for every test: strict rank promotion, a compilation cache, Hypothesis."""

import importlib.metadata
import os
import pathlib
import signal
import threading

import hypothesis
import pytest

# Compiled programs are kept between runs and shared between worker processes. Set
# before anything imports JAX, subprocesses included.
HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(ROOT / '.cache' / 'jax'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.05')
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# threads of small products wait for each other where two workers share two cores
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
os.environ.setdefault('MPLBACKEND', 'Agg')
# programs that tests start run this checkout, whichever one is installed
_path = [str(ROOT / 'codecs'), *filter(None, [os.environ.get('PYTHONPATH')])]
os.environ['PYTHONPATH'] = os.pathsep.join(_path)

# Most of the time of these tests is XLA compiling small programs that run for a moment.
# With its older code generator and little optimization that takes a third of the time;
# with none at all, trainings drift too far from those that users see. `XLA_FLAGS=
# pytest` runs what users run. Later versions have no such choice of generator, and end
# a process that asks for it.
if importlib.metadata.version('jaxlib').startswith('0.10.'):
  os.environ.setdefault(
    'XLA_FLAGS',
    '--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=2'
    ' --xla_backend_optimization_level=1',
  )

# Shells start background jobs with Ctrl-C ignored, which tests of signals need.
_is_main = threading.current_thread() is threading.main_thread()
if _is_main and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)

# files in these folders share trained models
GROUPS = {'vqvae': 'vqvae'}

hypothesis.settings.register_profile(
  'codax',
  deadline=None,
  derandomize=True,
  database=None,
  suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.load_profile('codax')


def pytest_cmdline_main(config):
  """Sends groups of tests to workers (`pytest -n 2`) and not single ones."""
  if getattr(config.option, 'dist', 'no') == 'load':
    config.option.dist = 'loadgroup'


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
  """Groups the tests of a file: what they share is trained and compiled once.

  A mark of the file's own, `xdist_group`, says otherwise.
  """
  for item in items:
    if item.get_closest_marker('xdist_group') is None:
      name = item.path.relative_to(HERE).as_posix()
      item.add_marker(pytest.mark.xdist_group(GROUPS.get(item.path.parent.name, name)))


@pytest.fixture(autouse=True)
def strict_ranks():
  """Arrays of different ranks never meet by accident (broadcasting must be written)."""
  import jax

  with jax.numpy_rank_promotion('raise'):
    yield
