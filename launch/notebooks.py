"""Writes the address of the repository into the notebooks: badges and install cells.

  python launch/notebooks.py --repository=OWNER/NAME [--branch=NAME]
  python launch/notebooks.py

A badge opens its notebook on Colab from GitHub, and the install cell clones from there.
Both need the address, and Markdown has no variables, so it stands in every notebook and
this command writes it. Without arguments it prints the address that the notebooks have.
"""

import re
import sys
from pathlib import Path
from typing import NamedTuple

from codax import signals

signals.guard_imports(__name__)

from codax import console, errors, files
from codax.errors import CodaxError

FOLDER = Path(__file__).parents[1] / 'notebooks'
PLACEHOLDER = 'OWNER/codax'  # until there is a repository
_NAME = r'[\w.-]+'
_BADGE = re.compile(
  rf'(colab\.research\.google\.com/github/)({_NAME}/{_NAME})/blob/({_NAME})(/notebooks/)'
)
_INSTALL = re.compile(rf"(REPOSITORY = ')({_NAME}/{_NAME})(')")


class Address(NamedTuple):
  """Address of the notebooks on GitHub.

  Attributes:
    repository: 'OWNER/NAME'.
    branch: branch that badges open.
  """

  repository: str
  branch: str


def find_addresses(text: str) -> set[Address]:
  """Finds all addresses in a notebook, of one badge and one install cell each.

  Raises:
    CodaxError: it has no badge, or no install cell.
  """
  badges, cells = _BADGE.findall(text), _INSTALL.findall(text)
  if not badges or not cells:
    raise CodaxError('the notebook has no badge, or no install cell')
  found = {Address(repository, branch) for _, repository, branch, _ in badges}
  branch = badges[0][2]
  return found | {Address(repository, branch) for _, repository, _ in cells}


def replace_address(text: str, address: Address) -> str:
  """Writes an address into all places of a notebook."""
  repository, branch = address
  text = _BADGE.sub(rf'\g<1>{repository}/blob/{branch}\g<4>', text)
  return _INSTALL.sub(rf'\g<1>{repository}\g<3>', text)


def check_address(repository: str, branch: str) -> Address:
  """Checks an address of the command line.

  Raises:
    CodaxError: it is none.
  """
  if not re.fullmatch(f'{_NAME}/{_NAME}', repository):
    raise CodaxError(f'--repository={repository} is not OWNER/NAME, as on GitHub')
  if not re.fullmatch(_NAME, branch):
    raise CodaxError(f'--branch={branch} is not the name of a branch')
  return Address(repository, branch)


def main(argv: list[str] | None = None) -> int:
  parser = errors.ArgumentParser(
    description=__doc__.splitlines()[0], allow_abbrev=False
  )
  parser.add_argument('--repository', metavar='OWNER/NAME', help='on GitHub')
  parser.add_argument('--branch', default='main', help='default: main')
  args = parser.parse_args(sys.argv[1:] if argv is None else argv)
  paths = sorted(FOLDER.glob('*.ipynb'))
  if args.repository is not None:
    address = check_address(args.repository, args.branch)
    for path in paths:
      text = path.read_text(encoding='utf-8')
      files.write_text(path, replace_address(text, address))
  for path in paths:
    for address in sorted(find_addresses(path.read_text(encoding='utf-8'))):
      note = ', a placeholder' if address.repository == PLACEHOLDER else ''
      console.say(f'{path.name}: {address.repository}, branch {address.branch}{note}')
  return 0


if __name__ == '__main__':
  signals.end_process(errors.exit_status(main))
