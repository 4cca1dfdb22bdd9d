"""A configuration of the toy classifier."""

import toy_config


def get_config():
  config = toy_config.get_config()
  config.family = 'toy_classifier'
  config.total_steps = 200
  config.log_every = config.eval_every = config.checkpoint_every = 100
  return config
