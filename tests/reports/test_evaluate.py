"""launch/evaluate.py: its numbers are those of the files, its errors are one line."""

import importlib.util
import json
import math
import pathlib

import numpy as np
import pytest
from PIL import Image

from codax import errors, families
from codax.baselines import codec as baselines
from codax.metrics import distortion, rate
from codax.reports import store
from codax.reports.comparisons import Point

LAUNCH = pathlib.Path(__file__).parents[2] / 'launch' / 'evaluate.py'


@pytest.fixture(scope='module')
def evaluate():
  spec = importlib.util.spec_from_file_location('evaluate', LAUNCH)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


@pytest.fixture
def folder(tmp_path):
  """A colour image, a grey one in a subfolder, and a text file."""
  rng = np.random.default_rng(0)
  y, x = np.mgrid[:40, :44]
  smooth = 120 + 90 * np.sin(x / 6.0 + y / 9.0)[..., None] * np.array([1.0, 0.6, -0.8])
  colour = np.clip(smooth + 9 * rng.standard_normal((40, 44, 3)), 0, 255)
  (tmp_path / 'in' / 'sub').mkdir(parents=True)
  Image.fromarray(colour.astype(np.uint8)).save(tmp_path / 'in' / 'colour.png')
  Image.fromarray(colour[:9, :, 0].astype(np.uint8)).save(
    tmp_path / 'in' / 'sub' / 'grey.png'
  )
  (tmp_path / 'in' / 'notes.txt').write_text('x')
  return tmp_path / 'in'


def _run(evaluate, folder, *args):
  out = folder.parent / 'out'
  status = evaluate.main([f'--images={folder}', f'--out={out}', *args])
  assert status == 0
  return json.loads((out / 'results.json').read_text()), out


def test_rows_are_the_files_own_numbers(evaluate, folder, capsys):
  results, out = _run(
    evaluate, folder, '--codecs=jpeg,webp', '--qualities=10,40,70,95', '--seed=3'
  )
  rows = results['rows']
  assert len(rows) == 2 * 2 * 4
  assert {row['image'] for row in rows} == {'colour.png', 'sub/grey.png'}
  image = np.asarray(Image.open(folder / 'colour.png'))
  for row in rows:
    assert row['decoded_as_encoded']
    if row['image'] == 'colour.png' and row['codec'] == 'jpeg':
      encoded = baselines.at_quality('jpeg', int(row['point'][1:])).encode(image)
      assert row['bytes'] == len(encoded.data)
      assert row['bpp'] == 8 * row['bytes'] / (40 * 44)
      assert row['psnr'] == distortion.psnr(image, encoded.reconstruction)
      assert row['ssim'] == distortion.ssim(image, encoded.reconstruction)
  grey = [row for row in rows if row['image'] == 'sub/grey.png']
  # 9 pixels high: no SSIM window fits, and JSON has null and no NaN.
  assert all(row['channels'] == 1 and row['ssim'] is None for row in grey)
  text = capsys.readouterr().out
  assert (out / 'table.md').read_text() in text and 'mean of 2' in text
  with Image.open(out / 'rd.png') as im:
    assert im.format == 'PNG' and im.width > 300
  assert results['command'].startswith('python launch/evaluate.py')
  assert '--seed=3' in results['command']
  assert 'numpy' in results['versions'] and results['hardware']['cores'] >= 1


def test_means_and_bd_rate_are_of_the_rows(evaluate, folder):
  results, _ = _run(
    evaluate, folder, '--codecs=jpeg,jpeg420', '--qualities=10,30,50,70,90'
  )
  rows = results['rows']
  for mean in results['means']:
    mine = [r for r in rows if all(r[k] == mean[k] for k in ('codec', 'point'))]
    assert len(mine) == 2
    assert mean['image'] == 'mean of 2' and mean['images'] == 2
    for key in ('bytes', 'bpp', 'psnr', 'encode_s', 'decode_s'):
      assert mean[key] == pytest.approx(np.mean([r[key] for r in mine]))
    assert mean['ssim'] == next(r['ssim'] for r in mine if r['ssim'] is not None)
    samples = [r['height'] * r['width'] * r['channels'] for r in mine]
    pooled = np.dot(samples, [r['mse'] for r in mine]) / sum(samples)
    assert mean['psnr_pooled'] == pytest.approx(10 * math.log10(255**2 / pooled))
  curve = lambda name: zip(
    *[(m['bpp'], m['psnr']) for m in results['means'] if m['codec'] == name]
  )
  expected = rate.bd_rate(*curve('jpeg'), *curve('jpeg420'))
  assert results['bd_rate']['jpeg420']['percent'] == pytest.approx(expected)
  assert 0 <= results['bd_rate']['jpeg420']['overlap'] <= 1


