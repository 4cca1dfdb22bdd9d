"""Hostile files and bundles of this family: one line, or an image, in bounds.

CODAX_MUTATIONS=20000 runs more mutations in the slow test than the usual 2,000.
"""

import os
import random
import tracemalloc

import hostile
import numpy as np
import pytest
import vae_models

from codax import bitstream, families
from codax import bundle as bundles
from codax.bitstream import BitstreamError
from codax.errors import CodaxError
from codax.vae import bundle_io, codec
from codax.vae.format import scales

MUTATIONS = int(os.environ.get('CODAX_MUTATIONS', 2000))
SETS = {n: hostile.corpus(hostile.GOLDEN / n) for n in ('vae_1', 'vae_2', 'vae_5')}
# and the convolutional one, whose files are compiled for their size
BUNDLES = {n: bundles.load(hostile.GOLDEN / n) for n in (*SETS, 'vae_3')}


@pytest.fixture(scope='module', params=SETS)
def golden(request):
  """(bundle, its files without the one that takes longest)."""
  bundle, files = SETS[request.param]
  return bundle, [data for data in files if bitstream.peek(data).height < 500]


def smallest(files):
  return min((f for f in files if len(f) > 50), key=len)


def test_every_other_value_of_every_byte_and_every_cut_is_an_error(golden):
  bundle, files = golden
  decode = families.get('vae', model=bundle).decode
  for damaged in hostile.every_damage(smallest(files)):
    with pytest.raises(BitstreamError):
      decode(damaged)


def test_every_flipped_bit_under_a_good_checksum_is_an_error_or_an_image(golden):
  bundle, files = golden
  judge, data = hostile.Judge(bundle), smallest(files)
  hostile.judge_every_flipped_bit(judge, data)
  assert judge.errors > len(data[:-4]) and judge.pictures


@pytest.mark.parametrize(
  'count', [300, pytest.param(MUTATIONS, marks=pytest.mark.slow)]
)
def test_mutations_are_an_error_or_an_image(golden, count):
  bundle, files = golden
  judge = hostile.Judge(bundle)
  hostile.judge_mutations(judge, files, count)
  assert judge.pictures > count / 50  # damage got through to the image
  assert judge.errors > count / 5


def with_payload(bundle, size, payload):
  profile = bundle_io.unpack(bundle).profile
  header = bitstream.Header(4, profile, *size, 3, bundle_id=bundle.id[:8])
  return bitstream.write(header, [bitstream.Section(bitstream.CODES, payload)])


@pytest.mark.parametrize('payload', [b'', b'\0' * 50, b'\x07' + b'\xff' * 999])
@pytest.mark.parametrize('size', [(65535, 4096), (4096, 65535), (65535, 600)])
def test_small_file_of_a_large_image_is_refused_before_anything_is_allocated(
  golden, payload, size
):
  decode = families.get('vae', model=golden[0]).decode
  data = with_payload(golden[0], size, payload)
  tracemalloc.start()
  try:
    with pytest.raises(BitstreamError):
      decode(data)
    _, peak = tracemalloc.get_traced_memory()
  finally:
    tracemalloc.stop()
  assert peak < 2**20


def test_payload_that_is_empty_or_filled_up_with_zeros_is_refused(golden):
  bundle, files = golden
  header, sections = bitstream.read(smallest(files))
  decode = families.get('vae', model=bundle).decode
  payload = sections[0].payload
  for changed in (b'', payload + b'\0', payload + bytes(100)):
    section = bitstream.Section(bitstream.CODES, changed)
    with pytest.raises(BitstreamError):
      decode(bitstream.write(header, [section]))


def test_section_too_many_or_too_few_is_refused(golden):
  bundle, files = golden
  decode = families.get('vae', model=bundle).decode
  header, sections = bitstream.read(smallest(files))
  for kind in (bitstream.CONTEXT, 0x40, 0x7F):
    more = [*sections, bitstream.Section(kind, b'x')]
    with pytest.raises(BitstreamError):
      decode(bitstream.write(header, more))
  for changed in ([], [bitstream.Section(0x85, b'')]):
    with pytest.raises(BitstreamError, match='no section of codes'):
      decode(bitstream.write(header, changed))
  others = [{'profile': p} for p in (0, 1, 2, 3) if p != header.profile]
  for change in (*others, {'channels': 4}):
    with pytest.raises(BitstreamError):
      decode(bitstream.write(header._replace(**change), sections))


