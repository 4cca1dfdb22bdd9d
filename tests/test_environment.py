"""Environments of programs: standard streams, JAX's variables, forked processes.

What JAX's variables do to commands is tried in this process where that is possible; the
whole matrix of real processes is marked slow.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import fake_family
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import codax
from codax import cli, codec, devices, families, quantize

ROOT = Path(__file__).parents[1]
CODAX = ['-m', 'codax.cli']
GOLDEN = str(ROOT / 'tests' / 'golden' / 'splat_1' / 'escapes.cdx')


def save_image(path, shape=(32, 48)):
  Image.fromarray(fake_family.smooth_image(*shape)).save(path)
  return path


def run(words, cwd, redirection='', **variables):
  """Runs Python with arguments in a shell; `redirection` is for the program alone."""
  command = f'"$@" {redirection}; status=$?; exit $status'
  if redirection.startswith('|'):
    command = f'set -o pipefail; "$@" {redirection}'
  return subprocess.run(
    ['bash', '-c', command, 'test', sys.executable, *map(str, words)],
    cwd=cwd, capture_output=True, text=True, env={**os.environ, **variables},
  )  # fmt: skip


# --- Standard streams -----------------------------------------------------------------


@pytest.mark.parametrize('words', [['models'], ['models', '--json'], ['info', 'x.cdx']])
def test_closed_pipe_ends_a_listing_quietly_as_other_tools_do(tmp_path, words):
  (tmp_path / 'x.cdx').write_bytes(codax.encode(fake_family.smooth_image(), 'vqvae'))
  # the reader is gone before the first line
  reader, writer = os.pipe()
  os.close(reader)
  done = subprocess.run(
    [sys.executable, *CODAX, *words], cwd=tmp_path, stdout=writer,
    stderr=subprocess.PIPE,
  )  # fmt: skip
  os.close(writer)
  assert done.returncode == 141 and done.stderr == b''


def test_summary_that_nobody_reads_fails_no_command(tmp_path):
  save_image(tmp_path / 'a.png')
  encode = [*CODAX, 'encode', 'a.png', '-o', 'a.jpg', '--codec=jpeg']
  for redirection in ('| true', '>&-', '>/dev/full', '2>&-', '>&- 2>&-', '<&-'):
    done = run(encode, tmp_path, redirection)
    assert (done.returncode, done.stderr) == (0, ''), redirection
    with Image.open(tmp_path / 'a.jpg') as made:
      assert made.size == (48, 32)
    (tmp_path / 'a.jpg').unlink()


def test_error_with_a_closed_stderr_keeps_its_status(tmp_path):
  save_image(tmp_path / 'a.png')
  wrong = [*CODAX, 'encode', 'a.png', '-o', 'a.jpg', '--codec=jpge']
  for redirection in ('2>&-', '>&- 2>&-'):
    done = run(wrong, tmp_path, redirection)
    assert (done.returncode, done.stdout) == (2, '')


def test_output_to_a_closed_or_full_stdout_is_refused(tmp_path):
  save_image(tmp_path / 'a.png')
  to_stdout = [*CODAX, 'encode', 'a.png', '-o', '-', '--codec=jpeg']
  done = run(to_stdout, tmp_path, '>&-')
  wanted = 'error: standard output is closed: name a file\n'
  assert (done.returncode, done.stderr) == (2, wanted)
  done = run([*CODAX, 'models'], tmp_path, '>/dev/full')
  wanted = 'error: standard output: No space left on device\n'
  assert (done.returncode, done.stderr) == (2, wanted)


def test_closed_stdin_is_an_empty_file(tmp_path):
  done = run([*CODAX, 'decode', '-', '-o', 'x.png'], tmp_path, '<&-')
  assert done.returncode == 2
  assert done.stderr == 'error: standard input: not a .cdx file: the file is empty\n'


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path):
  """Else what libraries print to descriptor 2 is in the first file that is opened."""
  code = (
    'import os, sys\nfrom codax import errors\n'
    'def main():\n'
    '  with open("made.bin", "wb") as f:\n'
    '    os.write(1, b"noise")\n    os.write(2, b"noise")\n    f.write(b"data")\n'
    'sys.exit(errors.exit_status(main))'
  )
  done = run(['-c', code], tmp_path, '>&- 2>&-')
  assert done.returncode == 0
  assert (tmp_path / 'made.bin').read_bytes() == b'data'


@pytest.mark.parametrize(
  'variables', [{'PYTHONIOENCODING': 'ascii'}, {'LC_ALL': 'C', 'PYTHONUTF8': '0'}]
)
def test_names_beyond_the_streams_letters_are_escaped(tmp_path, variables):
  save_image(tmp_path / 'phöto.png')
  encode = [*CODAX, 'encode', 'phöto.png', '-o', 'öut.jpg', '--codec=jpeg']
  done = run(encode, tmp_path, **variables)
  assert (done.returncode, done.stderr) == (0, '')
  assert (tmp_path / 'öut.jpg').is_file() and 'ut.jpg: ' in done.stdout


# --- JAX ------------------------------------------------------------------------------


@pytest.fixture
def no_device(monkeypatch):
  """JAX as with JAX_PLATFORMS=cuda on a machine without a GPU."""

  def fail(*_):
    raise RuntimeError("Unable to initialize backend 'cuda':\nno supported devices")

  monkeypatch.setenv('JAX_PLATFORMS', 'cuda')
  monkeypatch.setattr(jax, 'devices', fail)


@pytest.mark.parametrize(
  'words',
  [
    ['encode', 'a.png', '-o', 'out', '--codec=vqvae'],
    ['encode', 'a.png', '-o', 'out', '--codec=overfit'],
    ['encode', 'a.png', '-o', 'out', '--codec=splat'],
    ['decode', 'vqvae.cdx', '-o', 'out'],
    ['compare', 'a.png', '--codecs=jpeg,splat'],
    ['compare', 'a.png', '--codecs=jpeg,vqvae'],
  ],
)
def test_missing_device_is_one_line_before_the_work(
  words, tmp_path, monkeypatch, capsys, request
):
  monkeypatch.chdir(tmp_path)
  save_image('a.png')
  Path('vqvae.cdx').write_bytes(codax.encode(fake_family.smooth_image(), 'vqvae'))
  request.getfixturevalue('no_device')
  assert cli.main(words) == 2
  out, err = capsys.readouterr()
  assert err == (
    'error: JAX finds no device with JAX_PLATFORMS=cuda: Unable to initialize backend '
    "'cuda': no supported devices; unset it, or JAX_PLATFORMS=cpu runs everywhere\n"
  )
  assert out == '' and not Path('out').exists()


def test_commands_without_jax_need_no_device(no_device, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  save_image('a.png')
  assert cli.main(['encode', 'a.png', '-o', 'a.jpg', '--codec=jpeg']) == 0
  assert cli.main(['decode', GOLDEN, '-o', 'a.png']) == 0
  assert cli.main(['info', GOLDEN]) == 0


def test_nonsense_in_a_variable_of_jax_is_one_line(tmp_path):
  save_image(tmp_path / 'a.png')
  encode = [*CODAX, 'encode', 'a.png', '-o', 'a.cdx', '--codec=splat']
  done = run(encode, tmp_path, JAX_ENABLE_X64='maybe')
  assert done.returncode == 2 and done.stderr.startswith('error: JAX does not import: ')
  assert done.stderr.count('\n') == 1 and not (tmp_path / 'a.cdx').exists()


VARIABLES = {
  'jax_enable_x64': True,
  'jax_numpy_dtype_promotion': 'strict',
  'jax_default_prng_impl': 'rbg',
}


def with_variables(function):
  """Calls a function as in a process with JAX's variables set; they stay set."""
  names = [name.removeprefix('jax_') for name in VARIABLES]
  with (
    getattr(jax, names[0])(True),
    getattr(jax, names[1])('strict'),
    getattr(jax, names[2])('rbg'),
  ):
    found = function()
    assert {name: getattr(jax.config, name) for name in VARIABLES} == VARIABLES
  return found


