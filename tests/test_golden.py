"""Golden files: what any version has written, every later version decodes alike."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codax import bitstream, families
from codax import bundle as bundles
from codax.color import sections as color_sections

GOLDEN = Path(__file__).parent / 'golden'
SETS = sorted(path.parent for path in GOLDEN.glob('*/golden.json'))
FILES = [(folder, path.stem) for folder in SETS for path in folder.glob('*.cdx')]


# Families that are integer to the pixel: their images are the same everywhere.
EXACT = {'overfit', 'splat'}


def sha256(data):
  return hashlib.sha256(data).hexdigest()


def ints(arrays):
  return sha256(b''.join(a.astype('<i4').tobytes() for a in arrays))


def listing(folder):
  return json.loads((folder / 'golden.json').read_text('utf-8'))


def bundle_of(folder):
  return bundles.load(folder) if 'bundle' in listing(folder) else None


def check_contents(family, bundle, data, facts):
  """What is decoded before there are pixels, by family."""
  if family == 'vqvae':
    from codax.vqvae import codec as vqvae

    codes, _ = vqvae.unpack_codes(vqvae.unpack(bundle), data)
    assert list(codes.shape) == facts['codes_shape']
    assert ints([codes]) == facts['codes']
  elif family == 'vae':
    from codax.vae import bundle_io, coding

    model = bundle_io.unpack(bundle)
    _, _, payload = families.read_payload(family, data)
    shape = tuple(facts['shape'][:2])
    symbols, sided = coding.read(model.entropy, payload, shape)
    assert symbols.position == facts['position']
    assert list(symbols.coefficients.shape) == facts['shape']
    assert ints([sided.index]) == facts['scales']
    assert ints([symbols.coefficients]) == facts['codes']
    assert (symbols.latents is None) == ('latents' not in facts)
    if symbols.latents is not None:
      assert ints([symbols.latents]) == facts['latents']
  elif family == 'splat':
    from codax.splat.format import container, integer

    found = container.unpack(data)
    covariance = integer.COVARIANCES.index(found.covariance)
    blend = integer.BLENDS.index(found.blend)
    groups, count = found.vectors or (), len(found.cells)
    assert count == facts['gaussians']
    assert ('vector' if groups else 'scalar') == facts['coding']
    assert (found.layers is not None) == ('layers' in facts)
    if found.layers is not None:
      assert ints([found.layers]) == facts['layers']
    books = [book for group in groups for book in group.books]
    codes = [group.index for group in groups] or [found.shape, found.color]
    head = np.array([count, covariance, blend, bool(groups)])
    head = [head, found.base, np.array(found.q_steps), found.cells]
    assert ints([*head, *books, *codes, found.fine]) == facts['codes']
  else:
    from codax.overfit import codec as overfit
    from codax.overfit.format import arch

    assert family == 'overfit'
    found = overfit.unpack(data)
    assert [list(g.shape) for g in found.grids] == facts['grid_shapes']
    assert ints(found.grids) == facts['latents']
    listed = arch.tensors(found.arch, len(found.grids), found.shape[2])
    weights = [found.modules[t.module].weights[t.name] for t in listed]
    assert ints(weights) == facts['weights']


@pytest.mark.parametrize('folder', SETS, ids=lambda f: f.name)
def test_golden_set_lists_all_its_files(folder):
  listed = listing(folder)
  if 'bundle' in listed:
    assert bundles.load(folder).id.hex() == listed['bundle']
  assert families.family(listed['family']).needs_bundle == ('bundle' in listed)
  assert {p.stem for p in folder.glob('*.cdx')} == set(listed['files'])
  for name, facts in listed['files'].items():
    assert sha256((folder / f'{name}.cdx').read_bytes()) == facts['file']


@pytest.mark.parametrize(('folder', 'name'), sorted(FILES), ids=lambda x: Path(x).name)
def test_golden_file_decodes_to_its_codes_and_pixels(folder, name):
  data = (folder / f'{name}.cdx').read_bytes()
  listed = listing(folder)
  facts, bundle = listed['files'][name], bundle_of(folder)
  check_contents(listed['family'], bundle, data, facts)

  header, sections = bitstream.read(data, known=None)
  assert header.profile == facts['profile']
  assert bitstream.orientation(sections) == facts['orientation']
  icc = bitstream.find(sections, bitstream.ICC)
  assert (None if icc is None else sha256(icc)) == facts['icc']

  color, notes = color_sections.read_sections(sections, header.channels)
  named = facts.get('color', {'code': '', 'icc': facts['icc']})
  assert color.code.hex() == named['code'] and notes == ()
  assert (None if color.icc is None else sha256(color.icc)) == named['icc']

  expected = np.asarray(Image.open(folder / f'{name}.png'))
  expected = expected.reshape(*expected.shape[:2], -1).astype(int)
  got = families.codec_for(data, model=bundle).decode(data)
  assert got.dtype == np.uint8 and got.shape == expected.shape
  limit = 0 if listed['family'] in EXACT else 1
  assert np.abs(got - expected).max() <= limit


def test_golden_sets_cover_every_family_and_profile():
  """A version, family and profile that can be written has a golden file."""
  seen = set()
  for folder in SETS:
    version = json.loads((folder / 'golden.json').read_text('utf-8'))['format_version']
    for path in folder.glob('*.cdx'):
      header = bitstream.peek(path.read_bytes())
      seen.add((version, families.with_id(header.family).name, header.profile))
  assert seen >= {
    (1, 'vqvae', 0),
    (1, 'vqvae', 1),
    (1, 'overfit', 0),
    (1, 'overfit', 1),
    (1, 'splat', 0),
    (1, 'splat', 1),
    (1, 'vae', 0),
    (1, 'vae', 1),
    (1, 'vae', 2),
  }
  assert bitstream.VERSION in {version for version, _, _ in seen}


def test_golden_sets_cover_every_ancillary_section_and_alpha():
  kinds = set()
  for folder in SETS:
    for path in folder.glob('*.cdx'):
      _, sections = bitstream.read(path.read_bytes(), known=None)
      kinds |= {section.kind for section in sections}
  named = {kind for kind in bitstream.SECTION_NAMES if kind & bitstream.ANCILLARY}
  assert kinds >= named | {bitstream.ALPHA}


def test_golden_set_that_exists_is_never_made_again():
  before = {path: path.read_bytes() for path in SETS[0].iterdir()}
  command = [sys.executable, str(GOLDEN / 'make.py'), SETS[0].name]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert done.returncode == 1 and 'never made again' in done.stderr
  assert {path: path.read_bytes() for path in SETS[0].iterdir()} == before