def test_rate_position_beyond_the_model_is_refused(golden):
  bundle, files = golden
  header, sections = bitstream.read(smallest(files))
  last = scales.STEPS * (vae_models.CONFIG.levels - 1)
  decode = families.get('vae', model=bundle).decode
  for position in (last + 1, 255):
    payload = bytes([position]) + sections[0].payload[1:]
    with pytest.raises(BitstreamError, match='rate position'):
      decode(bitstream.write(header, [bitstream.Section(bitstream.CODES, payload)]))


def test_file_of_another_bundle_is_refused_with_both_ids(golden):
  bundle, files = golden
  other = bundles.make('vae', bundle.config, bundle.arrays, {'psnr': 1.0})
  with pytest.raises(BitstreamError) as e:
    families.get('vae', model=other).decode(files[0])
  assert bundle.id.hex()[:16] in str(e.value) and other.id.hex()[:16] in str(e.value)


def damage_array(array, how, rng):
  """Changes an array as a damaged or hostile bundle may have it."""
  if how == 'type':
    return array.astype(np.float16 if array.dtype.kind == 'f' else np.float32)
  if how == 'shape':
    return array[..., :-1]
  if how == 'axis':
    return array[None]
  if how == 'empty':
    return array[:0]
  wild = np.nan if array.dtype.kind == 'f' else np.iinfo(array.dtype).min
  changed = array.copy()
  changed.flat[rng.randrange(array.size)] = wild
  return changed


@pytest.mark.parametrize('how', ['none', 'type', 'shape', 'axis', 'empty', 'wild'])
@pytest.mark.parametrize('name', BUNDLES)
def test_damaged_array_of_a_bundle_is_one_line(name, how):
  """Each array in turn: refused when the bundle is read, and not by its files."""
  bundle, rng = BUNDLES[name], random.Random(0)
  for name in bundle.arrays:
    arrays = dict(bundle.arrays)
    if how == 'none':
      del arrays[name]
    else:
      arrays[name] = damage_array(arrays[name], how, rng)
    with pytest.raises(CodaxError) as e:
      families.get('vae', model=bundles.make('vae', bundle.config, arrays, {}))
    assert '\n' not in str(e.value), name


@pytest.mark.parametrize(
  'key, value',
  [('patch', 8), ('latent_dim', 9), ('width', 7), ('blocks', 2), ('filter_width', 5),
   ('levels', 2), ('lapped', 'no'), ('act', 'rel'), ('act', 'glu'), ('patch', 6),
   ('nonsense', 1)],
)  # fmt: skip
def test_configuration_of_a_bundle_that_does_not_fit_is_one_line(golden, key, value):
  bundle, _ = golden
  config = {**bundle.config, 'model': {**bundle.config['model'], key: value}}
  with pytest.raises(CodaxError) as e:
    families.get('vae', model=bundles.make('vae', config, bundle.arrays, {}))
  assert '\n' not in str(e.value)


@pytest.mark.parametrize('bundle', BUNDLES.values(), ids=BUNDLES)
def test_superfluous_array_of_a_bundle_is_named(bundle):
  for name in ('tables/other', 'tables/laws/x', 'transform/other'):
    arrays = {**bundle.arrays, name: np.zeros(3, np.int32)}
    with pytest.raises(CodaxError):
      families.get('vae', model=bundles.make('vae', bundle.config, arrays, {}))


@pytest.mark.parametrize(
  'key, value',
  [('latent_dim', 7), ('width', 16), ('stages', 2), ('body', 3), ('act', 'glu'),
   ('norm', 'grupp'), ('act_options', [['gate', 'tan']])],
)  # fmt: skip
def test_configuration_that_does_not_fit_a_convolutional_vae_is_one_line(key, value):
  bundle = BUNDLES['vae_3']
  config = {**bundle.config, 'model': {**bundle.config['model'], key: value}}
  with pytest.raises(CodaxError) as e:
    families.get('vae', model=bundles.make('vae', config, bundle.arrays, {}))
  assert '\n' not in str(e.value)


@pytest.mark.parametrize('section', ['model', 'loss', 'kl'])
def test_configuration_that_lacks_a_section_is_one_line(section):
  bundle = BUNDLES['vae_3']
  config = {k: v for k, v in bundle.config.items() if k != section}
  with pytest.raises(CodaxError) as e:
    families.get('vae', model=bundles.make('vae', config, bundle.arrays, {}))
  assert '\n' not in str(e.value)


def test_files_of_two_bundles_are_judged_each_by_its_own():
  judge = hostile.Judge(*(bundle for bundle, _ in SETS.values()))
  for _, files in SETS.values():
    assert judge(smallest(files))
  assert codec.NAME == 'vae' and judge.pictures == len(SETS)
