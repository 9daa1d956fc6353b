"""The exceptions a user is meant to read."""


class UserError(Exception):
    """One sentence: what is wrong, where, and what to do. The command line prints it without a traceback."""

    exit_code = 1


class Stopped(UserError):
    """Asked to stop by a signal, with everything saved: the same command goes on. A job script requeues on its code."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: "the user is invited to retry"
