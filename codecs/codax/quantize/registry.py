"""Names of the quantizers and their modules, imported when asked for."""

REGISTRY = {
  'blahut_arimoto': 'codax.quantize.blahut_arimoto',
  'ba_reference': 'codax.quantize.ba_reference',
  'vq': 'codax.quantize.vq',
  'vq_ema': 'codax.quantize.vq_ema',
  'ema_reference': 'codax.quantize.ema_reference',
  'fsq': 'codax.quantize.fsq',
}
