"""The root of every error that the user can mend."""


class UserError(Exception):
    """Bad input, a missing file, a file that does not agree: commands print it as one line."""