def test_evaluation_at_bpp_targets_with_few_points_has_no_bd_rate(
  evaluate, folder, capsys
):
  results, _ = _run(evaluate, folder, '--codecs=jpeg,webp', '--bpps=4,6')
  assert [m['point'] for m in results['means']] == ['bpp 4', 'bpp 6'] * 2
  for row in results['rows']:
    wanted = float(row['point'].split()[1])
    assert (row['target_missed'] is None) == (abs(row['bpp'] / wanted - 1) <= 0.03)
    if row['image'] == 'colour.png':
      assert row['bpp'] == pytest.approx(wanted, rel=0.08)
  assert 'needs 4 rising points' in results['bd_rate']['webp']['reason']
  assert 'BD-rate of webp against jpeg: none' in capsys.readouterr().out


def test_evaluation_of_one_file_has_its_rows(evaluate, folder):
  results, _ = _run(evaluate, folder / 'colour.png', '--codecs=jpeg', '--qualities=50')
  assert [row['image'] for row in results['rows']] == ['colour.png']
  assert results['bd_rate'] == {}


def test_image_that_an_encoder_refuses_is_named(evaluate, folder, monkeypatch):
  def refuse(image, *, progress=None, should_stop=None):
    raise errors.CodaxError('bpp 0.1 is out of reach')

  points = lambda args: [
    Point('jpeg', 'bpp 0.1', families.get('jpeg')._replace(encode=refuse))
  ]
  monkeypatch.setattr(evaluate, 'make_points', points)
  with pytest.raises(errors.CodaxError, match='^colour.png with jpeg: bpp 0.1 is out'):
    _run(evaluate, folder, '--codecs=jpeg')


def test_target_out_of_reach_costs_no_other_row(evaluate, folder, monkeypatch, capsys):
  """The rows before and after it stay; its point has no mean, so no part in BD-rate."""
  jpeg = families.get('jpeg')

  def refuse_grey(image, *, progress=None, should_stop=None):
    if image.shape[-1] == 1:
      raise errors.OutOfReach('bpp 0.1 is out of reach: it reaches 0.2 to 0.3 bpp')
    return jpeg.encode(image)

  points = lambda args: [
    Point('jpeg', 'bpp 0.1', jpeg._replace(encode=refuse_grey)),
    Point('jpeg', 'bpp 9', jpeg),
  ]
  monkeypatch.setattr(evaluate, 'make_points', points)
  results, out = _run(evaluate, folder, '--codecs=jpeg')
  found = [(row['image'], row['point']) for row in results['rows']]
  assert found == [
    ('colour.png', 'bpp 0.1'),
    ('colour.png', 'bpp 9'),
    ('sub/grey.png', 'bpp 9'),
  ]
  assert [mean['point'] for mean in results['means']] == ['bpp 9']
  (miss,) = results['missed']
  assert miss['image'] == 'sub/grey.png' and '0.2 to 0.3' in miss['reason']
  assert 'not met: sub/grey.png with jpeg: bpp 0.1' in capsys.readouterr().err
  assert (out / 'table.md').exists() and (out / 'rd.png').exists()


def test_where_no_target_is_met_the_first_reason_is_the_error(
  evaluate, folder, monkeypatch
):
  def refuse(image, *, progress=None, should_stop=None):
    raise errors.OutOfReach('bpp 0.1 is out of reach')

  jpeg = families.get('jpeg')._replace(encode=refuse)
  points = lambda args: [Point('jpeg', 'bpp 0.1', jpeg)]
  monkeypatch.setattr(evaluate, 'make_points', points)
  with pytest.raises(errors.CodaxError, match='no target was met: colour.png'):
    _run(evaluate, folder, '--codecs=jpeg')


