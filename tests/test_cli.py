"""The command, in this process with a small family, and in a process of its own."""

import errno
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

import fake_family
import icc_samples
import numpy as np
import pytest
from fake_family import smooth_image
from PIL import Image

from codax import bitstream, bundle, cli, files, image_io, pretrained
from codax.baselines import codec as baselines
from codax.codec import Encoded
from codax.color.spaces import ColorSpace

RGB_ICC = icc_samples.rgb(gamma=1.9)
RGB_COLOR = ColorSpace(icc=RGB_ICC)


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
  fake_family.register(monkeypatch)
  monkeypatch.delenv(pretrained.MODEL_VARIABLE, raising=False)
  monkeypatch.chdir(tmp_path)
  Image.fromarray(smooth_image()).save('in.png')


@pytest.fixture
def fails(capsys):
  """Runs the command; checks status 2 and one line on stderr; returns the line."""

  def run(*argv):
    capsys.readouterr()
    try:
      status = cli.main(list(argv))
    except SystemExit as e:
      status = e.code
    out, err = capsys.readouterr()
    assert status == 2 and out == ''
    assert err.startswith('error: ') and err.count('\n') == 1 and err.endswith('\n')
    return err

  return run


def encode(*more, source='in.png'):
  argv = ['encode', source, '-o', 'x.cdx', '--codec', 'fake', *more]
  assert cli.main(argv) == 0


def read(path):
  with open(path, 'rb') as f:
    return f.read()


