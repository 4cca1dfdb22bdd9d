"""Checkpoints: exact to the bit, every damage named, never half a step."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codax.errors import CodaxError
from codax.training import checkpoints, mesh


def _state(seed=0):
  rng = np.random.default_rng(seed)
  return {
    'step': jnp.int32(7),
    'w': {'a.b': jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)},
    'half': jnp.asarray(rng.normal(size=5), jnp.bfloat16),
    'odd': (jnp.array([-0.0, 1e-45, 3.4e38]), jnp.array(True), jnp.uint8(200)),
    'zeros': jnp.zeros((2, 2)),
    'empty': jnp.zeros((0, 3), jnp.int32),
    'none': None,
  }


def _same(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    x, y = np.asarray(x), np.asarray(y)
    assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())


def _load(directory, step):
  return checkpoints.load(directory, step, jax.eval_shape(_state), mesh.make())


@pytest.fixture(scope='module')
def saved(tmp_path_factory):
  directory = tmp_path_factory.mktemp('c') / 'checkpoints'
  for step in (5, 10, 100):
    checkpoints.save(directory, step, _state(step), keep=2)
  return directory


@pytest.fixture
def copy(saved, tmp_path):
  """A copy that a test may damage."""
  import shutil

  return shutil.copytree(saved, tmp_path / 'checkpoints')


def test_checkpoint_restores_every_bit_and_the_newest_are_kept(saved):
  assert checkpoints.steps(saved) == [10, 100]
  assert not (saved / '5').exists()
  assert checkpoints.newest(saved) == 100
  _same(_load(saved, 100), _state(100))
  _same(_load(saved, 10), _state(10))


def test_damage_of_every_file_is_found(copy):
  files = [p for p in (copy / '100').rglob('*') if p.is_file()]
  assert len(files) > 5
  for path in files:
    good = path.read_bytes()
    for damaged in (bytes([*good[:-1], good[-1] ^ 64]), good[:-1], good + b'x', b''):
      path.write_bytes(damaged)
      reason = checkpoints.damage(copy, 100)
      # A manifest may gain white space; nothing else.
      if not (path.name == checkpoints.MANIFEST and damaged[:-1].strip() in good):
        assert reason is not None and path.name in reason, (path, len(damaged))
    path.unlink()
    if path.name == checkpoints.MANIFEST:
      assert checkpoints.steps(copy) == [10]
    else:
      assert path.name in checkpoints.damage(copy, 100)
      assert checkpoints.newest(copy) == 10
      with pytest.raises(CodaxError, match='100 is damaged'):
        _load(copy, 100)
    path.write_bytes(good)
  assert checkpoints.damage(copy, 100) is None


def test_manifest_of_another_step_is_damage(copy):
  manifest = (copy / '10' / checkpoints.MANIFEST).read_bytes()
  (copy / '100' / checkpoints.MANIFEST).write_bytes(manifest)
  assert 'does not match its own hash' in checkpoints.damage(copy, 100)


def test_unfinished_steps_do_not_count_and_are_cleared(copy):
  (copy / '100' / checkpoints.MANIFEST).unlink()
  (copy / '200.orbax-checkpoint-tmp').mkdir()
  (copy / '200.orbax-checkpoint-tmp' / 'x').write_text('half')
  assert checkpoints.newest(copy) == 10
  checkpoints.discard_after(copy, 10)
  assert [p.name for p in copy.iterdir()] == ['10']
  checkpoints.save(copy, 100, _state(100), keep=2)
  _same(_load(copy, 100), _state(100))


def test_save_over_a_damaged_step_replaces_it(copy):
  (copy / '100' / 'manifest.ocdbt').write_bytes(b'rot')
  checkpoints.save(copy, 100, _state(1), keep=2)
  _same(_load(copy, 100), _state(1))


def test_directory_without_checkpoints_has_no_newest(tmp_path):
  assert checkpoints.newest(tmp_path / 'none') is None
  assert checkpoints.steps(tmp_path / 'none') == []
  checkpoints.discard_after(tmp_path / 'none', 0)


def test_restore_into_another_structure_is_named(saved):
  target = jax.eval_shape(_state)
  for change, text in (
    ({'half': jax.ShapeDtypeStruct((6,), jnp.bfloat16)}, r'half is bfloat16\[5\] '),
    ({'new': jax.ShapeDtypeStruct((), jnp.float32)}, 'new is missing there and '),
  ):
    with pytest.raises(CodaxError, match=text):
      checkpoints.load(saved, 100, {**target, **change}, mesh.make())
  with pytest.raises(CodaxError, match=r'zeros is float32\[2,2\] there and missing '):
    del target['zeros']
    checkpoints.load(saved, 100, target, mesh.make())


def test_full_disk_is_one_line_and_leaves_what_was_there(copy, monkeypatch):
  usage = type('Usage', (), {'free': 10})
  monkeypatch.setattr('shutil.disk_usage', lambda _: usage)
  with pytest.raises(CodaxError, match='cannot save the checkpoint .*no space'):
    checkpoints.save(copy, 300, _state(), keep=1)
  assert checkpoints.newest(copy) == 100


def test_disk_that_fills_while_writing_is_one_line(copy, monkeypatch):
  def full(*_):
    raise ValueError('RESOURCE_EXHAUSTED: Error writing "d/1": No space left on device')

  monkeypatch.setattr('orbax.checkpoint.StandardCheckpointer.save', full)
  with pytest.raises(CodaxError, match='No space left'):
    checkpoints.save(copy, 300, _state(), keep=1)
  assert checkpoints.newest(copy) == 100


def test_manifest_lists_leaves(saved):
  manifest = json.loads((saved / '100' / checkpoints.MANIFEST).read_text())
  assert manifest['leaves']['half'] == 'bfloat16[5]'
  assert manifest['leaves']['empty'] == 'int32[0,3]'
