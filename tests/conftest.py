"""Settings for every test: strict rank promotion, a compilation cache, Hypothesis."""

import gc
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
# With its older code generator, in one piece and with no optimization by LLVM, that
# takes a fifth of the time. `XLA_FLAGS= JAX_DISABLE_MOST_OPTIMIZATIONS=0 pytest` runs
# what users run. Later versions have no such choice of generator, and end a process
# that asks for it.
os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
if importlib.metadata.version('jaxlib').startswith('0.10.'):
  os.environ.setdefault(
    'XLA_FLAGS',
    '--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1'
    ' --xla_backend_optimization_level=1',
  )

# Traces are millions of small objects, most of which stay: looking for cycles among
# them at Python's usual pace takes a tenth of the time.
gc.set_threshold(100_000, 50, 50)

# Shells start background jobs with Ctrl-C ignored, which tests of signals need.
_is_main = threading.current_thread() is threading.main_thread()
if _is_main and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)

# files that share trained models
VQVAE = ('test_codes_everywhere', 'test_diagnose', 'test_task', 'test_vqvae_codec')
GROUPS = {f'vqvae/{name}.py': 'vqvae' for name in VQVAE}
# What takes longest comes first, so that workers end together.
FIRST = (
  'overfit/test_encode.py',
  'vqvae',
  'test_main_job.py',
  'overfit/test_overfit_task.py',
  'splat/test_splat_task.py',
  'splat/test_splat_encode.py',
  'vae/test_kl_task.py',
  'training/test_loop.py',
  'overfit/test_overfit_train.py',
)

hypothesis.settings.register_profile(
  'codax',
  deadline=None,
  derandomize=True,
  database=None,
  suppress_health_check=list(hypothesis.HealthCheck),
)
hypothesis.settings.load_profile('codax')


def pytest_cmdline_main(config):
  """Sends groups of tests to workers (`pytest -n 2`), in their order."""
  if getattr(config.option, 'dist', 'no') == 'load':
    config.option.dist = 'loadgroup'
    config.option.loadscopereorder = False


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
  """Groups the tests of a file: what they share is trained and compiled once."""
  places = {}
  for item in items:
    name = item.path.relative_to(HERE).as_posix()
    group = GROUPS.get(name, name)
    item.add_marker(pytest.mark.xdist_group(group))
    places[item] = FIRST.index(group) if group in FIRST else len(FIRST)
  items.sort(key=places.get)


@pytest.fixture(autouse=True)
def strict_ranks():
  """Arrays of different ranks never meet by accident (broadcasting must be written)."""
  import jax

  with jax.numpy_rank_promotion('raise'):
    yield


@pytest.fixture(autouse=True)
def hangups():
  """SIGHUP as in a terminal: under `nohup` it is ignored, which commands leave so."""
  is_ignored = _is_main and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
  if is_ignored:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
  yield
  if is_ignored:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
