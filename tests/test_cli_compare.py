"""`codax compare` without codecs: equal bytes, and a page that needs nothing else."""

import base64
import html.parser
import io
import math
import re
from pathlib import Path

import fake_family
import numpy as np
import pytest
from PIL import Image
from skimage import data

from codax import cli, families, rate_control
from codax.baselines import codec as baselines
from codax.reports import slider_page

PNG = base64.b64decode(
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJ'
  'RU5ErkJggg=='
)


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
  """Photographs go through the pretrained model, which takes a moment."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(families, 'DEFAULT_PIXELS', 0)
  fake_family.register(monkeypatch)
  Image.fromarray(data.astronaut()[:256, 100:356]).save('photo.png')


class Reader(html.parser.HTMLParser):
  """Collects the elements of a page, and checks that they are closed in order.

  Attributes:
    elements: output: (tag, attributes) in their order.
    text: output: all text.
  """

  EMPTY = ('meta', 'img', 'input')

  def __init__(self, page):
    super().__init__()
    self.elements, self.text, self.open = [], '', []
    self.feed(page)
    self.close()
    assert self.open == []

  def handle_starttag(self, tag, attrs):
    assert len(dict(attrs)) == len(attrs)
    self.elements.append((tag, dict(attrs)))
    if tag not in self.EMPTY:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text += data

  def find(self, tag):
    return [attrs for name, attrs in self.elements if name == tag]


def compare(capsys, *more):
  capsys.readouterr()
  assert cli.main(['compare', '--preset=fast', 'photo.png', *more]) == 0
  out, err = capsys.readouterr()
  return [line.split() for line in out.splitlines()[1:]], err


def test_compare_without_options_has_rivals_at_equal_bytes(capsys):
  rows, err = compare(capsys)
  assert [row[:2] for row in rows] == [
    ['photo.png', name] for name in ('vqvae', 'jpeg', 'webp', 'avif')
  ]
  own = int(rows[0][2])
  for row in rows[1:]:
    size = int(row[2])
    is_near = abs(size / own - 1) <= rate_control.BPP_TOLERANCE
    is_said = f'photo.png with {row[1]}: {size} bytes are its nearest to {own}' in err
    assert is_near != is_said
    pixels = np.asarray(Image.open('photo.png'))
    others = [
      len(baselines.at_quality(row[1], q).encode(pixels).data) for q in (1, 100)
    ]
    assert min(others) <= size <= max(others)
    nearest = baselines.encode_nearest_size(pixels, row[1], own)
    assert len(nearest.data) == size


def test_rivals_of_a_photograph_are_within_the_tolerance(capsys):
  Image.fromarray(data.astronaut()).save('photo.png')
  rows, err = compare(capsys)
  sizes = np.array([int(row[2]) for row in rows])
  assert np.all(np.abs(sizes / sizes[0] - 1) <= rate_control.BPP_TOLERANCE)
  assert 'are its nearest' not in err


def test_several_images_have_a_mean_for_each_codec(capsys):
  Image.fromarray(data.astronaut()[256:, 100:356]).save('other.png')
  rows, _ = compare(capsys, 'other.png')
  assert len(rows) == 12
  for k, row in enumerate(rows[8:]):
    assert row[:2] == ['mean', rows[k][1]]
    mean = (float(rows[k][4]) + float(rows[4 + k][4])) / 2
    assert float(row[4]) == pytest.approx(mean, abs=0.011)


def test_page_has_every_codecs_numbers_and_nothing_outside(capsys):
  rows, _ = compare(capsys, '--html', 'page.html')
  page = Path('page.html').read_text()
  reader = Reader(page)
  for row in rows[:4]:
    name, size, bpp, psnr = row[1:5]
    assert re.search(
      rf'{name}(, quality \d+)?: {size} bytes, {bpp} bpp, PSNR {psnr} dB', reader.text
    )
  code = re.sub(r'base64,[A-Za-z0-9+/=]*', '', page).lower()
  assert not re.search(r'https?:|//[a-z]|url\(|@import|<link|<iframe', code)
  assert all(x['src'].startswith('data:image/png;base64,') for x in reader.find('img'))
  assert [x.get('src') for x in reader.find('script')] == [None, None]


def test_images_of_the_page_are_those_of_the_files(capsys):
  compare(capsys, '--html', 'page.html')
  images = Reader(Path('page.html').read_text()).find('img')
  by_id = {x['id']: x['src'].partition(',')[2] for x in images}

  def pixels(name):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(by_id[name]))))

  original = np.asarray(Image.open('photo.png'))
  assert np.array_equal(pixels('image-0'), original)
  quality = re.search(r'jpeg, quality (\d+)', Path('page.html').read_text())[1]
  jpeg = baselines.at_quality('jpeg', int(quality)).encode(original)
  assert np.array_equal(pixels('image-2'), jpeg.reconstruction)


def test_controls_of_the_page_are_reachable_by_keyboard_and_named():
  entries = [slider_page.Entry('a', 10, 0.5, 30.0, PNG)]
  reader = Reader(slider_page.make_page('x', PNG, entries))
  (slider,) = reader.find('input')
  assert slider['type'] == 'range' and slider['aria-label']
  assert len(reader.find('select')) == len(reader.find('label')) == 2
  assert all('tabindex' not in attrs for _, attrs in reader.elements)
  assert all(attrs.get('alt') for attrs in reader.find('img'))
  assert reader.find('html') == [{'lang': 'en'}] and reader.find('title')


def test_names_cannot_break_out_of_the_page():
  name = '</script><script>"&x'
  entries = [slider_page.Entry(name, 10, 0.5, math.inf, PNG)] * 2
  reader = Reader(slider_page.make_page(name, PNG, entries))
  assert len(reader.find('script')) == 2
  texts = [x['alt'] for x in reader.find('img')]
  assert f'{name}: 10 bytes, 0.5000 bpp, PSNR ∞ dB' in texts


@pytest.mark.parametrize(
  'argv, message',
  [
    (['photo.png', '--html=-'], '--html names a file'),
    (['photo.png', '--html=photo.png'], 'is the same file as'),
    (['photo.png', '--html=no/x.html'], 'the folder no does not exist'),
    (['photo.png', '--html=x.html', '--codecs=jpeg'], 'leave --codecs out'),
    (['.', '--html=x.html'], '--html is for one image, not for 2'),
    (['none.png', '--html=x.html'], 'none.png'),
  ],
)
def test_bad_request_is_one_line_and_writes_nothing(argv, message, capsys):
  Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save('second.png')
  before = Path('photo.png').read_bytes()
  assert cli.main(['compare', *argv]) == 2
  out, err = capsys.readouterr()
  assert out == '' and err.count('\n') == 1 and message in err
  assert sorted(p.name for p in Path('.').iterdir()) == ['photo.png', 'second.png']
  assert Path('photo.png').read_bytes() == before
