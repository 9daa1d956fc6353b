"""The one exception a user is meant to read."""


class UserError(Exception):
    """One sentence: what is wrong, where, and what to do. The command line prints it without a traceback."""
