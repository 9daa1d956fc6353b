"""The exceptions a user is meant to read."""

import signal


class UserError(Exception):
    """One sentence: what is wrong, where, and what to do. The command line prints it without a traceback."""

    exit_code = 1


class Unreachable(UserError):
    """One of several ranks no longer hears the others: what the end of another one caused, never the cause."""


class Stopped(BaseException):
    """Asked to stop by a signal, with everything saved: the same command goes on. A job script requeues on its code.

    As KeyboardInterrupt no Exception: what handles the errors of a library must not handle this one.
    """

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: "the user is invited to retry"
    interrupted = 130  # by somebody at a terminal, who wants no job put back into the queue

    def __init__(self, sentence: str, number: int | None = None) -> None:
        super().__init__(sentence)
        if number == signal.SIGINT:
            self.exit_code = self.interrupted
