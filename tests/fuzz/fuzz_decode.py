"""Fuzzes decoding with atheris, guided by coverage: an error or a picture, in bounds.

    pip install 'codax[fuzz]'
    python tests/fuzz/fuzz_decode.py --seconds=60
    python tests/fuzz/fuzz_decode.py --seconds=60 --set=overfit_1
    python tests/fuzz/fuzz_decode.py out/fuzz/crash-...      # one input again

Starts from the golden files. Mutations (tests/hostile.py) go through the container and
repair its checksum, so that they reach the entropy decoder and what comes after it.
Other arguments are libFuzzer's. An input that fails is kept under out/fuzz/, and the
exit status is then not 0; inputs that covered new code are kept there for the next run.
"""

import argparse
import random
import sys
from pathlib import Path

import atheris

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / 'codecs'), str(ROOT / 'tests')]

with atheris.instrument_imports(include=['codax']):
  import hostile

  import codax.overfit.codec
  import codax.splat.codec
  import codax.vae.codec
  import codax.vqvae.codec  # noqa: F401


# Folders of golden files.
SETS = (
  'vqvae_1', 'overfit_1', 'overfit_2', 'splat_1', 'splat_2', 'splat_3', 'splat_4',
  'vae_1', 'vae_2', 'vae_4', 'vae_5',
)  # fmt: skip


def _change(data: bytes, rng: random.Random) -> bytes:
  """libFuzzer's own mutations, which know what covered new code, and ours."""
  if rng.random() < 0.5:
    return hostile.damage(data, rng)
  return bytes(atheris.Mutate(data, len(data) + 64))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--seconds', type=int, default=60)
  parser.add_argument('--out', type=Path, default=ROOT / 'out' / 'fuzz')
  parser.add_argument('--set', choices=[*SETS, 'all'], default='all')
  options, rest = parser.parse_known_args()
  found = options.out / 'corpus'
  found.mkdir(parents=True, exist_ok=True)
  models, files = [], []
  for name in SETS if options.set == 'all' else [options.set]:
    bundle, found_here = hostile.corpus(hostile.GOLDEN / name)
    models.append(bundle or name.split('_')[0])
    files += found_here
  judge = hostile.Judge(*models)

  def test(data: bytes) -> None:
    # Instrumented code keeps some 50 kB of each run (the same code without it keeps
    # nothing), so memory is counted for each file by itself.
    judge.restart()
    judge(data)

  def mutator(data: bytes, max_size: int, seed: int) -> bytes:
    return hostile.mutate(data, random.Random(seed), _change)[:max_size]

  for i, data in enumerate(files):
    (found / f'golden_{i}').write_bytes(data)
  arguments = [
    f'-max_total_time={options.seconds}',
    f'-artifact_prefix={options.out}/',
    '-max_len=4096',
    '-timeout=60',  # for a hang; the judge has the bound
    '-rss_limit_mb=4096',
    '-print_final_stats=1',
  ]
  if all(a.startswith('-') for a in rest):
    rest.append(str(found))
  atheris.Setup([sys.argv[0], *arguments, *rest], test, custom_mutator=mutator)
  atheris.Fuzz()


if __name__ == '__main__':
  main()
