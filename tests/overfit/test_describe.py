"""What `codax info` says of a file, and that it and the decoder need no JAX."""

import json
import subprocess
import sys

import numpy as np
import pytest
from tiny import SMALL, make_payload

from codax import bitstream, cli, families
from codax.bitstream import BitstreamError
from codax.layers.kan_spec import Spec
from codax.overfit import codec as overfit
from codax.overfit.format import arch as archs
from codax.overfit.format import stream

HATS = Spec(8, 1, -4.0, 4.0, 'none')
DECODER = ('codec', 'describe', 'format.arch', 'format.integer', 'format.stream')
DECODER += ('format.upsampling', 'format.weights')


def test_facts_of_a_file_are_those_of_its_payload():
  made = make_payload(SMALL, (13, 18, 3))
  data, bits = overfit.pack(made)
  facts = families.describe(data)
  assert json.loads(json.dumps(facts)) == facts
  assert facts['family'] == 'overfit' and facts['profile'] == 0
  assert facts['grids'] == 3 and facts['latents'] == 13 * 18 + 7 * 9 + 4 * 5
  assert facts['latent_ranges'] == [[int(g.min()), int(g.max())] for g in made.grids]
  assert facts['coded_latents'] == facts['latents']
  assert facts['context'] == 6 and facts['parents'] == 0
  assert facts['upsampling'] == 'linear'
  assert (facts['entropy_widths'], facts['synthesis_widths']) == ([5], [6])
  assert facts['entropy_layers'] == facts['synthesis_layers'] == 'dense'
  assert (facts['activation'], facts['convolutions']) == ('relu', 1)
  assert facts['steps']['entropy'] == {'weights': 2.0**-7, 'biases': 2.0**-9}
  sizes = [w.size for m in made.modules.values() for w in m.weights.values()]
  assert facts['weights'] == sum(sizes)
  assert facts['macs_per_pixel']['total'] == archs.macs(SMALL, 13, 18).total
  wanted = (bits.synthesis + bits.entropy + bits.side) / 8
  assert wanted - 8 < facts['network_bytes'] < wanted + 8
  payload = facts['network_bytes'] + facts['latent_bytes']
  assert payload == stream.payload_size(data)


def test_facts_with_splines_and_a_constant_grid_say_so():
  made = make_payload(SMALL._replace(entropy_kan=HATS), (9, 6, 1))
  grids = (made.grids[0] * 0, *made.grids[1:])
  facts = families.describe(overfit.pack(made._replace(grids=grids))[0])
  assert facts['entropy_layers'] == HATS._asdict()
  assert facts['synthesis_layers'] == 'dense'
  assert facts['latent_ranges'][0] == [0, 0]
  assert facts['coded_latents'] == facts['latents'] - 54


def test_info_command_prints_the_facts(tmp_path, capsys):
  path = tmp_path / 'x.cdx'
  path.write_bytes(overfit.pack(make_payload())[0])
  assert cli.main(['info', str(path)]) == 0
  out = capsys.readouterr().out
  assert 'network bytes' in out and 'unknown' not in out


def test_describe_decodes_no_latents(monkeypatch):
  data, _ = overfit.pack(make_payload())

  def never(*_):
    raise AssertionError('a grid was decoded')

  monkeypatch.setattr(stream, '_get_grid', never)
  assert families.describe(data)['grids'] == 3


@pytest.mark.parametrize('payload', [b'', b'\0' * 9, b'\xff' * 40])
@pytest.mark.parametrize('size', [(65535, 4096), (1, 65535), (3, 3)])
def test_describe_of_an_unsound_file_is_refused(payload, size):
  header = bitstream.Header(2, 1, *size, 3)
  data = bitstream.write(header, [bitstream.Section(bitstream.CODES, payload)])
  with pytest.raises(BitstreamError):
    families.describe(data)


def test_decoding_and_describing_import_no_jax(tmp_path):
  path = tmp_path / 'x.cdx'
  made = make_payload()
  path.write_bytes(overfit.pack(made)[0])
  modules = ', '.join(f'codax.overfit.{name}' for name in DECODER)
  program = (
    f'import sys, {modules}\nfrom codax import families\n'
    f'data = open({str(path)!r}, "rb").read()\nfamilies.describe(data)\n'
    'print(int(families.decode(data).sum(dtype=int)))\n'
    'assert not {"jax", "flax", "orbax", "optax"} & set(sys.modules)'
  )
  run = [sys.executable, '-c', program]
  done = subprocess.run(run, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  assert int(done.stdout) == int(overfit.synthesize(made).sum(dtype=np.int64))
