"""How every command of the project starts and ends."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from absl import app, flags, logging

from pipeline.errors import UserError

_HELP = "(--help lists the flags.)"


def run(main: Callable[[list[str]], None], known_flags_only: bool = False) -> None:
    """Runs a command; never returns.

    What the user can mend ends in one line on standard error: exit code 2 for flags that cannot
    be read, 130 for Ctrl-C, 1 for the rest, files and disks among it. A fault of ours keeps its
    traceback.

    Args:
      main: Receives the arguments that are no flags of the command (without the program's name).
      known_flags_only: Hand flags the command does not define to `main` instead of refusing them.
    """

    def guarded(argv: Sequence[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            # Libraries narrate at this level; what a person should read is printed.
            logging.set_verbosity(logging.WARNING)
        arguments = list(argv[1:])
        if arguments and not known_flags_only:
            fail(f"Unexpected argument {arguments[0]!r}; flags are written --name=value.", 2)
        try:
            main(arguments)
        except UserError as error:
            fail(str(error))
        except KeyboardInterrupt:
            fail("Interrupted.", exit_code=130)
        except OSError as error:
            if error.strerror is None:
                raise
            fail(f"{error.strerror}: {error.filename}." if error.filename else f"{error.strerror}.")

    def parse(argv: Sequence[str]) -> list[str]:
        try:
            return flags.FLAGS(argv, known_only=known_flags_only)
        except flags.Error as error:
            fail(f"{error} {_HELP}", exit_code=2)

    app.run(guarded, flags_parser=parse)


def fail(message: str, exit_code: int = 1) -> NoReturn:
    """Ends the process with one line on standard error."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(exit_code)


def require(flag: flags.FlagHolder[str | None]) -> str:
    """The value of a flag that has no default.

    Raises:
      UserError: Where it was not given.
    """
    if not flag.value:
        raise UserError(f"--{flag.name} is missing. {_HELP}")
    return flag.value