@pytest.mark.parametrize('kind', ['bundle', 'per_image'])
def test_every_codec_computes_under_the_same_settings_of_jax(kind, monkeypatch):
  """Encoders of all families, and decoders that use JAX, pass `devices.use`."""
  fake_family.register(monkeypatch)
  seen = []
  entry = families.entry

  def watched(owner, name):
    module = entry(owner, name)

    def note(*args, **options):
      seen.append({key: getattr(jax.config, key) for key in VARIABLES})
      raise KeyError('seen')

    make = lambda *_: codec.Codec('watched', note, note)
    monkeypatch.setattr(module, 'make', make)
    return module

  name = {'bundle': 'fake_trained', 'per_image': 'fake'}[kind]
  monkeypatch.setattr(families, 'entry', watched)
  made = families.get(
    name, model=fake_family.make_bundle() if kind == 'bundle' else None
  )
  calls = [lambda: made.encode(fake_family.smooth_image())]
  calls += [lambda: made.decode(b'x')] if kind == 'bundle' else []
  for call in calls:
    with pytest.raises(KeyError):
      with_variables(call)
  wanted = {f'jax_{key}': value for key, value in devices._SETTINGS.items()}
  assert seen == [wanted] * len(calls)


def test_vqvae_makes_the_same_file_whatever_jaxs_variables_say():
  image = fake_family.smooth_image(40, 24)
  wanted = codax.encode(image, 'vqvae')
  assert with_variables(lambda: codax.encode(image, 'vqvae')) == wanted
  pixels = with_variables(lambda: codax.decode(wanted))
  assert np.array_equal(pixels, codax.decode(wanted))