@pytest.mark.parametrize('shape', [(1, 1, 3), (17, 33, 1), (17, 33, 3)])
def test_image_encoded_and_decoded_equals_the_reconstruction(shape, capsys):
  image_io.write('in.png', image_io.ImageFile(smooth_image(*shape)))
  encode('--preset', 'fast', '--seed', '7')
  line, err = capsys.readouterr()
  size, pixels = os.path.getsize('x.cdx'), shape[0] * shape[1]
  wanted = np.clip(smooth_image(*shape).astype(int) // 8 * 8 + 4, 0, 255)
  error = np.mean((smooth_image(*shape) - wanted) ** 2.0)
  assert err == '' and line.count('\n') == 1
  assert line.startswith(f'x.cdx: {size} bytes, {8 * size / pixels:.4f} bpp, ')
  assert f'PSNR {10 * np.log10(255**2 / error):.2f} dB' in line
  assert re.search(r' dB, \d+\.\d\d s\n$', line) and 'bits' not in line
  assert cli.main(['decode', 'x.cdx', '-o', 'out.png']) == 0
  assert np.array_equal(image_io.read('out.png').pixels, wanted)


def test_metadata_of_the_image_comes_back_after_decoding(capsys):
  image_io.write('in.webp', image_io.ImageFile(smooth_image(), RGB_COLOR, 6))
  encode(source='in.webp')
  out = capsys.readouterr().out
  extra = int(re.search(r'\((\d+) of them for color space and orientation\)', out)[1])
  assert 10 < extra < len(RGB_ICC)
  cli.main(['decode', 'x.cdx', '-o', 'out.webp'])
  again = image_io.read('out.webp')
  assert (again.color, again.orientation) == (RGB_COLOR, 6)
  assert again.pixels.shape == smooth_image().shape
  cli.main(['decode', 'x.cdx', '-o', 'out.png'])
  upright = image_io.read('out.png')
  assert (upright.color, upright.orientation) == (RGB_COLOR, 1)
  assert np.array_equal(upright.pixels, again.pixels[::-1].swapaxes(0, 1))
  out, err = capsys.readouterr()
  assert 'out.webp: 33 x 17' in out and 'out.png: 17 x 33' in out
  assert 'note: the pixels were turned upright: many viewers of PNG' in err
  cli.main(['info', 'x.cdx', '--json'])
  facts = json.loads(capsys.readouterr().out)
  assert facts['orientation'] == 6
  assert [s['name'] for s in facts['sections']] == [
    'codes',
    'orientation',
    'icc_compressed',
  ]


def test_notes_of_commands_go_to_stderr(capsys):
  Image.fromarray(np.dstack([smooth_image(), np.full((17, 33), 255, np.uint8)])).save(
    'a.png'
  )
  encode(source='a.png')
  assert capsys.readouterr().err.startswith('note: a.png: an alpha channel')


def test_info_of_a_file_prints_its_facts(capsys):
  made = fake_family.make_bundle(32)
  bundle.save(made, 'run/bundle.safetensors')
  cli.main(['encode', 'in.png', '-o', 'x.cdx', '--codec=fake_trained', '--model=run'])
  capsys.readouterr()
  assert cli.main(['info', 'x.cdx', '--json']) == 0
  facts = json.loads(capsys.readouterr().out)
  size = os.path.getsize('x.cdx')
  assert facts['bytes'] == size and facts['bpp'] == 8 * size / (17 * 33)
  assert facts['file'] == 'x.cdx' and facts['bundle_id'] == made.id[:8].hex()
  assert cli.main(['info', 'x.cdx']) == 0
  text = capsys.readouterr().out
  for word in ('fake_trained', made.id[:8].hex(), str(size), '17', '33', 'codes ('):
    assert word in text
  encode()
  capsys.readouterr()
  cli.main(['info', 'x.cdx'])
  assert 'step' in capsys.readouterr().out


def test_model_option_names_the_bundle_of_the_command(fails, capsys):
  made = fake_family.make_bundle(32)
  bundle.save(made, 'run/bundle.safetensors')
  argv = ['encode', 'in.png', '-o', 'x.cdx', '--codec', 'fake_trained']
  assert '--model runs/vqvae_ba' in fails(*argv)
  assert 'no_run' in fails(*argv, '--model', 'no_run')
  assert cli.main([*argv, '--model', 'run']) == 0
  line = fails('decode', 'x.cdx', '-o', 'out.png')
  assert line.startswith('error: x.cdx: ') and made.id[:8].hex() in line
  bundle.save(fake_family.make_bundle(16), 'other/bundle.safetensors')
  line = fails('decode', 'x.cdx', '-o', 'out.png', '--model', 'other')
  assert made.id[:8].hex() in line
  assert fake_family.make_bundle(16).id[:8].hex() in line
  assert not os.path.exists('out.png')
  assert cli.main(['decode', 'x.cdx', '-o', 'out.png', '--model', 'run']) == 0
  os.makedirs('runs')
  os.rename('run', 'runs/any')
  assert cli.main(['decode', 'x.cdx', '-o', 'again.png']) == 0
  assert read('again.png') == read('out.png')


@pytest.mark.parametrize(
  'argv, message',
  [
    ([], 'required: COMMAND'),
    (['encod', 'in.png'], 'invalid choice'),
    (['encode', 'in.png'], 'required: -o'),
    (['encode', 'in.png', '-o', 'y.cdx', '--codek', 'x'], '--codek'),
    (['encode', 'in.png', '-o', 'y.cdx', '--codec', 'vqvea'], "mean 'vqvae'"),
    (['encode', 'in.png', '-o', 'y.cdx', '--preset', 'slow'], 'medium'),
    (['encode', 'in.png', '-o', 'y.cdx', '--bpp', '0'], 'positive number'),
    (['encode', 'in.png', '-o', 'y.cdx', '--psnr', 'nan'], 'positive number'),
    (['encode', 'in.png', '-o', 'y.cdx', '--lmbda', 'x'], 'positive number'),
    (['encode', 'in.png', '-o', 'y.cdx', '--bpp=1', '--psnr=30'], 'not allowed'),
    (['encode', 'in.png', '-o', 'y.cdx', '--codec=fake', '--seed=-1'], 'seed'),
    (['encode', 'none.png', '-o', 'y.cdx', '--codec=fake'], 'none.png'),
    (['encode', 'old.cdx', '-o', 'y.cdx', '--codec=fake'], 'old.cdx: '),
    (['encode', 'in.png', '-o', 'y.jpg', '--codec=fake'], 'writes .cdx files'),
    (['encode', 'in.png', '-o', 'y.cdx', '--codec=jpeg'], 'writes .jpg or .jpeg'),
    (['encode', 'in.png', '-o', 'no/y.cdx', '--codec=fake'], 'folder no does not'),
    (['encode', 'in.png', '-o', '.', '--codec=fake'], 'is a folder'),
    (['decode', 'in.png', '-o', 'y.png'], 'in.png: not a .cdx file'),
    (['decode', 'empty', '-o', 'y.png'], 'empty: not a .cdx file: the file is empty'),
    (['decode', 'none.cdx', '-o', 'y.png'], 'none.cdx: No such file'),
    (['decode', '.', '-o', 'y.png'], '.: Is a directory'),
    (['decode', 'old.cdx', '-o', 'y.xyz'], 'suffix .xyz'),
    (['decode', 'old.cdx', '-o', 'no/y.png'], 'folder no does not'),
    (['decode', 'old.cdx', '-o', 'y.png'], 'old.cdx: file is damaged'),
    (['info', 'old.cdx'], 'old.cdx: file is damaged'),
    (['info', 'in.png', '--json'], 'in.png: not a .cdx file'),
    (['info'], 'required: IN.cdx'),
    (['compare', 'in.png', '--html', 'no/x.html'], 'folder no does not'),
    (['compare', 'in.png', '--codecs', ','], 'no codec'),
    (['compare', 'in.png', '--codecs', 'fake,jpg'], "mean 'jpeg'"),
    (['compare', 'in.png', '--codecs', 'jpeg:run'], 'takes no model'),
    (['compare', 'none.png', '--codecs', 'fake'], 'none.png'),
  ],
)
def test_wrong_arguments_are_one_line_and_status_2(argv, message, fails):
  with open('empty', 'wb'):
    pass
  with open('old.cdx', 'wb') as f:
    f.write(bitstream.MAGIC + b'\x01' + bytes(30))
  if argv[:2] == ['compare', 'none.png']:  # the head of the table is out by then
    assert cli.main(argv) == 2
  else:
    assert message in fails(*argv)
  assert sorted(os.listdir()) == ['empty', 'in.png', 'old.cdx']


def test_old_output_survives_a_failure(fails):
  encode()
  data = read('x.cdx')
  with open('bad.cdx', 'wb') as f:
    f.write(data[:-3])
  with open('out.png', 'wb') as f:
    f.write(b'old')
  fails('decode', 'bad.cdx', '-o', 'out.png')
  fails('encode', 'bad.cdx', '-o', 'x.cdx', '--codec', 'fake')
  assert read('out.png') == b'old' and read('x.cdx') == data
  cli.main(['decode', 'x.cdx', '-o', 'out.png'])
  assert read('out.png') != b'old'
  assert sorted(os.listdir()) == ['bad.cdx', 'in.png', 'out.png', 'x.cdx']


@pytest.mark.parametrize(
  'argv',
  [
    ['encode', 'in.png', '-o', 'in.png', '--codec=fake'],
    ['encode', 'in.png', '-o', './in.png', '--codec=fake'],
    ['encode', 'in.png', '-o', 'link.cdx', '--codec=fake'],
    ['encode', 'in.png', '-o', 'hard.cdx', '--codec=fake'],
    ['encode', 'in.png', '-o', 'y.cdx', '--codec=fake', '--details=in.png'],
    ['encode', 'in.png', '-o', 'y.cdx', '--codec=fake', '--details=y.cdx'],
    ['decode', 'plain', '-o', 'plain'],
  ],
)
def test_output_that_is_another_file_of_the_command_is_refused(argv, fails):
  encode()
  os.rename('x.cdx', 'plain')
  os.symlink('in.png', 'link.cdx')
  os.link('in.png', 'hard.cdx')
  before = {name: read(name) for name in os.listdir()}
  line = fails(*argv)
  assert 'is the same file as' in line or 'writes .cdx files' in line
  assert {name: read(name) for name in os.listdir()} == before


def test_standard_streams_led_to_the_files_of_the_command_are_refused():
  """The shell has opened them: by their paths alone nobody sees it."""
  encode()
  before = {name: read(name) for name in os.listdir()}
  argv = ['encode', 'in.png', '-o', '-', '--codec=fake']
  with open('in.png', 'ab') as out:
    done = codax(*argv, stdout=out)
  assert done.returncode == 2 and b'is the same file as in.png' in done.stderr
  os.rename('in.png', 'in.cdx')  # a name that the codec may write
  done = codax('encode', '-', '-o', './in.cdx', '--codec=fake', stdin='in.cdx')
  assert done.returncode == 2
  assert b'./in.cdx is the same file as standard input' in done.stderr
  os.rename('in.cdx', 'in.png')
  assert {name: read(name) for name in os.listdir()} == before


def test_new_outputs_whose_names_differ_in_case_alone_are_refused(fails):
  argv = ['encode', 'in.png', '-o', 'x.cdx', '--codec=fake', '--details=X.cdx']
  assert 'X.cdx is the same file as x.cdx' in fails(*argv)


def test_outputs_that_are_no_names_of_files_are_refused(fails):
  argv = ['encode', 'in.png', '--codec=fake', '-o']
  assert 'the name of an output is empty' in fails(*argv, '')
  assert 'new/ is the name of a folder' in fails(*argv, 'new/')
  assert os.listdir() == ['in.png']


def test_details_on_standard_output_are_alone_there(capsys):
  encode('--details=-')
  out, err = capsys.readouterr()
  assert json.loads(out)['estimated_bits'] > 0 and err.startswith('x.cdx: ')


def test_name_with_a_line_break_is_said_in_one_line(capsys):
  argv = ['encode', 'in.png', '-o', 'a\n\x1b[2Jb.cdx', '--codec=fake']
  assert cli.main(argv) == 0
  out = capsys.readouterr().out
  assert out.count('\n') == 1 and out.startswith('a\\n\\x1b[2Jb.cdx: ')
  assert bitstream.is_cdx(read('a\n\x1b[2Jb.cdx'))


def test_link_to_an_output_elsewhere_stays_a_link():
  os.mkdir('far')
  os.symlink('far/x.cdx', 'link.cdx')
  encode()
  for _ in range(2):  # the file behind it is new, and then replaced
    assert cli.main(['encode', 'in.png', '-o', 'link.cdx', '--codec=fake']) == 0
    assert os.path.islink('link.cdx') and read('far/x.cdx') == read('x.cdx')
  assert os.listdir('far') == ['x.cdx']


def test_payload_damaged_behind_a_right_checksum_is_one_line(fails):
  encode()
  header, _ = bitstream.read(read('x.cdx'))
  for payload in (b'', b'junk'):
    with open('bad.cdx', 'wb') as f:
      f.write(bitstream.write(header, [bitstream.Section(1, payload)]))
    assert fails('decode', 'bad.cdx', '-o', 'out.png').startswith('error: bad.cdx: ')


def test_compare_prints_a_row_for_each_codec_and_image(capsys):
  Image.fromarray(smooth_image(40, 50)).save('other.png')
  made = fake_family.make_bundle(32)
  bundle.save(made, 'run/bundle.safetensors')
  codecs = 'fake, fake_trained:run'
  assert cli.main(['compare', 'in.png', 'other.png', '--codecs', codecs]) == 0
  head, *rows = capsys.readouterr().out.splitlines()
  assert head.split()[:4] == ['image', 'codec', 'bytes', 'bpp']
  cells = [row.split() for row in rows]
  assert [c[0] for c in cells] == ['in.png'] * 2 + ['other.png'] * 2 + ['mean'] * 2
  sizes = [int(c[2]) for c in cells]
  encode(source='other.png')
  assert sizes[2] == os.path.getsize('x.cdx')
  assert sizes[4] in (sum(sizes[0:4:2]) // 2, -(-sum(sizes[0:4:2]) // 2))
  assert float(cells[2][3]) == round(8 * sizes[2] / 2000, 4)
  assert float(cells[0][4]) > float(cells[1][4])  # the finer step has the higher PSNR
  assert all(-1 <= float(c[5]) <= 1 for c in cells)


def test_compare_gives_the_model_to_trained_codecs_only(capsys):
  bundle.save(fake_family.make_bundle(32), 'run/bundle.safetensors')
  argv = ['compare', 'in.png', '--codecs', 'fake,fake_trained', '--model', 'run']
  assert cli.main(argv) == 0
  first, second = capsys.readouterr().out.splitlines()[1:]
  assert first.split()[4] != second.split()[4]


def test_compare_takes_grey_images(capsys):
  Image.fromarray(smooth_image(c=1)[..., 0]).save('grey.png')
  # WebP has no grey: its file decodes to RGB.
  assert cli.main(['compare', 'grey.png', '--codecs', 'fake,jpeg,webp']) == 0
  out, err = capsys.readouterr()
  assert len(out.splitlines()) == 4 and err == ''


def test_compare_averages_ssim_over_images_that_have_one(capsys):
  Image.fromarray(smooth_image(5, 5)).save('tiny.png')
  assert cli.main(['compare', 'in.png', 'tiny.png', '--codecs', 'fake']) == 0
  ssim = [line.split()[5] for line in capsys.readouterr().out.splitlines()[-3:]]
  assert ssim[1] == 'nan' and ssim[2] == ssim[0] != 'nan'


def test_compare_finds_bad_inputs_before_any_work(fails):
  """All of them, in one line: a missing file and one that is no image."""
  with open('text.png', 'w') as f:
    f.write('no image')
  error = fails('compare', 'in.png', 'text.png', 'absent.png', '--codecs', 'fake')
  assert 'text.png: not an image' in error and 'absent.png: no such' in error


def test_compare_takes_folders_and_tells_images_of_one_name_apart(capsys):
  for i, folder in enumerate(('a', 'b/c')):
    os.makedirs(folder)
    Image.fromarray(smooth_image(17 + i, 33)).save(f'{folder}/x.png')
  assert cli.main(['compare', 'a', 'b/c', 'in.png', '--codecs', 'fake']) == 0
  _, *rows = capsys.readouterr().out.splitlines()
  names = [row.split()[0] for row in rows]
  assert names == ['a/x.png', 'c/x.png', 'in.png', 'mean']


def cut(path):
  Image.fromarray(smooth_image(40, 50)).save(path)
  with open(path, 'r+b') as f:
    f.truncate(os.path.getsize(path) // 2)


def test_compare_passes_over_bad_images_if_asked(capsys, fails):
  cut('cut.png')
  Image.fromarray(smooth_image(20, 30)).save('other.png')
  argv = ['compare', 'in.png', 'cut.png', 'absent', 'other.png', '--codecs', 'fake']
  error = fails(*argv)
  assert error.startswith('error: 2 images cannot be used: absent: no such')
  assert 'cut.png: ' in error and '--skip-bad passes over bad images' in error
  assert cli.main([*argv, '--skip-bad']) == 0
  out, err = capsys.readouterr()
  rows = [line.split()[0] for line in out.splitlines()[1:]]
  assert rows == ['in.png', 'other.png', 'mean']
  notes = err.splitlines()
  assert [note.split(': ')[:3] for note in notes] == [
    ['note', 'passed over', 'absent'],
    ['note', 'passed over', 'cut.png'],
  ]
  assert fails('compare', 'cut.png', '--codecs=fake', '--skip-bad').startswith(
    'error: cut.png: '
  )


def test_compare_lists_twenty_bad_images_and_counts_the_rest(fails):
  os.mkdir('many')
  for i in range(33):
    with open(f'many/{i}.png', 'w') as f:
      f.write('no image')
  error = fails('compare', 'in.png', 'many', '--codecs=fake')
  assert error.startswith('error: 33 images cannot be used: many/0.png: ')
  assert error.count('.png: not an image') == 20 and '; and 13 more (' in error


def test_compare_names_an_image_that_is_damaged_meanwhile(capsys, monkeypatch):
  """Rows of the others are kept, and the status tells that some are missing."""
  Image.fromarray(smooth_image(40, 50)).save('other.png')
  compress = zlib.compress

  def cut_other(data, *args):
    cut('other.png')
    return compress(data, *args)

  monkeypatch.setattr(zlib, 'compress', cut_other)
  assert cli.main(['compare', 'in.png', 'other.png', '--codecs', 'fake']) == 2
  out, err = capsys.readouterr()
  assert [line.split()[0] for line in out.splitlines()[1:]] == ['in.png']
  assert err.startswith('error: passed over: other.png: ') and err.count('\n') == 1


def test_compare_takes_a_file_that_is_named_twice_once(capsys):
  os.mkdir('a')
  Image.fromarray(smooth_image(40, 50)).save('a/x.png')
  argv = ['compare', 'in.png', './in.png', 'a', os.path.abspath('a/x.png')]
  assert cli.main([*argv, '--codecs=fake']) == 0
  rows = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
  assert rows == ['in.png', 'x.png', 'mean']


def test_images_of_one_name_have_the_shortest_distinguishing_paths(capsys):
  paths = ['p/a/x.png', 'p/b/x.png', 'q/b/x.png', 'q/y.png']
  for path in paths:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    Image.fromarray(smooth_image()).save(path)
  assert cli.main(['compare', *paths, '--codecs=fake']) == 0
  rows = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]]
  assert rows == ['a/x.png', 'p/b/x.png', 'q/b/x.png', 'y.png', 'mean']


@pytest.mark.parametrize(
  ('flag', 'codecs', 'lacking', 'owners'),
  [
    ('--lmbda=0.5', 'fake,jpeg', 'jpeg', 'vqvae, overfit, splat'),
    ('--seconds=5', 'fake,jpeg,webp', 'jpeg, webp', 'overfit, splat'),
    ('--seed=3', 'fake,jpeg', 'jpeg', 'overfit, splat'),
    ('--shade=4', 'fake,jpeg', 'jpeg', 'fake'),
    ('--count=9', 'splat,fake', 'fake', 'splat'),
    ('--model=run', 'fake_trained,fake', 'fake', 'vqvae, vae, fake_trained'),
  ],
)
def test_compare_has_one_rule_for_options_that_codecs_lack(
  flag, codecs, lacking, owners, capsys, fails
):
  """They go to the codecs that have them, with a note; no such codec: an error."""
  bundle.save(fake_family.make_bundle(32), 'run/bundle.safetensors')
  name = flag.split('=')[0]
  if 'splat' not in codecs:
    assert cli.main(['compare', 'in.png', f'--codecs={codecs}', flag]) == 0
    out, err = capsys.readouterr()
    assert err == f'note: {name} is no option of {lacking}\n'
    assert len(out.splitlines()) == 1 + len(codecs.split(','))
  alone = lacking.replace(' ', '')
  error = fails('compare', 'in.png', f'--codecs={alone}', flag)
  assert f'no codec of --codecs has {name} (codecs with it: {owners}' in error


def test_compare_gives_options_to_codecs_that_have_them(capsys):
  assert cli.main(['compare', 'in.png', '--codecs=fake,jpeg']) == 0
  plain = [line.split()[2] for line in capsys.readouterr().out.splitlines()[1:]]
  assert cli.main(['compare', 'in.png', '--codecs=fake,jpeg', '--shade=2']) == 0
  fine = [line.split()[2] for line in capsys.readouterr().out.splitlines()[1:]]
  assert fine[0] != plain[0] and fine[1] == plain[1]


def test_compare_notes_missed_targets_and_images_of_nearly_one_color(capsys):
  faint = np.full((17, 33, 3), 244, np.uint8)
  faint[5:7, 5:20] = 233
  Image.fromarray(faint).save('faint.png')
  argv = ['compare', 'in.png', 'faint.png', '--codecs=fake', '--shade=64']
  assert cli.main(argv) == 0
  out, err = capsys.readouterr()
  (note,) = err.splitlines()
  assert note.startswith('note: faint.png with fake: the image has become nearly one')
  head, *rows = [line.split() for line in out.splitlines()]
  assert head[-2:] == ['gain', 'dB']
  gains = [float(row[-1]) for row in rows]
  assert gains[0] > 3 > gains[1] and gains[2] == pytest.approx(np.mean(gains[:2]), 0.01)
  argv = ['compare', 'in.png', '--codecs=jpeg', '--bpp=5']
  sizes = [
    len(baselines.at_quality('jpeg', q).encode(smooth_image()).data)
    for q in range(1, 101)
  ]
  k = int(np.diff(np.log(sizes)).argmax())
  bpp = 8 * math.sqrt(sizes[k] * sizes[k + 1]) / (17 * 33)  # between two qualities
  assert cli.main(['compare', 'in.png', '--codecs=jpeg', f'--bpp={bpp}']) == 0
  assert 'note: in.png with jpeg: bpp ' in capsys.readouterr().err


def test_target_out_of_reach_is_one_line_and_no_file(fails):
  argv = ['encode', 'in.png', '-o', 'x.jpg', '--codec', 'jpeg']
  for target, text in (
    ('--bpp=0.01', 'bpp 0.01 is out of reach for this image: the least is '),
    ('--psnr=99', 'psnr 99 is out of reach for this image: the most is '),
  ):
    assert f'in.png: {text}' in fails(*argv, target)
    assert not os.path.exists('x.jpg')


def test_target_between_two_qualities_is_written_with_a_note(capsys):
  argv = ['encode', 'in.png', '-o', 'x.jpg', '--codec', 'jpeg']
  sizes = [
    len(baselines.at_quality('jpeg', q).encode(smooth_image()).data)
    for q in range(1, 101)
  ]
  steps = np.diff(np.log(sizes))
  middle = math.sqrt(sizes[steps.argmax()] * sizes[steps.argmax() + 1])
  assert steps.max() > 0.07  # a step of the scale by more than the tolerance
  assert cli.main([*argv, f'--bpp={8 * middle / (17 * 33)}']) == 0
  err = capsys.readouterr().err
  assert err.startswith('note: bpp ') and 'nearest file that was found' in err
  assert cli.main([*argv, f'--bpp={8 * 1.01 * sizes[49] / (17 * 33)}']) == 0
  assert capsys.readouterr().err == ''


def test_compare_with_a_target_out_of_reach_goes_on_without_that_row(capsys):
  Image.fromarray(np.zeros((17, 33, 3), np.uint8)).save('flat.png')
  argv = ['compare', 'flat.png', 'in.png', '--codecs', 'fake,jpeg', '--psnr=30']
  assert cli.main(argv) == 0
  out, err = capsys.readouterr()
  cells = [line.split()[:2] for line in out.splitlines()[1:]]
  rows = [['flat.png', 'fake'], ['in.png', 'fake'], ['in.png', 'jpeg']]
  assert cells == [*rows, ['mean', 'fake']]
  assert 'note: flat.png with jpeg: psnr 30 is out of reach' in err
  assert 'note: jpeg has no mean' in err
  assert cli.main(['compare', 'flat.png', '--codecs', 'jpeg', '--psnr=30']) == 2
  assert 'error: no target was met' in capsys.readouterr().err


def test_compare_interrupted_ends_with_130_and_no_row(monkeypatch, capsys):
  argv = ['compare', 'in.png', '--codecs', 'fake']
  interrupt = lambda *_: signal.raise_signal(signal.SIGINT)
  monkeypatch.setattr(zlib, 'compress', interrupt)
  assert cli.main(argv) == 130
  out, err = capsys.readouterr()
  assert out.count('\n') == 1
  assert err == (
    'interrupted: in.png with fake and what follows are not measured; the table has no '
    'means\n'
  )


def test_files_of_baselines_are_decoded_and_described(capsys):
  image_io.write('in.webp', image_io.ImageFile(smooth_image(), orientation=6))
  assert cli.main(['encode', 'in.webp', '-o', 'x.jpg', '--codec', 'jpeg']) == 0
  out, err = capsys.readouterr()
  assert out.startswith(f'x.jpg: {os.path.getsize("x.jpg")} bytes')
  assert 'does not carry' in err
  with Image.open('x.jpg') as im:
    assert im.format == 'JPEG' and im.size == (33, 17)


def test_progress_bar_is_drawn_on_a_terminal_only(monkeypatch, capsys):
  encode()
  assert capsys.readouterr().err == ''
  monkeypatch.setattr(sys.stderr, 'isatty', lambda: True)
  encode()
  assert 'fake: ' in capsys.readouterr().err


def test_help_and_version_need_no_jax():
  """A fresh process: info, help and errors, with no module of JAX or Pillow plugins."""
  encode()
  code = (
    'import sys\nfrom codax import cli\n'
    'try:\n  status = cli.main(sys.argv[1:])\n'
    'except SystemExit as e:\n  status = e.code\n'
    'assert not {"jax", "flax", "tensorflow", "torch"} & set(sys.modules)\n'
    'sys.exit(status)'
  )
  cases = {'--help': 'encode', '--version': 'codax 0.1.0', 'info': '"height": 17'}
  for first, wanted in cases.items():
    argv = [first] if first != 'info' else ['info', 'x.cdx', '--json']
    done = subprocess.run(
      [sys.executable, '-c', code, *argv], capture_output=True, text=True
    )
    assert done.returncode == 0 and wanted in done.stdout, done.stderr


# --- Standard input and output, outputs that cannot be written ------------------------


def codax(*argv, data=b'', **options):
  """Runs the command, with the fake family, in a process of its own."""
  code = (
    'import sys, pytest, fake_family\n'
    'fake_family.register(pytest.MonkeyPatch())\n'
    'from codax import cli\nsys.exit(cli.main(sys.argv[1:]))'
  )
  here = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
  env = os.environ | {'PYTHONPATH': here} | options.pop('env', {})
  options = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'env': env} | options
  command = [sys.executable, '-c', code, *argv]
  if 'stdin' not in options:
    return subprocess.run(command, input=data, **options)
  with open(options.pop('stdin'), 'rb') as f:
    return subprocess.run(command, stdin=f, **options)


