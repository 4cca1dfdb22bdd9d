"""Dense peaks of accelerators, for the share of them that a program reaches."""

import re

# Dense peak in TFLOP/s by the first words of the device's name, for products in
# (float32, TensorFloat-32, bfloat16); 0 is 'has none'. From the makers' data sheets.
# The longest match counts.
PEAKS = {
  'NVIDIA A100': (19.5, 156, 312),
  'NVIDIA H100': (67, 494.7, 989.4),
  'NVIDIA H100 PCIe': (51, 378, 756),
  'NVIDIA H100 NVL': (60, 417.5, 835.5),
  'NVIDIA H200': (67, 494.7, 989.4),
  'NVIDIA L4': (30.3, 60, 121),
  'Tesla T4': (8.1, 0, 0),
  'Tesla V100': (15.7, 0, 0),
  'TPU v4': (0, 0, 275),
  'TPU v5': (0, 0, 459),
  'TPU v5p': (0, 0, 459),
  'TPU v5 lite': (0, 0, 197),
  'TPU v5e': (0, 0, 197),
  'TPU v6 lite': (0, 0, 918),
  'TPU v6e': (0, 0, 918),
}


def peak_flops(kind: str, precision: str) -> float | None:
  """Returns the dense peak of a device kind in FLOP/s, None where it is not known.

  By default JAX multiplies float32 numbers in TensorFloat-32 on GPUs that have it, and
  in bfloat16 on TPUs, which have nothing else: there the peak is always bfloat16's.
  """
  names = [name for name in PEAKS if re.match(rf'{re.escape(name)}(?!\w)', kind)]
  if not names:
    return None
  float32, tensorfloat32, bfloat16 = PEAKS[max(names, key=len)]
  if kind.startswith('TPU'):
    peak = bfloat16
  elif precision == 'default':
    peak = tensorfloat32 or float32
  else:
    peak = {
      'float32': float32, 'tensorfloat32': tensorfloat32, 'bfloat16': bfloat16
    }[precision]  # fmt: skip
  return peak * 1e12 or None
