"""Files at multiples of their size."""

import numpy as np
import pytest
from PIL import Image

from codax import alpha, bitstream, cli, families
from codax.errors import CodaxError
from codax.splat.format import container, integer, positions

Q_STEPS = integer.QSteps(64, 12, 28, 36, 15)  # a step of scales is an octave


def make_payload(blend):
  """Makes Gaussians of less than a pixel to some, whose centers have fine digits."""
  rng = np.random.default_rng(3)
  size, count = (21, 34, 3), 12
  cells = np.stack([rng.integers(0, 34, count), rng.integers(0, 21, count)], 1)
  cells = cells[positions.order(cells, size[:2])]
  shape = np.stack([
    rng.integers(2, 4, count), rng.integers(2, 4, count), rng.integers(-2, 3, count)
  ], 1)  # fmt: skip
  color = rng.integers(-3, 4, (count, 3))
  bits = integer.count_fine_bits(integer.whiten('cholesky', Q_STEPS, shape), 15)
  assert bits.min() > 0 and bits.max() < integer.MAX_FINE
  base = np.array([80, 120, 90], np.uint8)
  return integer.Payload(
    size, 'cholesky', blend, Q_STEPS, base, cells, rng.integers(0, 1 << bits), shape,
    color,
  )  # fmt: skip


def double(payload):
  """Returns the file of the image of twice the size: an octave, and a digit less."""
  white = integer.whiten('cholesky', Q_STEPS, payload.shape)
  first = payload.fine >> integer.count_fine_bits(white, 15) - 1
  digits = (1 << integer.count_fine_bits(white, 15) - 1) - 1
  h, w, c = payload.size
  return payload._replace(
    size=(2 * h, 2 * w, c),
    cells=2 * payload.cells + first,
    fine=payload.fine & digits,
    shape=payload.shape + [1, 1, 0],
  )


@pytest.mark.parametrize('blend', integer.BLENDS)
def test_scaled_image_is_that_of_the_doubled_file(blend):
  payload = make_payload(blend)
  wanted = integer.render(double(payload))
  np.testing.assert_array_equal(integer.render(payload, scale=2), wanted)
  wanted = integer.render(double(payload), scale=2)
  np.testing.assert_array_equal(integer.render(payload, scale=4), wanted)


def test_command_line_decodes_at_a_scale_or_refuses(tmp_path, capsys, monkeypatch):
  payload = make_payload('normalized')
  file, out = tmp_path / 'a.cdx', tmp_path / 'a.png'
  file.write_bytes(container.pack(payload)[0])
  command = ['decode', str(file), '-o', str(out)]
  assert cli.main([*command, '--scale=4']) == 0
  made = np.array(Image.open(out))
  np.testing.assert_array_equal(made, integer.render(payload, scale=4))
  out.unlink()
  for flags, message in (
    (['--scale=3'], 'scale 3; valid: 1, 2, 4'),
    (['--scale=2', '--prefix=6'], 'give --prefix or --scale, not both'),
  ):
    assert cli.main([*command, *flags]) == 2
    assert message in capsys.readouterr().err
  monkeypatch.setattr(container, 'MAX_SCALED', 1000)
  with pytest.raises(
    CodaxError, match=r'136 x 84 pixels at scale 4; valid: up to 1000'
  ):
    container.decode_scaled(file.read_bytes(), 4)
  assert not out.exists()


def test_files_of_other_codecs_refuse_a_scale(tmp_path, capsys):
  file = tmp_path / 'a.cdx'
  grey = np.zeros((8, 8, 1), np.uint8)
  header = bitstream.Header(families.family('overfit').id, 0, *grey.shape)
  file.write_bytes(bitstream.write(header, [bitstream.Section(bitstream.CODES, b'')]))
  out = tmp_path / 'a.png'
  assert cli.main(['decode', str(file), '-o', str(out), '--scale=2']) == 2
  assert "files of codec 'overfit' cannot be scaled" in capsys.readouterr().err
  assert not out.exists()


def test_alpha_of_a_scaled_image_is_that_of_its_pixels():
  plane = np.random.default_rng(0).integers(0, 255, (21, 34), dtype=np.uint8)
  data = alpha.add(container.pack(make_payload('sum'))[0], plane)
  pixels = families.codec_for(data).decode_scaled(data, 2)
  assert np.array_equal(pixels[::2, 1::2, 3], plane)
  assert np.array_equal(pixels[1::2, ::2, 3], plane)