def test_dash_is_standard_input_and_output(monkeypatch, capsysbinary):
  encode()
  capsysbinary.readouterr()
  image, wanted = read('in.png'), read('x.cdx')
  monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(image)))
  assert cli.main(['encode', '-', '-o', '-', '--codec=fake']) == 0
  out, err = capsysbinary.readouterr()
  assert out == wanted and err.startswith(b'standard output: ')
  monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(out)))
  assert cli.main(['decode', '-', '-o', '-']) == 0
  out, err = capsysbinary.readouterr()
  with open('out.png', 'wb') as f:
    f.write(out)
  assert np.array_equal(image_io.read('out.png').pixels, smooth_image() // 8 * 8 + 4)
  assert err.startswith(b'standard output: 33 x 17 RGB')
  monkeypatch.setattr(sys, 'stdin', io.TextIOWrapper(io.BytesIO(b'junk')))
  assert cli.main(['info', '-']) == 2
  assert b'error: standard input: not a .cdx file' in capsysbinary.readouterr().err


@pytest.mark.skipif(not os.path.exists('/dev/stdout'), reason='a device of POSIX')
def test_dev_stdout_into_a_pipe_is_standard_output():
  encode()
  argv = ['encode', 'in.png', '-o', '/dev/stdout', '--codec=fake']
  done = codax(*argv)
  assert done.returncode == 0 and done.stdout == read('x.cdx')
  assert done.stderr.startswith(b'standard output: ')


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='a device of Linux')
def test_summary_that_cannot_be_printed_fails_nothing():
  argv = ['encode', 'in.png', '-o', 'x.cdx', '--codec=fake']
  with open('/dev/full', 'wb') as full:
    done = codax(*argv, stdout=full)
  assert (done.returncode, done.stderr) == (0, b'')
  assert bitstream.is_cdx(read('x.cdx'))
  argv[3] = 'gr\xfcn.cdx'
  done = codax(*argv, env={'PYTHONIOENCODING': 'ascii'})
  assert (done.returncode, done.stderr) == (0, b'')
  assert done.stdout.startswith(b'gr\\xfcn.cdx: ')


