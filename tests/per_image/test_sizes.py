"""Images of many sizes in one process: few programs for each, and bounded memory."""

import subprocess
import sys

import pytest

LOOP = """
import sys
import numpy as np
import codax

def resident():
  with open('/proc/self/status') as lines:
    found = next(line for line in lines if line.startswith('VmRSS'))
  return int(found.split()[1]) / 1024

rng, sizes = np.random.default_rng(0), []
for i in range(12):
  height, width = 96 + 7 * i, 180 - 5 * i
  noise = rng.normal(0, 8, (height, width, 3))
  slope = np.linspace(0, 255, width)[None, :, None]
  image = np.uint8(np.clip(slope + noise, 0, 255))
  data = codax.encode(image, sys.argv[1], seconds=1)
  assert codax.decode(data).shape == image.shape
  sizes.append(resident())
print(*map(round, sizes))
assert sizes[-1] - sizes[2] < 150, sizes
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
@pytest.mark.parametrize('codec', ['overfit', 'splat'])
def test_memory_of_twelve_sizes_stays_bounded(codec):
  command = [sys.executable, '-c', LOOP, codec]
  done = subprocess.run(command, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
