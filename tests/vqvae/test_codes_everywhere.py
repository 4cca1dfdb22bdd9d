"""One file, one code map: however it is decoded; pixels within 1 of 255.

Decoding a map is integers (DESIGN, rule 2), so neither the compiler, nor the size of a
batch, nor the number of threads may change a code. The synthesis is float32.
"""

import concurrent.futures
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from codax import bundle as bundles
from codax import codec, families
from codax.entropy import context_coder, fixed_point
from codax.quantize import exported
from codax.vqvae import codec as vqvae_codec
from codax.vqvae import model as nets

ELSEWHERE = """
import sys
import numpy as np
from codax import bundle
from codax.vqvae import codec
model = codec.unpack(bundle.load(sys.argv[1]))
codes, header = codec.unpack_codes(model, open(sys.argv[2], 'rb').read())
image = codec.synthesize(model, codes, (header.height, header.width, header.channels))
np.savez(sys.argv[3], codes=codes, image=image)
"""


@pytest.fixture(scope='module')
def made(bundle, photo):
  """(model, a file, its codes, its picture); the codes are coded with the context."""
  unpacked = vqvae_codec.unpack(bundle)
  data = (
    families.get(
      'vqvae', model=bundle, options=codec.Options(preset='fast', lmbda=1e-9)
    )
    .encode(photo)
    .data
  )
  codes, header = vqvae_codec.unpack_codes(unpacked, data)
  assert header.profile == vqvae_codec.CONTEXT and len(np.unique(codes)) > 8
  return unpacked, data, codes, synthesize(unpacked, codes, header)


def synthesize(model, codes, header):
  shape = header.height, header.width, header.channels
  return vqvae_codec.synthesize(model, codes, shape)


def assert_near(image, other):
  assert image.dtype == other.dtype == np.uint8
  assert np.abs(image.astype(int) - other).max() <= 1


def test_decoding_without_jit_gives_the_same_codes(made):
  model, data, expected, image = made
  with jax.disable_jit():
    codes, header = vqvae_codec.unpack_codes(model, data)
    other = synthesize(model, codes, header)
  np.testing.assert_array_equal(codes, expected)
  assert_near(image, other)


@pytest.mark.parametrize('batch', [1, 8, 10**6])
def test_decoding_in_any_batch_of_tables_gives_the_same_codes(made, batch, monkeypatch):
  """So many positions' tables are computed at once, less than a wave holds or all."""
  model, data, expected, _ = made
  sizes, apply = set(), fixed_point.apply_int

  def counted(mlp, x):
    sizes.add(len(x))
    return apply(mlp, x)

  monkeypatch.setattr(fixed_point, 'apply_int', counted)
  monkeypatch.setattr(context_coder, '_BLOCK', batch * model.context.config.codes)
  codes, _ = vqvae_codec.unpack_codes(model, data)
  np.testing.assert_array_equal(codes, expected)
  assert max(sizes) == batch if batch < 9 else max(sizes) > 8
  # and a file written so is the same file
  shape = 96, 120, 3
  assert vqvae_codec.pack(model, expected, shape)[0] == data


def test_images_in_batches_of_1_and_8_agree(made, photo):
  """The synthesis of eight maps at once, against one by one."""
  model, _, codes, image = made
  maps = np.stack([np.roll(codes, i, axis=1) for i in range(8)])
  decoder, encoder = nets.Decoder(model.config), nets.Encoder(model.config)
  decode = jax.jit(lambda p, z: nets.to_uint8(decoder.apply({'params': p}, z)))
  encode = jax.jit(lambda p, x: encoder.apply({'params': p}, nets.to_model(x)))
  values = np.stack([exported.decode(model.codebooks, m) for m in maps])
  together = np.asarray(decode(model.decoder, values))
  assert_near(together[0], image)
  for i in range(8):
    assert_near(together[i], np.asarray(decode(model.decoder, values[i][None]))[0])
  # The analysis too: the latents that eight pictures get differ by float noise only.
  crops = np.stack([photo[i : i + 64, i : i + 64] for i in range(8)])
  z = np.asarray(encode(model.encoder, crops))
  for i in range(8):
    alone = np.asarray(encode(model.encoder, crops[i][None]))[0]
    np.testing.assert_allclose(z[i], alone, atol=1e-5 * np.abs(z).max())


def test_decoding_by_eight_threads_gives_the_same_images(made):
  model, data, expected, image = made

  def decode(_):
    codes, header = vqvae_codec.unpack_codes(model, data)
    return codes, synthesize(model, codes, header)

  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    for codes, other in pool.map(decode, range(16)):
      np.testing.assert_array_equal(codes, expected)
      np.testing.assert_array_equal(other, image)


def test_decoding_in_other_processes_gives_the_same_codes(made, bundle, tmp_path):
  _, data, expected, image = made
  bundles.save(bundle, tmp_path / bundles.FILE_NAME)
  (tmp_path / 'photo.cdx').write_bytes(data)
  one = 'OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'
  single = '--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1'
  kinds = {
    'one': {**dict.fromkeys(one, '1'), 'XLA_FLAGS': single},
    'two': dict.fromkeys(one, '2'),
    'four_devices': {'XLA_FLAGS': '--xla_force_host_platform_device_count=4'},
  }
  running = {}
  for kind, variables in kinds.items():
    running[kind] = subprocess.Popen(
      [sys.executable, '-c', ELSEWHERE, '.', 'photo.cdx', f'{kind}.npz'],
      cwd=tmp_path, env={**os.environ, **variables},
      stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
  for kind, process in running.items():
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    with np.load(tmp_path / f'{kind}.npz') as found:
      np.testing.assert_array_equal(found['codes'], expected)
      assert_near(found['image'], image)