def test_learned_codecs_take_lmbdas_and_their_model(evaluate, monkeypatch):
  asked = []
  get = families.get

  def spy(name, *, model=None, options):
    if name != 'vqvae':
      return get(name, model=model, options=options)
    asked.append((model, options))
    return baselines.at_quality('jpeg', 50)

  monkeypatch.setattr(families, 'get', spy)
  monkeypatch.setattr('codax.bundle.load', lambda path: f'bundle of {path}')
  base = ['--photos', '--preset=fast', '--seed=5']
  points = evaluate.make_points(
    evaluate.parse([*base, '--codecs=vqvae:runs/a', '--lmbdas=0.01,0.02', '--bpps=0.5'])
  )
  assert [(p.label, p.setting) for p in points] == [
    ('vqvae:runs/a', s) for s in ('lmbda 0.01', 'lmbda 0.02', 'bpp 0.5')
  ]
  assert {model for model, _ in asked} == {'bundle of runs/a'}
  assert [(o.lmbda, o.bpp, o.preset, o.seed) for _, o in asked] == [
    (0.01, None, 'fast', 5),
    (0.02, None, 'fast', 5),
    (None, 0.5, 'fast', 5),
  ]
  points = evaluate.make_points(evaluate.parse([*base, '--codecs=vqvae:runs/a,jpeg']))
  assert [p.setting for p in points if p.label == 'vqvae:runs/a'] == ['default']
  assert len(points) == 1 + len(evaluate.QUALITIES)


def test_photos_are_the_held_out_ones(evaluate):
  found = evaluate.list_images(evaluate.parse(['--photos', '--codecs=jpeg']))
  assert found[0].name == 'astronaut' and found[0].load().shape == (512, 512, 3)


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    (['--codecs=jpg'], "did you mean 'jpeg'"),
    (['--codecs=vqvae:runs/none'], 'runs/none'),
    (['--codecs=jpeg', '--qualities=0'], 'valid: 1..100'),
    (['--codecs=jpeg', '--qualities='], 'no operating point'),
    (['--codecs=jpeg', '--reference=webp'], "unknown reference codec 'webp'"),
    (['--codecs=jpeg', '--preset=quick'], "unknown preset 'quick'"),
    (['--codecs=,'], 'names no codec'),
    (['--codecs=jpeg', '--qualities=x'], 'argument --qualities'),
    (['--codecs=jpeg', '--images=/nowhere/at/all'], 'no such directory'),
    (['--codecs=jpeg:runs/x'], 'takes no model'),
  ],
)
def test_bad_requests_end_with_one_line_and_status_2(
  evaluate, folder, capsys, args, message
):
  args = [f'--images={folder}', f'--out={folder.parent / "out"}', *args]
  if '/nowhere' in args[-1]:
    del args[0]
  try:
    status = errors.exit_status(lambda: evaluate.main(args))
  except SystemExit as e:  # argparse
    status = e.code
  assert status == 2
  err = capsys.readouterr().err
  assert message in err and err.count('\n') == 1
  assert not (folder.parent / 'out').exists()


def test_bad_images_are_all_named_before_any_work(evaluate, folder, capsys):
  """Broken headers and floating-point pixels: one line, nothing measured or written."""
  (folder / 'broken.png').write_bytes(b'\x89PNG')
  Image.fromarray(np.zeros((9, 9), np.float32)).save(folder / 'float.tif')
  args = [f'--images={folder}', '--codecs=jpeg', f'--out={folder.parent / "out"}']
  assert errors.exit_status(lambda: evaluate.main(args)) == 2
  err = capsys.readouterr().err
  assert 'broken.png' in err and 'float.tif: floating-point' in err
  assert err.count('\n') == 1
  assert not (folder.parent / 'out').exists()