@pytest.mark.parametrize('name', quantize.REGISTRY)
def test_quantizers_stay_in_32_bits_where_64_are_enabled(name):
  """They are a library of their own, which nothing wraps."""
  values = {'levels': (4, 4)} if name == 'fsq' else {'num_codes': 8}
  quantizer = quantize.get(name, **values, groups=2, estimator='rotation')
  z = np.random.default_rng(0).normal(size=(64, 4))
  with jax.enable_x64(True):
    z = jnp.asarray(z, jnp.float32)
    params, state = jax.jit(quantizer.init)(jax.random.key(0), z)

    def loss(params, z):
      step, key = jnp.int32(3), jax.random.key(1)
      out = quantizer.quantize(params, state, z, train=True, rng=key, step=step)
      return sum(out.losses.values(), out.values.sum()), out

    step = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
    (_, out), grads = step(params, z)
    revived = jax.jit(quantizer.revive)(params, out.state, jax.random.key(2))
    decoded = quantizer.decode(params, state, out.codes)
    tree = params, state, out, grads, revived, decoded, quantizer.code_prior(state)
  kinds = {leaf.dtype.name for leaf in jax.tree.leaves(tree)}
  assert kinds <= {'float32', 'int32', 'bool'}


FORKED = """
import os, warnings
import numpy as np
import codax
warnings.simplefilter('ignore')
image = np.zeros((16, 16, 3), np.uint8)
vqvae, splat = codax.encode(image, 'vqvae'), open({golden!r}, 'rb').read()
child = os.fork()
if child == 0:
  calls = [lambda: codax.decode(vqvae), lambda: codax.encode(image, 'splat'),
           lambda: codax.decode(splat), lambda: codax.encode(image, 'jpeg')]
  for call in calls:
    try:
      call()
      print('done', flush=True)
    except codax.CodaxError as e:
      print(e, flush=True)
  os._exit(0)
assert os.waitpid(child, 0)[1] == 0
codax.decode(vqvae)
"""


def test_forked_child_of_a_process_with_jax_fails_at_once(tmp_path):
  """It would wait forever; what needs no JAX works, and so does the parent."""
  code = FORKED.format(golden=GOLDEN)
  done = subprocess.run(
    [sys.executable, '-c', code], capture_output=True, text=True, timeout=120
  )
  assert done.returncode == 0, done.stderr
  lines = done.stdout.splitlines()
  assert lines[2:] == ['done', 'done'] and len(lines) == 4
  for line in lines[:2]:
    assert 'forked from one in which JAX runs' in line and "'spawn'" in line


# --- The whole matrix -----------------------------------------------------------------

