"""Packaging; `codecs/` is the source root, as `src/` is elsewhere (docs/design.md)."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent

EXTRAS = {
  'test': [
    'hypothesis>=6.100',
    'pytest>=8',
    'pytest-xdist>=3.6',
    'ruff>=0.12',
    'tensorboard>=2.18',  # reads the event files that training writes
  ],
  'wandb': ['wandb>=0.20'],
  'peers': ['jaxkan>=0.3; python_version < "3.13"', 'pykan>=0.2.8', 'torch'],
  'baselines': ['pillow-jxl-plugin>=1.3'],
  'fuzz': ["atheris>=3.0; python_version < '3.14'"],
  'scikit-learn': ['scikit-learn>=1.4'],  # two photographs and the digits
  'photos': ['scikit-learn>=1.4'],  # the same under its earlier name
}

setup(
  name='codax',
  version='0.1.0',
  description='Learned image codecs in JAX whose numbers are file sizes.',
  long_description=(HERE / 'README.md').read_text(encoding='utf-8'),
  long_description_content_type='text/markdown',
  license='Apache-2.0',
  python_requires='>=3.11',
  package_dir={'': 'codecs'},
  packages=find_packages('codecs'),
  package_data={'codax': ['pretrained/*.json', 'pretrained/*.safetensors']},
  install_requires=[
    line
    for line in (HERE / 'requirements.txt').read_text(encoding='utf-8').splitlines()
    if line and not line.startswith('#')
  ],
  extras_require=EXTRAS,
  entry_points={'console_scripts': ['codax = codax.__main__:run']},
)
