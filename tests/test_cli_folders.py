"""Folders of images through the command: resumed, locked, with failures listed."""

import os
import signal
import subprocess
import sys
import time

import fake_family
import numpy as np
import pytest
from fake_family import smooth_image
from PIL import Image

from codax import cli, files


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
  fake_family.register(monkeypatch)
  monkeypatch.chdir(tmp_path)
  os.makedirs('in/sub')
  Image.fromarray(smooth_image()).save('in/a.png')
  Image.fromarray(smooth_image(9, 7)).save('in/a.bmp')
  Image.fromarray(smooth_image(8, 8)).save('in/sub/b.png')


def listing(folder='out'):
  found = (os.path.join(at, n) for at, _, names in os.walk(folder) for n in names)
  return sorted(os.path.relpath(p, folder) for p in found if '/.codax' not in p)


def encode(*more):
  return cli.main(['encode', 'in', '-o', 'out', '--codec', 'fake', *more])


def test_folder_comes_back_with_its_sub_folders():
  assert encode() == 0
  assert listing() == ['a.bmp.cdx', 'a.png.cdx', 'sub/b.png.cdx']
  assert cli.main(['decode', 'out', '-o', 'back']) == 0
  assert listing('back') == ['a.bmp.png', 'a.png', 'sub/b.png']
  decoded = np.asarray(Image.open('back/sub/b.png'))
  assert np.array_equal(decoded, smooth_image(8, 8) // 8 * 8 + 4)


def test_files_of_the_same_request_are_passed_over(capsys):
  assert encode() == 0
  before = os.stat('out/a.png.cdx').st_ino
  assert encode() == 0 and '3 of them from before' in capsys.readouterr().out
  assert os.stat('out/a.png.cdx').st_ino == before
  os.remove('out/a.bmp.cdx')  # gone: made again
  assert encode() == 0 and '2 of them from before' in capsys.readouterr().out
  assert encode('--shade', '16') == 0  # another request: all again
  assert '0 of them from before' in capsys.readouterr().out
  Image.fromarray(smooth_image(8, 9)).save('in/a.png')  # another image
  assert encode('--shade', '16') == 0
  assert '2 of them from before' in capsys.readouterr().out


def test_unreadable_files_are_listed_at_the_end_with_status_2(capsys):
  with open('in/broken.png', 'wb') as f:
    f.write(b'no image')
  assert encode() == 2
  err = capsys.readouterr().err
  assert 'in/broken.png' in err.splitlines()[-1] and 'Traceback' not in err
  assert len(listing()) == 3


def test_notes_on_losses_are_listed_as_for_single_files(capsys):
  Image.fromarray(smooth_image(8, 8, 1)[..., 0].astype(np.uint16) * 257).save(
    'in/deep.png'
  )
  for more in ((), ('--codec', 'webp', '--jobs', '2')):  # processes lack the fake
    assert encode(*more) == 0
    assert 'deep.png: 16-bit samples were reduced' in capsys.readouterr().err


def test_option_of_one_family_needs_no_codec_named(capsys):
  assert cli.main(['encode', 'in', '-o', 'out', '--shade', '16']) == 0
  assert '3 of 3 files' in capsys.readouterr().out


def test_transparent_images_keep_their_alpha():
  rgba = np.dstack([smooth_image(8, 8), np.arange(64, dtype=np.uint8).reshape(8, 8)])
  Image.fromarray(rgba).save('in/clear.png')
  assert encode() == 0
  assert cli.main(['decode', 'out', '-o', 'back']) == 0
  with Image.open('back/clear.png') as im:
    assert np.array_equal(np.asarray(im)[..., 3], rgba[..., 3])


def test_two_sources_of_one_name_are_not_mixed(capsys):
  assert encode() == 0
  os.rename('out/a.bmp.cdx', 'out/a.cdx')
  assert cli.main(['decode', 'out', '-o', 'back']) == 2
  assert 'would become a.png' in capsys.readouterr().err
  assert listing('back') == ['a.png', 'sub/b.png']


def test_wrong_option_or_output_ends_the_command_at_once(capsys):
  for argv in (['--lmbda', '1', '--codec', 'jpeg'], ['--details', 'x.json']):
    assert encode(*argv) == 2
    assert capsys.readouterr().err.count('\n') == 1
    assert not os.path.exists('out')


def test_temporary_files_of_a_killed_run_are_removed():
  os.makedirs('out/sub')
  open('out/sub/.codax-0123abcd', 'w').close()
  assert encode() == 0
  assert not os.path.exists('out/sub/.codax-0123abcd')


def start(*more):
  command = [sys.executable, '-m', 'codax', 'encode', 'in', '-o', 'out']
  command += ['--codec', 'webp', *more]
  return subprocess.Popen(command, stdout=-1, stderr=-1, text=True)


def test_second_process_in_a_folder_says_so_in_one_line():
  with files.lock('out'):
    out, err = start().communicate(timeout=60)
  assert 'is in use by' in err and err.count('\n') == 1 and out == ''


@pytest.mark.slow
def test_folder_killed_twice_ends_whole():
  for i in range(40):
    image = np.random.default_rng(i).integers(0, 256, (160, 160, 3), np.uint8)
    Image.fromarray(image).save(f'in/{i:02}.png')
  for number in (signal.SIGKILL, signal.SIGTERM):
    process, before = start('--jobs', '2', '--preset', 'full'), len(listing())
    for _ in range(4000):
      if len(listing()) > before + 2 or process.poll() is not None:
        break
      time.sleep(0.01)
    process.send_signal(number)
    process.communicate(timeout=60)
    for name in listing():
      Image.open(f'out/{name}').load()  # whole
  process = start('--jobs', '2', '--preset', 'full')
  out, err = process.communicate(timeout=60)
  assert process.returncode == 0 and 'Traceback' not in err
  assert '43 of 43 files' in out and len(listing()) == 43
  assert ' 0 of them' not in out
