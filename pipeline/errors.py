"""The error that is the user's to mend."""


class UserError(Exception):
    """Something the user gave cannot be used.

    Its text is one sentence or two that name the thing, the value received and the mend; a
    command prints it without a traceback and exits with 1.
    """
