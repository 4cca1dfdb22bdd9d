"""Golden files: what any version has written, every later version decodes alike."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codax import bitstream, codec
from codax import bundle as bundles

GOLDEN = Path(__file__).parent / 'golden'
SETS = sorted(path.parent for path in GOLDEN.glob('*/golden.json'))
FILES = [(folder, path.stem) for folder in SETS for path in folder.glob('*.cdx')]


def codes_of(bundle, data):
  """The codes of a file, int32, by its family."""
  from codax.vqvae import codec as vqvae_codec

  assert bundle.family == 'vqvae'
  return vqvae_codec.unpack_codes(vqvae_codec.unpack(bundle), data)[0]


def sha256(data):
  return hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize('folder', SETS, ids=lambda f: f.name)
def test_a_set_is_whole(folder):
  listed = json.loads((folder / 'golden.json').read_text('utf-8'))
  assert bundles.load(folder).id.hex() == listed['bundle']
  assert {p.stem for p in folder.glob('*.cdx')} == set(listed['files'])
  for name, facts in listed['files'].items():
    assert sha256((folder / f'{name}.cdx').read_bytes()) == facts['file']


@pytest.mark.parametrize(('folder', 'name'), sorted(FILES), ids=lambda x: Path(x).name)
def test_golden_file(folder, name):
  data = (folder / f'{name}.cdx').read_bytes()
  facts = json.loads((folder / 'golden.json').read_text('utf-8'))['files'][name]
  bundle = bundles.load(folder)

  codes = codes_of(bundle, data)
  assert list(codes.shape) == facts['codes_shape']
  assert sha256(codes.astype('<i4').tobytes()) == facts['codes']

  header, sections = bitstream.read(data)
  assert header.profile == facts['profile']
  assert bitstream.orientation(sections) == facts['orientation']
  icc = bitstream.find(sections, bitstream.ICC)
  assert (None if icc is None else sha256(icc)) == facts['icc']

  expected = np.asarray(Image.open(folder / f'{name}.png'))
  expected = expected.reshape(*expected.shape[:2], -1).astype(int)
  got = codec.for_file(data, model=bundle).decode(data)
  assert got.dtype == np.uint8 and got.shape == expected.shape
  assert np.abs(got - expected).max() <= 1


def test_the_sets_cover_the_format():
  """A version, family and profile that can be written has a golden file."""
  seen = set()
  for folder in SETS:
    version = json.loads((folder / 'golden.json').read_text('utf-8'))['format_version']
    for path in folder.glob('*.cdx'):
      header = bitstream.peek(path.read_bytes())
      seen.add((version, codec.family_name(header.family), header.profile))
  assert seen >= {(1, 'vqvae', 0), (1, 'vqvae', 1)}
  assert bitstream.VERSION in {version for version, _, _ in seen}


def test_a_set_is_never_made_again():
  before = {path: path.read_bytes() for path in SETS[0].iterdir()}
  command = [sys.executable, str(GOLDEN / 'make.py'), SETS[0].name]
  done = subprocess.run(command, capture_output=True, text=True, check=False)
  assert done.returncode == 1 and 'never made again' in done.stderr
  assert {path: path.read_bytes() for path in SETS[0].iterdir()} == before
