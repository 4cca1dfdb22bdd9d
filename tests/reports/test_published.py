"""Ours among published codecs: conventions of averaging, headline, plot."""

import math

import pytest
from kept import comparison, held_out, kodak, published, script

from codax.reports import published as pub
from codax.reports import store

POINTS = [[0.1, 28.0], [0.2, 30.0], [0.4, 32.0], [0.8, 34.0]]
VTM = {'codec': 'VTM', 'kind': 'file', 'source': 's', 'points': POINTS}


def over_kodak(points, name='kodak_x', count=24):
  rows = [
    {
      'image': f'{i}.png', 'codec': 'overfit', 'point': f'lmbda {1 / psnr:g}',
      'bytes': 1000, 'bpp': bpp, 'psnr': psnr,
    }
    for i in range(count)
    for bpp, psnr in points
  ]  # fmt: skip
  return held_out(name, rows, 'a')


def test_published_codecs_are_compared_with_ours():
  """Twice the bits of VTM at every PSNR is +100 %; only whole Kodak counts."""
  twice = [(2 * bpp, psnr) for bpp, psnr in POINTS]
  text = pub.table([published(VTM), over_kodak(twice)])
  assert '| VTM | file | +0.0 |' in text
  assert '| **codax, `configs/a.py`** | file | +100.0 |' in text
  assert 'codax' not in pub.table([published(VTM), over_kodak(twice, count=20)])
  assert pub.table([over_kodak(twice)]) == ''


def test_conventions_of_averaging_differ_as_they_should():
  """Half of the images at 1.5 and half at 3 times the bits of a codec with figures of
  every image: BD-rates of images are +50 and +200 %, on average 125; at each point
  both conventions of PSNR are of alike images, so the mean curves have 2.25 times the
  bits."""
  factors = {f'{i}': 3.0 if i % 2 else 1.5 for i in range(24)}
  theirs = [
    {'image': image, 'point': f'p{n}', 'bpp': bpp, 'psnr': psnr}
    for image in factors
    for n, (bpp, psnr) in enumerate(POINTS)
  ]
  each = {'codec': 'Each', 'kind': 'file', 'source': 's', 'rows': theirs}
  rows = [
    {**row, 'image': f'{row["image"]}.png', 'codec': 'overfit', 'bytes': 1000,
     'bpp': row['bpp'] * factors[row['image']]}
    for row in theirs
  ]  # fmt: skip
  text = pub.table([published(VTM, each), held_out('kodak_x', rows)])
  line = next(x for x in text.splitlines() if 'codax' in x)
  error = 75 * math.sqrt(24 / 23) / math.sqrt(24)
  assert line.endswith(f'| +125.0 | +125.0 | +125.0 | +125.0 ± {error:.1f} |')
  assert line.count('|') == text.splitlines()[0].count('|') == 7


def test_pooled_psnr_has_a_curve_of_its_own():
  """A pooled PSNR that is lower by the same at every point is more bits."""
  theirs = [
    {'image': f'{i}', 'point': f'p{n}', 'bpp': bpp, 'psnr': psnr}
    for i in range(24)
    for n, (bpp, psnr) in enumerate(POINTS)
  ]
  each = {'codec': 'Each', 'kind': 'file', 'source': 's', 'rows': theirs}
  ours = over_kodak(POINTS)
  for row in ours['rows']:  # the same mean, not the same MSE
    row['psnr'] += 2.0 if int(row['image'][:-4]) % 2 else -2.0
  (curve,) = pub.ours([ours])
  gap = 10 * math.log10((10**0.2 + 10**-0.2) / 2)
  for point, (_, psnr) in zip(curve.points, POINTS, strict=True):
    assert point.psnr == pytest.approx(psnr)
    assert point.psnr_pooled == pytest.approx(psnr - gap)
  line = pub.table([published(VTM, each), ours]).splitlines()[-1]
  same, pooled, _ = (cell.strip() for cell in line.split('|')[4:7])
  assert float(same) == pytest.approx(0, abs=0.1)
  # 2 dB are a factor of 2 in bits
  assert float(pooled) == pytest.approx(100 * (2 ** (gap / 2) - 1), abs=0.1)