def test_output_that_cannot_be_written_is_found_before_the_work(fails, monkeypatch):
  def refuse(*_, **__):
    raise OSError(errno.EROFS, 'Read-only file system')

  monkeypatch.setattr(zlib, 'compress', lambda *_: pytest.fail('the work began'))
  argv = ['encode', 'in.png', '-o', 'x.cdx', '--codec=fake']
  os.symlink('loop.cdx', 'loop.cdx')
  assert 'loop.cdx is a link to itself' in fails(*argv[:3], 'loop.cdx', *argv[4:])
  assert 'too long' in fails(*argv[:3], 300 * 'x' + '.cdx', *argv[4:])
  monkeypatch.setattr(files, '_make_temporary', refuse)
  assert 'x.cdx: Read-only file system' in fails(*argv)
  assert sorted(os.listdir()) == ['in.png', 'loop.cdx']


def test_longest_name_can_be_written():
  name = 251 * 'x' + '.cdx'
  assert cli.main(['encode', 'in.png', '-o', name, '--codec=fake']) == 0
  assert bitstream.is_cdx(read(name))


def test_last_write_that_fails_keeps_the_file_elsewhere(fails, monkeypatch, tmp_path):
  encode()
  wanted = read('x.cdx')
  os.remove('x.cdx')
  os.mkdir('elsewhere')
  monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'elsewhere'))

  def full(*_):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(os, 'replace', full)
  line = fails('encode', 'in.png', '-o', 'x.cdx', '--codec=fake')
  kept = re.search(r'x.cdx: No space left on device; the file is kept as (\S+)', line)
  assert read(kept[1]) == wanted and kept[1].startswith(str(tmp_path / 'elsewhere'))
  line = fails('decode', kept[1], '-o', 'out.png')
  kept = re.search(r'out.png: No space left on device; the file is kept as (\S+)', line)
  assert np.array_equal(image_io.read(kept[1]).pixels, smooth_image() // 8 * 8 + 4)
  assert sorted(os.listdir()) == ['elsewhere', 'in.png']


def test_last_write_that_fails_everywhere_leaves_no_part_of_a_file(
  fails, monkeypatch, tmp_path
):
  """The folder for temporary files has no space either: the next one gets the file."""
  folders = [tmp_path / name for name in ('full', 'home')]
  for folder in folders:
    folder.mkdir()
  monkeypatch.setattr(tempfile, 'tempdir', str(folders[0]))
  monkeypatch.setenv('HOME', str(folders[1]))
  make, open_file = tempfile.mkstemp, os.fdopen
  full = {str(folders[0]), os.getcwd()}
  handles = {}

  def make_and_note(*, dir, **options):
    handle, path = make(dir=dir, **options)
    handles[handle] = str(dir)
    return handle, path

  def open_unless_full(handle, *args):
    if handles.pop(handle, None) in full:
      os.close(handle)
      raise OSError(errno.ENOSPC, 'No space left on device')
    return open_file(handle, *args)

  def fail(*_):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(tempfile, 'mkstemp', make_and_note)
  monkeypatch.setattr(os, 'fdopen', open_unless_full)
  monkeypatch.setattr(os, 'replace', fail)
  argv = ['encode', 'in.png', '-o', 'x.cdx', '--codec=fake']
  assert 'the file is kept as ' + str(folders[1]) in fails(*argv)
  assert len(os.listdir('home')) == 1 and not os.listdir('full')
  full.add(str(folders[1]))
  assert 'nor can the file be kept elsewhere' in fails(*argv)
  assert sorted(os.listdir()) == ['full', 'home', 'in.png']
  assert len(os.listdir('home')) == 1 and not os.listdir('full')


@pytest.mark.skipif(os.name != 'posix', reason='permission bits of POSIX')
def test_existing_output_keeps_its_mode(monkeypatch):
  encode()
  os.chmod('x.cdx', 0o600)
  encode('--shade=16')
  assert os.stat('x.cdx').st_mode & 0o777 == 0o600

  def unable(*_):
    raise OSError(errno.ENOTSUP, 'Operation not supported')

  monkeypatch.setattr(os, 'chmod', unable)
  monkeypatch.setattr(os, 'fsync', unable)
  before = read('x.cdx')
  encode()
  assert read('x.cdx') != before


def test_tilde_is_expanded_after_an_equals_sign(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  os.mkdir('home')
  encode('--details=~/d.json')
  details = json.loads(read('home/d.json'))
  assert details['options']['seed'] == 0 and details['estimated_bits'] > 0


# --- What people are told -------------------------------------------------------------


def test_image_of_nearly_one_color_is_noted(capsys):
  faint = np.full((17, 33, 3), 244, np.uint8)
  faint[5:7, 5:20] = 233
  Image.fromarray(faint).save('faint.png')
  encode('--shade=64', '--details=d.json', source='faint.png')
  err = capsys.readouterr().err
  assert err.startswith('note: the image has become nearly one color: ')
  assert json.loads(read('d.json'))['psnr_above_one_color'] < 3
  encode('--shade=1', '--details=d.json', source='faint.png')
  assert capsys.readouterr().err == ''
  Image.fromarray(np.full((17, 33, 3), 244, np.uint8)).save('flat.png')
  encode('--shade=64', '--details=d.json', source='flat.png')
  assert capsys.readouterr().err == ''
  assert json.loads(read('d.json'))['psnr_above_one_color'] is None


def test_info_for_people_has_no_punctuation_of_programs(capsys):
  folder = Path(__file__).parent / 'golden'
  for path in (*folder.glob('splat_1/*.cdx'), *folder.glob('overfit_1/*.cdx')):
    assert cli.main(['info', str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert not any(
      re.search(r"[{}\[\]']|(?<!ICC )profile|overhead", x) for x in lines[1:]
    )
    assert cli.main(['info', str(path), '--json']) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {'profile', 'overhead', 'family_id'} <= set(facts)


def test_compare_prints_an_estimate_after_the_first_image(capsys, monkeypatch):
  from codax.training import progress

  Image.fromarray(smooth_image(40, 50)).save('other.png')
  clock = iter(range(0, 10000, 7))
  monkeypatch.setattr(progress.time, 'monotonic', lambda: next(clock))
  assert cli.main(['compare', 'in.png', 'other.png', '--codecs', 'fake']) == 0
  assert re.search(r'estimate: about \d+ \w+ for 2 images', capsys.readouterr().err)


def test_compare_says_for_which_codecs_a_time_budget_is(fails, monkeypatch, capsys):
  from codax.cli import compare

  err = fails('compare', 'in.png', '--codecs=jpeg,webp', '--seconds=5')
  assert 'no codec of --codecs has --seconds (codecs with it: overfit, splat' in err
  options = []
  monkeypatch.setattr(
    compare.families, 'get', lambda name, **more: options.append(more['options'])
  )
  args = cli._parser().parse_args(
    ['compare', 'in.png', '--codecs=jpeg,overfit', '--seconds=5']
  )
  compare._make_codecs(args)
  assert [made.seconds for made in options] == [None, 5.0]
  assert capsys.readouterr().err == 'note: --seconds is no option of jpeg\n'


def test_time_budget_that_is_too_short_is_said_before_and_after(monkeypatch, capsys):
  from codax.cli import encode as command

  args = cli._parser().parse_args(
    ['encode', 'in.png', '-o', 'a.cdx', '--codec=overfit', '--seconds=15']
  )
  command.announce(args, 'overfit', np.zeros((384, 512, 3), np.uint8))
  err = capsys.readouterr().err
  assert (
    'about 1 min on two CPU cores (15 s are too few: compiling takes longer)' in err
  )
  budget = {
    'seconds': 15.0, 'spent': 40.0, 'steps': 20, 'usual_steps': 2000,
    'start_seconds': 25.0, 'usual_seconds': 400.0,
  }  # fmt: skip
  found = Encoded(b'', None, 0.0, {'budget': budget})
  (text,) = command.find_notes(found, None)
  assert text == (
    '20 of 2,000 steps fit into 15 s, so the quality is lower; all of them take about '
    '400 s here; it took 40 s, as compiling alone takes 25 s'
  )
