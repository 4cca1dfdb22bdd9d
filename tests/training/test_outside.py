"""An image outside the training set: what is written, what is measured, errors."""

import jax.numpy as jnp
import numpy as np
import pytest
import toy_task
from PIL import Image

from codax.data import embedded
from codax.data.sources import Source
from codax.errors import CodaxError
from codax.training import loop, outside, plots, settings, writers


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
  monkeypatch.setattr(plots, 'curves', lambda *_, **__: None)


def _task(cfg):
  """The toy task, whose images are drawn darker in every step, at any size."""
  task = toy_task.make(cfg)

  def draw(state, batch):
    dark = batch['image'] // (1 + state.step.astype('uint8'))
    return jnp.concatenate([batch['image'], dark], axis=2)

  return task._replace(images=draw)


def _train(workdir, path, total_steps=6, **changes):
  cfg = toy_task.config(
    total_steps=total_steps, log_every=2, eval_every=0, checkpoint_every=2,
    outside_image=str(path), outside_every=2, outside_size=64, **changes,
  )  # fmt: skip
  return loop.train(_task(cfg), toy_task.resident(), [], cfg, workdir)


@pytest.fixture(scope='module')
def image(tmp_path_factory):
  """A file of 100 x 70 pixels: 64 x 32 of it are shown."""
  path = tmp_path_factory.mktemp('image') / 'outside.png'
  ramp = np.linspace(0, 255, 100)[None, :, None] * np.ones((70, 1, 3))
  Image.fromarray(np.uint8(ramp * [1, 0.5, 0.25])).save(path)
  return path


@pytest.fixture(scope='module')
def unbroken(tmp_path_factory, image):
  workdir = tmp_path_factory.mktemp('unbroken')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(plots, 'curves', lambda *_, **__: None)
    _train(workdir, image)
  return workdir


def test_reconstructions_gallery_and_metrics_are_kept(unbroken, image):
  names = sorted(p.name for p in (unbroken / 'outside').iterdir())
  assert names == [f'step_00000{n}.png' for n in (2, 4, 6)]
  original = outside.fit(outside.read(str(image)), 64, '')
  assert original.shape == (32, 64, 3)
  with Image.open(unbroken / 'outside' / names[1]) as drawn:
    np.testing.assert_array_equal(np.asarray(drawn), original // 5)
  with Image.open(unbroken / 'outside.png') as gallery:
    assert gallery.size == (4 * 66 - 2, 32 + 14)
  rows = [r for r in writers.read(unbroken / 'metrics.jsonl') if 'outside/psnr' in r]
  assert [r['step'] for r in rows] == [2, 4, 6]
  for row in rows:
    assert row['outside/chroma_ratio'] == pytest.approx(1 / (row['step'] + 1), abs=0.02)
    assert row['outside/color_max/red'] == original[..., 0].max() // (row['step'] + 1)
  sizes = [r['outside/webp_bytes'] for r in rows]
  assert sizes[0] > sizes[-1] > 0


def test_resumed_run_writes_the_same_and_drops_what_came_after(
  unbroken, image, tmp_path
):
  with pytest.raises(CodaxError, match='non-finite loss'):
    _train(tmp_path, image, nan_at=5)
  (tmp_path / 'config.json').write_bytes((unbroken / 'config.json').read_bytes())
  late = tmp_path / 'outside' / 'step_000005.png'
  plots.save_png(late, np.zeros((9, 9, 3), np.uint8))
  _train(tmp_path, image)
  for name in ('metrics.jsonl', 'outside.png', 'outside/step_000006.png'):
    assert (tmp_path / name).read_bytes() == (unbroken / name).read_bytes()
  assert not late.exists()


def test_equal_image_has_finite_metrics_and_a_pale_one_a_small_ratio(image):
  original = outside.read(str(image))
  same = outside.measure(original, original)
  assert same['chroma_ratio'] == 1 and same['webp_ratio'] == 1
  assert np.isfinite(list(same.values())).all() and same['psnr'] > 90
  grey = np.uint8(original.mean(-1, keepdims=True) * np.ones(3))
  pale = outside.measure(original, grey)
  assert pale['chroma_ratio'] < 0.01 and pale['psnr_luma'] > pale['psnr_chroma']


def test_gallery_of_many_steps_keeps_the_first_and_last(tmp_path):
  steps = []
  for i in range(40):
    path = tmp_path / f'{i}.png'
    Image.fromarray(np.full((32, 64, 3), i, np.uint8)).save(path)
    steps.append((i, path))
  gallery = outside.draw_gallery(np.full((32, 64, 3), 255, np.uint8), steps)
  assert gallery.shape == (4 * 48 - 2, 6 * 66 - 2, 3)
  assert gallery[20, 70].tolist() == [0] * 3 and gallery[-1, -1].tolist() == [39] * 3


def test_images_that_cannot_be_shown_are_one_line(image, tmp_path):
  train = list(embedded.PHOTOS_TRAIN[:2])
  source = Source(train, lambda i: {})
  check = lambda name, data: outside._check_unseen(name, data, source)
  with pytest.raises(CodaxError, match='coffee is trained on'):
    check('coffee', {'name': 'photos'})
  check('astronaut', {'name': 'photos'})
  check('coffee', {'name': 'folder', 'path': str(tmp_path)})
  folder = {'name': 'folder', 'path': str(image.parent)}
  with pytest.raises(CodaxError, match='is trained on'):
    outside._check_unseen(str(image), folder, Source([image.name], lambda i: {}))
  with pytest.raises(CodaxError, match='neither a file nor an embedded photo.*astr'):
    outside.read('astronout')
  with pytest.raises(CodaxError, match='tiny has 31x40 pixels .* 32 a side or more'):
    outside.fit(np.zeros((40, 31, 3), np.uint8), 64, 'tiny')
  for changes, text in (
    ({'outside_image': 3}, 'outside_image is 3; valid: a name'),
    ({'outside_size': 31}, 'outside_size is 31; valid: 32'),
    ({'outside_every': -1}, 'outside_every is -1'),
  ):
    with pytest.raises(CodaxError, match=text):
      settings.read(toy_task.config().to_dict() | changes)
  cfg = toy_task.config(outside_image=str(image))
  task = toy_task.make(cfg)._replace(images=None)
  with pytest.raises(CodaxError, match='draws no reconstructions'):
    loop.train(task, toy_task.resident(), [], cfg, tmp_path)


def test_other_pixels_under_the_name_are_another_run(unbroken, image, tmp_path):
  other = tmp_path / 'other.png'
  Image.new('RGB', (64, 64), 'red').save(other)
  kept = image.read_bytes()
  image.write_bytes(other.read_bytes())
  try:
    with pytest.raises(CodaxError, match='image outside the training set changed'):
      _train(unbroken, image)
  finally:
    image.write_bytes(kept)