def cut(folder):
  """Writes an image with a sound header and half of its content."""
  whole = (folder / 'colour.png').read_bytes()
  (folder / 'zz.png').write_bytes(whole[: len(whole) // 2])


def test_truncated_image_refuses_the_work_or_is_passed_over(evaluate, folder, capsys):
  """It is named before the work, or at the end; means are of the others."""
  cut(folder)
  out = folder.parent / 'out'
  args = [f'--images={folder}', '--codecs=jpeg', '--qualities=50', f'--out={out}']
  assert errors.exit_status(lambda: evaluate.main(args)) == 2
  err = capsys.readouterr().err
  assert 'zz.png: ' in err and '--skip-bad passes over bad images' in err
  assert not out.exists()
  assert errors.exit_status(lambda: evaluate.main([*args, '--skip-bad'])) == 0
  captured = capsys.readouterr()
  assert 'note: passed over: ' in captured.err and 'zz.png: ' in captured.err
  results = store.load(out / 'results.json', 'comparison')
  assert [row['image'] for row in results['rows']] == ['colour.png', 'sub/grey.png']
  assert [one['image'] for one in results['passed_over']] == ['zz.png']
  assert results['means'][0]['image'] == 'mean of 2' and results['is_complete']


def test_image_damaged_meanwhile_costs_no_other_row(
  evaluate, folder, capsys, monkeypatch
):
  """It is named at the end, with status 2; means are of the images that are left."""
  (folder / 'zz.png').write_bytes((folder / 'colour.png').read_bytes())
  jpeg = families.get('jpeg')

  def cut_and_encode(image, *, progress=None, should_stop=None):
    cut(folder)
    return jpeg.encode(image)

  points = [Point('jpeg', 'default', jpeg._replace(encode=cut_and_encode))]
  monkeypatch.setattr(evaluate, 'make_points', lambda args: points)
  out = folder.parent / 'out'
  args = [f'--images={folder}', '--codecs=jpeg', f'--out={out}']
  assert errors.exit_status(lambda: evaluate.main(args)) == 2
  captured = capsys.readouterr()
  assert 'passed over' in captured.err and 'zz.png' in captured.err
  results = store.load(out / 'results.json', 'comparison')
  assert [row['image'] for row in results['rows']] == ['colour.png', 'sub/grey.png']
  assert [one['image'] for one in results['passed_over']] == ['zz.png']
  assert results['means'][0]['image'] == 'mean of 2' and results['is_complete']
  assert (out / 'table.md').read_text() in captured.out


@pytest.mark.parametrize(
  'error', [errors.CodaxError, KeyboardInterrupt, ZeroDivisionError]
)
def test_rows_before_an_error_are_kept(evaluate, folder, monkeypatch, error):
  jpeg = families.get('jpeg')

  def refuse_grey(image, *, progress=None, should_stop=None):
    if image.shape[-1] == 1:
      raise error('no grey')
    return jpeg.encode(image)

  points = lambda args: [
    Point('jpeg', 'default', jpeg._replace(encode=refuse_grey)),
  ]
  monkeypatch.setattr(evaluate, 'make_points', points)
  with pytest.raises(error, match='no grey'):
    _run(evaluate, folder, '--codecs=jpeg')
  results = store.load(folder.parent / 'out' / 'results.json', 'comparison')
  assert [row['image'] for row in results['rows']] == ['colour.png']
  assert not results['is_complete'] and results['means'] == []
  if error is KeyboardInterrupt:
    expected = {'image': 'sub/grey.png', 'codec': 'jpeg', 'point': 'default'}
    assert results['interrupted'] == expected


def test_image_that_an_encoder_refuses_is_passed_over_if_asked(
  evaluate, folder, monkeypatch, capsys
):
  """The other codec's rows of it stay; the point has no mean."""
  jpeg = families.get('jpeg')

  def refuse_grey(image, *, progress=None, should_stop=None):
    if image.shape[-1] == 1:
      raise errors.CodaxError('training diverged 4 times')
    return jpeg.encode(image)

  points = [
    Point('jpeg', 'default', jpeg._replace(encode=refuse_grey)),
    Point('webp', 'default', families.get('webp')),
  ]
  monkeypatch.setattr(evaluate, 'make_points', lambda args: points)
  results, _ = _run(evaluate, folder, '--codecs=jpeg,webp', '--skip-bad')
  found = [(row['image'], row['codec']) for row in results['rows']]
  assert found == [
    ('colour.png', 'jpeg'),
    ('colour.png', 'webp'),
    ('sub/grey.png', 'webp'),
  ]
  (one,) = results['passed_over']
  assert (one['image'], one['codec']) == ('sub/grey.png', 'jpeg')
  assert [mean['codec'] for mean in results['means']] == ['webp']
  assert 'passed over: sub/grey.png with jpeg: training div' in capsys.readouterr().err


def count_calls(evaluate, monkeypatch, fail_at=None):
  """Counts the encodings of `--codecs=jpeg`; one of them is interrupted."""
  calls, jpeg = [], families.get('jpeg')

  def encode(image, *, progress=None, should_stop=None):
    calls.append(image.shape)
    if len(calls) == fail_at:
      raise KeyboardInterrupt
    return jpeg.encode(image)

  points = [Point('jpeg', f'q{q}', jpeg._replace(encode=encode)) for q in (1, 2)]
  monkeypatch.setattr(evaluate, 'make_points', lambda args: points)
  return calls


def test_finished_rows_are_taken_up_by_the_same_command(
  evaluate, folder, monkeypatch, capsys
):
  """Those of images that are the same; a second interruption costs none of them."""
  run = lambda *args: _run(evaluate, folder, '--codecs=jpeg', *args)
  rows = lambda: store.load(folder.parent / 'out' / 'results.json')['rows']
  calls = count_calls(evaluate, monkeypatch, fail_at=4)
  with pytest.raises(KeyboardInterrupt):
    run()
  first = rows()
  assert len(first) == 3
  monkeypatch.setattr(evaluate.measure, 'row_of', lambda *_, **__: pytest.fail('new'))
  count_calls(evaluate, monkeypatch, fail_at=1)
  with pytest.raises(KeyboardInterrupt):
    run()
  assert rows() == first
  monkeypatch.undo()
  calls = count_calls(evaluate, monkeypatch)
  results, _ = run()
  assert len(calls) == 1 and results['rows'][:3] == first and len(results['rows']) == 4
  assert '3 finished rows of ' in capsys.readouterr().err
  calls = count_calls(evaluate, monkeypatch)  # of complete results nothing is taken
  run()
  assert len(calls) == 4


@pytest.mark.parametrize('change', ['pixels', 'seed'])
def test_rows_of_other_images_or_requests_are_not_taken_up(
  evaluate, folder, monkeypatch, change
):
  count_calls(evaluate, monkeypatch, fail_at=4)
  with pytest.raises(KeyboardInterrupt):
    _run(evaluate, folder, '--codecs=jpeg')
  if change == 'pixels':
    image = np.asarray(Image.open(folder / 'colour.png')).copy()
    image[0, 0, 0] ^= 1
    Image.fromarray(image).save(folder / 'colour.png')
  calls = count_calls(evaluate, monkeypatch)
  _run(evaluate, folder, '--codecs=jpeg', *(['--seed=1'] if change == 'seed' else []))
  assert len(calls) == (3 if change == 'pixels' else 4)


def test_rows_are_saved_while_the_work_goes_on(evaluate, folder, monkeypatch):
  """What a killed process leaves: the rows of the images before, marked."""
  monkeypatch.setattr(evaluate, 'SAVE_EVERY', 0.0)
  path, seen = folder.parent / 'out' / 'results.json', []
  jpeg = families.get('jpeg')

  def look_and_encode(image, *, progress=None, should_stop=None):
    seen.append(store.load(path) if path.is_file() else None)
    return jpeg.encode(image)

  points = [Point('jpeg', 'default', jpeg._replace(encode=look_and_encode))]
  monkeypatch.setattr(evaluate, 'make_points', lambda args: points)
  _run(evaluate, folder, '--codecs=jpeg')
  assert seen[0] is None and not seen[1]['is_complete']
  assert [row['image'] for row in seen[1]['rows']] == ['colour.png']


@pytest.mark.parametrize(
  ('args', 'message'),
  [
    (['--codecs=jpeg', '--lmbdas=0.1'], 'no codec of --codecs has --lmbdas'),
    (['--codecs=overfit', '--qualities=50'], 'no codec of --codecs has --qualities'),
    (['--codecs=jpeg', '--count=300'], '--count is for --probe'),
  ],
)
def test_setting_that_no_codec_has_is_refused(evaluate, folder, args, message):
  with pytest.raises(errors.CodaxError, match=message):
    _run(evaluate, folder, *args)


def test_file_of_nearly_one_color_is_noted(evaluate, folder, capsys):
  faint = np.full((40, 44, 3), 244, np.uint8)
  faint[10:14, 5:30] = 243
  Image.fromarray(faint).save(folder / 'faint.png')
  results, _ = _run(evaluate, folder, '--codecs=jpeg', '--qualities=1')
  gain = {row['image']: row['psnr_above_one_color'] for row in results['rows']}
  best = distortion.psnr_of_one_color(faint)
  row = next(row for row in results['rows'] if row['image'] == 'faint.png')
  assert (
    gain['faint.png'] == pytest.approx(row['psnr'] - best) and gain['faint.png'] < 3
  )
  note = 'note: faint.png with jpeg: the image has become nearly one color'
  assert note in capsys.readouterr().err


def test_estimate_comes_after_the_first_image(evaluate, folder, capsys, monkeypatch):
  from codax.training import progress

  monkeypatch.setattr(progress, '_WARM_UP', 0.0)
  _run(evaluate, folder, '--codecs=jpeg', '--qualities=50')
  assert 'estimate: about ' in capsys.readouterr().err
