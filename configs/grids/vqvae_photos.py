"""EMA against Blahut–Arimoto at equal budget: placeholder."""

from codax.sweeps import Grid, Setting


def get_grid() -> Grid:
  return Grid([Setting('ema', 'configs/vqvae_ema.py', {'total_steps': 1200})])
