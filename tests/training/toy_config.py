"""A configuration file for `launch/train.py` in tests."""

import os

import toy_task

from codax import errors


def get_config(arg=''):
  if arg not in ('', 'more'):
    raise errors.unknown('argument of this configuration', arg, ['more'])
  config = toy_task.config(total_steps=10 if arg else 6, checkpoint_every=2)
  config.data = {
    'name': 'folder',
    'path': os.environ.get('TOY_IMAGES', ''),
    'test_fraction': 0.3,
    'batch_size': 8,
    'crop': 8,
    'skip_bad': False,
    'max_resident_mb': 512.0,
  }
  config.report_images = 2
  return config