TINY = [
  f'--config={ROOT}/configs/vqvae_ba.py', '--config.total_steps=4',
  '--config.steps_per_call=1', '--config.log_every=2',
  '--config.data.batch_size=4', '--config.data.crop=16', '--config.data.eval_crops=8',
  '--config.model.hidden=8', '--config.model.latent_dim=4', '--config.context.hidden=8',
  '--config.model.encoder_blocks=0', '--config.model.decoder_blocks=0',
  '--config.context.embed=4', '--config.quantizer.num_codes=16',
  '--config.report_images=1',
]  # fmt: skip
TINY_SPLAT = [
  f'--config={ROOT}/configs/splat.py', '--config.total_steps=50',
  '--config.data.crop=32', '--config.data.limit=1', '--config.counts=(10,)',
]  # fmt: skip
# arguments with IN and OUT for names, and the file that they leave
COMMANDS = {
  'overfit': ([*CODAX, 'encode', 'IN', '-o', 'OUT.cdx', '--codec=overfit',
               '--seconds=2'], 'OUT.cdx'),
  'splat': ([*CODAX, 'encode', 'IN', '-o', 'OUT.cdx', '--codec=splat', '--count=20'],
            'OUT.cdx'),
  'vqvae': ([*CODAX, 'encode', 'IN', '-o', 'OUT.cdx', '--codec=vqvae'], 'OUT.cdx'),
  'jpeg': ([*CODAX, 'encode', 'IN', '-o', 'OUT.jpg', '--codec=jpeg'], 'OUT.jpg'),
  'decode': ([*CODAX, 'decode', 'vqvae.cdx', '-o', 'OUT.png'], 'OUT.png'),
  'train vqvae': ([ROOT / 'launch/train.py', *TINY, '--workdir=OUT'],
                  'OUT/results.json'),
  'train splat': ([ROOT / 'launch/train.py', *TINY_SPLAT, '--workdir=OUT'],
                  'OUT/results.json'),
  'compare': ([*CODAX, 'compare', 'IN', '--codecs=vqvae,jpeg'], None),
  'evaluate': ([ROOT / 'launch/evaluate.py', '--images=IN', '--codecs=vqvae,jpeg',
                '--qualities=50', '--out=OUT'], 'OUT/results.json'),
}  # fmt: skip
ENVIRONMENTS = {
  'x64': ([], {'JAX_ENABLE_X64': '1'}, ''),
  'cuda': ([], {'JAX_PLATFORMS': 'cuda'}, ''),
  'ascii': ([], {'PYTHONIOENCODING': 'ascii'}, ''),
  'warnings': (['-W', 'error'], {}, ''),
  'stdout closed': ([], {}, '>&-'),
  'stderr closed': ([], {}, '2>&-'),
}


@pytest.mark.slow
@pytest.mark.parametrize('command', COMMANDS)
@pytest.mark.parametrize('environment', ENVIRONMENTS)
def test_command_in_an_environment(tmp_path, environment, command):
  """Either the whole output and status 0, or one line, status 2 and no output."""
  flags, variables, redirection = ENVIRONMENTS[environment]
  words, output = COMMANDS[command]
  source, stem = ('phöto.png', 'öut') if environment == 'ascii' else ('a.png', 'out')
  name = lambda text: str(text).replace('IN', source).replace('OUT', stem)
  words = [x if str(x).startswith('--config') else name(x) for x in words]
  image = fake_family.smooth_image(32, 48)
  Image.fromarray(image).save(tmp_path / source)
  (tmp_path / 'vqvae.cdx').write_bytes(codax.encode(image, 'vqvae'))
  done = run([*flags, *words], tmp_path, redirection, **variables)
  assert 'Traceback' not in done.stderr + done.stdout
  refused = environment == 'cuda' and command != 'jpeg'
  assert done.returncode == (2 if refused else 0), done.stderr
  if refused:
    lines = [x for x in done.stderr.splitlines() if x.startswith('error: ')]
    assert len(lines) == 1 and 'no device with JAX_PLATFORMS=cuda' in lines[0]
  if output is not None:
    path = tmp_path / name(output)
    assert path.exists() != refused
    if path.suffix == '.json' and not refused:
      json.loads(path.read_text())