def test_comparisons_count_where_the_training_is_known():
  """A learned codec of a comparison, under its configuration and preset."""
  one = comparison(POINTS)
  assert '| **codax, `configs/v.py:codec`** | file | -50.0 |' in pub.table(
    [published(VTM), one]
  )
  fast = {**one, 'request': {'preset': 'fast'}}
  assert '`configs/v.py:codec --preset=fast`' in pub.table([published(VTM), fast])
  assert pub.ours([{**one, 'trainings': {}}]) == []
  assert pub.ours([{**one, 'name': 'bsds'}]) == []


def test_headline_has_at_most_ten_rows():
  names = ('C3', 'Cool-Chic 5.0.1', 'WebP', 'JPEG', 'JPEG XL, effort 7')
  more = [{**VTM, 'codec': name} for name in (*names, 'HEVC', 'GaussianImage')]
  ours = [over_kodak(POINTS, f'kodak_{i}') for i in range(5)]
  lines = pub.headline([published(VTM, *more), *ours]).splitlines()
  assert len(lines) == 12 and sum('codax' in line for line in lines) == 5
  assert 'HEVC' not in ' '.join(lines)
  wanted = 30 + 2 * math.log(0.28 / 0.2) / math.log(2)
  assert f'| file | {wanted:.2f} | +0.0 |' in lines[2]
  few = pub.headline([published(VTM), over_kodak(POINTS)])
  assert len(few.splitlines()) == 4


def test_sizes_that_others_have_published_are_compared_at():
  """Linear in log size: halfway between 0.1 and 0.4 bits is 0.2."""
  one = {'codec': 'GaussianImage', 'kind': 'formula', 'source': 's'}
  one['points'] = [[0.05, 20.0], [0.2, 25.0]]
  webp = {'codec': 'WebP', 'kind': 'file', 'source': 's', 'points': [[0.2, 29.0]]}
  found = [published(one, webp), kodak([(0.1, 30.0), (0.4, 34.0)])]
  lines = pub.published_sizes(found).splitlines()
  assert lines[2:] == ['| 0.2 | 25.00 | 32.00 | +7.00 | 29.00 |']
  assert pub.published_sizes(found[:1]) == ''
  # a family that names no rival has no such table
  assert pub.published_sizes([found[0], over_kodak(POINTS)]) == ''


def test_plot_has_the_numbers_of_the_results(tmp_path):
  found = [kodak([(0.1, 30.0), (0.4, 34.0)])]
  path = tmp_path / 'kodak.png'
  assert pub.is_stale(path, found) and not pub.is_stale(path, [])
  path.write_bytes(pub.draw(found))
  assert not pub.is_stale(path, found)
  assert pub.is_stale(path, [kodak([(0.1, 30.0), (0.4, 34.1)])])


def test_published_figures_of_every_image_have_the_published_means():
  """Cool-Chic 5.0.1, of which both are published, and its BD-rate."""
  curves = pub.others(store.load_all(script('tables').ROOT / 'results'))
  curve = next(c for c in curves if c.name == 'Cool-Chic 5.0.1')
  assert [(round(p.bpp, 4), round(p.psnr, 3)) for p in curve.points] == [
    (0.0839, 27.435), (0.2186, 30.859), (0.4819, 34.521), (0.7594, 37.247),
    (1.3571, 41.167),
  ]  # fmt: skip
  vtm = next(c for c in curves if c.name == 'VTM')
  assert pub._change(vtm, curve) == pytest.approx(-6.6, abs=0.05)
  assert not any(c.name == 'Cool-Chic 5.0' for c in curves)
