r"""Classifiers with KAN heads, on digits or on CIFAR-10.

  python launch/train.py --config=configs/rapid_kan.py
  python launch/train.py --config=configs/rapid_kan.py:variant=rapid_kan \
      --config.data.data_dir=DIR

Without an argument: scikit-learn's digits (`pip install .[scikit-learn]`), a minute of
two CPU cores. With one, a model of the guide at the guide's settings on CIFAR-10 by
TensorFlow Datasets: rapid_kan, rapid_kan_lite, rapid_kan_power, memory_safe_kan,
fast_exact_kan, standard_kan, mlp or cnn.
"""

from codax.classify import defaults


def get_config(argument=''):
  config = defaults.get(argument)
  # ------------------------------------------------------------------- What to change
  # config.model.basis = 'rbf'              # or 'chebyshev'
  # config.training.grid_update_prob = 0.1  # grids of B-splines move to their inputs
  #
  # The same widths without splines; no learning rate may be that of KAN layers then:
  # config.model.head = 'mlp'
  # config.optimizer.groups = (('^front', 1.0), ('.', 1.5))
  return config
