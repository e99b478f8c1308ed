"""How every command of the project starts and ends."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging

from pipeline.errors import UserError

_SENTENCES = {
    errno.ENOSPC: "The disk is full",
    errno.EDQUOT: "The disk quota is used up",
    errno.EACCES: "Permission denied",
    errno.EROFS: "The file system is read-only",
    errno.ENOTDIR: "Not a folder",
}


def run(
    main: Callable[[list[str]], None],
    known_flags_only: bool = False,
) -> None:
    """Runs a command; never returns.

    What the user can mend ends in one line on standard error and exit code 1, Ctrl-C in one
    and exit code 130; anything else is a fault of ours and keeps its traceback.

    Args:
      main: Receives the arguments that are no flags of the command (without the program's name).
      known_flags_only: Hand flags the command does not define to `main` instead of refusing them.
    """

    def guarded(argv: Sequence[str]) -> None:
        if not flags.FLAGS["verbosity"].present:
            # Libraries narrate at this level; what a person should read is printed.
            logging.set_verbosity(logging.WARNING)
        try:
            arguments = list(argv[1:])
            if arguments and not known_flags_only:
                raise UserError(
                    f"Unexpected argument {arguments[0]!r}; flags are written --name=value."
                )
            main(arguments)
        except UserError as error:
            fail(str(error))
        except KeyboardInterrupt:
            fail("Interrupted.", exit_code=130)
        except OSError as error:
            if error.errno not in _SENTENCES:
                raise
            where = f": {error.filename}" if error.filename else ""
            fail(f"{_SENTENCES[error.errno]}{where}.")

    def parse(argv: Sequence[str]) -> list[str]:
        return flags.FLAGS(argv, known_only=known_flags_only)

    app.run(guarded, flags_parser=lambda argv: _parse_or_exit(parse, argv))


def _parse_or_exit(parse: Callable[[Sequence[str]], list[str]], argv: Sequence[str]) -> list[str]:
    try:
        arguments = parse(argv)
    except flags.Error as error:
        fail(f"{error} (--help lists the flags.)", exit_code=2)
    if getattr(flags.FLAGS, "only_check_args", False):
        sys.exit(0)
    return arguments


def fail(message: str, exit_code: int = 1) -> None:
    """Ends the process with one line on standard error."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(exit_code)


def require(flag: flags.FlagHolder[str | None]) -> str:
    """The value of a flag that has no default.

    Raises:
      UserError: Where it was not given.
    """
    if not flag.value:
        raise UserError(f"--{flag.name} is missing. (--help lists the flags.)")
    return flag.value
