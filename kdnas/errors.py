"""The one error that is the user's to mend."""


class InputError(Exception):
    """Something the user gave is wrong; the message is one line that names it and the remedy.

    The command line prints the message alone and exits with code 2; a script catches it like any exception.
    """
