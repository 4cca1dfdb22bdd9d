"""The command line of ``launch/train.py``: a configuration file and overrides of it.

absl and ml_collections do the parsing; this module turns their exceptions into one line
that names the flag or key and the valid ones.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags, logging
from ml_collections import config_flags

from codax import console
from codax.data import defaults
from codax.errors import CodaxError, renamed, unknown
from codax.training import settings

HELP = """usage: python launch/train.py --config=FILE[:ARG] [--workdir=DIR]
                              [--distributed] [--config.KEY=VALUE ...]

  --config=FILE[:ARG]   configuration, for example configs/vqvae_ba.py:cifar10
  --config.KEY=VALUE    changes one of its keys, for example --config.total_steps=100
  --workdir=DIR         where the run lives (default: runs/<config name>[_ARG])
  --distributed         join the other hosts first (started once per host)
"""

RENAMED = settings.RENAMED | {
  f'data.{old}': f'data.{new}' for old, new in defaults.RENAMED.items()
}


class Arguments(NamedTuple):
  """Parsed command line.

  Attributes:
    config: locked `ConfigDict`.
    workdir: folder of the run.
    distributed: True to join other hosts.
    text: command as one line, stored with the results.
  """

  config: Any
  workdir: Path
  distributed: bool
  text: str


def parse(argv: list[str]) -> Arguments | None:
  """Parses ``sys.argv``.

  Args:
    argv: name of the program and its arguments.

  Returns:
    The arguments; None if only help was asked for (and printed).

  Raises:
    CodaxError: an unknown flag or key, a value of the wrong type, no such file, or
      an error that the configuration raises about its argument.
  """
  if any(a in ('--help', '-help', '-h') for a in argv[1:]):
    console.show(HELP.rstrip())
    return None
  values = _parse(argv)
  if values.config is None:
    raise CodaxError('--config=FILE is missing, for example configs/vqvae_ba.py')
  path, _, argument = values['config'].config_filename.partition(':')
  name = Path(path).stem + (f'_{argument}' if argument else '')
  workdir = values.workdir or Path('runs') / re.sub(r'[^\w.=-]+', '_', name)
  text = ' '.join(['python launch/train.py', *argv[1:]])
  return Arguments(values.config, Path(workdir).expanduser(), values.distributed, text)


def set_up_logging() -> None:
  """Sends absl's INFO lines to stderr, without those that Orbax writes for itself."""
  flags.FLAGS.mark_as_parsed()  # this program's flags are not global ones
  logging.use_absl_handler()
  logging.set_verbosity(logging.INFO)
  logging.get_absl_handler().addFilter(_not_orbax_chatter)


def _not_orbax_chatter(record: Any) -> bool:
  """Returns False for records that Orbax writes for itself, errors included.

  It raises its errors too: a disk that fills up would be pages of tracebacks around
  the one line that says so.
  """
  orbax = '/orbax/' in record.pathname.replace('\\', '/')
  warning = record.levelname == 'WARNING'
  return record.name != 'asyncio' and (warning or not orbax)


def _define(argv: list[str]) -> flags.FlagValues:
  values = flags.FlagValues()
  config_flags.DEFINE_config_file(
    'config', None, 'Configuration.', flag_values=values, sys_argv=argv
  )
  flags.DEFINE_string('workdir', None, 'Where the run lives.', flag_values=values)
  flags.DEFINE_bool('distributed', False, 'Join other hosts.', flag_values=values)
  return values


def _parse(argv: list[str]) -> flags.FlagValues:
  """Returns the flags' values, or a `CodaxError`."""
  _check_file(argv)
  values = _define(argv)
  try:
    rest = values(argv)
  except flags.Error as e:
    raise CodaxError(_cause(e)) from e
  except (AttributeError, KeyError) as e:
    raise _unknown_key(argv, e) from e
  except SyntaxError as e:
    raise CodaxError(f'{e.filename}, line {e.lineno}: {e.msg}') from e
  if len(rest) > 1:
    raise CodaxError(f'unexpected argument {rest[1]!r}; flags begin with --')
  return values


def _check_file(argv: list[str]) -> None:
  """Names a configuration file that is not there."""
  paths = [a.split('=', 1)[1] for a in argv if re.match(r'--?config=', a)]
  paths += [b for a, b in zip(argv, argv[1:]) if a in ('-config', '--config')]
  for text in paths:
    path = text.split(':', 1)[0]
    if not Path(path).is_file():
      near = sorted(p.as_posix() for p in Path(path).parent.glob('*.py'))
      if near:
        raise unknown('configuration file', path, near)
      raise CodaxError(f'no such configuration file: {path}')


def _cause(error: BaseException) -> str:
  """Returns the text of the first of a chain of wrapped errors."""
  link: BaseException | None = error
  while link is not None:
    if isinstance(link, ValueError) and 'Traceback' not in str(link):
      root = link
      if isinstance(root, CodaxError) or 'Traceback' in str(error):
        return str(root)
    link = link.__cause__ or link.__context__
  return str(error)


def _unknown_key(argv: list[str], error: Exception) -> Exception:
  """Returns the error for an override of a key that the configuration does not have."""
  overrides = [a for a in argv if re.match(r'--?(no)?config\.', a)]
  plain = [a for a in argv if a not in overrides]
  values = _define(plain)
  try:
    values(plain)
  except (AttributeError, KeyError):
    return error  # a mistake in the configuration file itself: keep the traceback
  valid = _keys(values.config)
  for argument in overrides:
    key = re.sub(r'^--?(no)?config\.', '', argument).split('=', 1)[0]
    if key not in valid:
      new = _collect_renamed(values.config).get(key)
      return renamed(key, new) if new else unknown('config key', key, valid)
  return error


def _collect_renamed(config: Any) -> dict[str, str]:
  """Collects new names of renamed keys: those of all families and of this one."""
  from codax import families

  owner = families.FAMILIES.get(config.get('family'))
  if owner is None or 'defaults' not in owner.entries:
    return RENAMED
  return RENAMED | families.entry(owner, 'defaults').RENAMED


def _keys(config: Any, prefix: str = '') -> list[str]:
  """Returns every key that can be set, 'a.b.c'."""
  out = []
  for key, value in config.items():
    out.append(prefix + key)
    if hasattr(value, 'items'):
      out += _keys(value, f'{prefix}{key}.')
  return out
