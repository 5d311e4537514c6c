"""Errors that a person can cause and mend."""


class InputError(ValueError):
    """Bad input: the message names the value, the rule it breaks and the way out.

    The command line prints the message alone and exits with status 2. Any other exception is a
    defect of the program and exits with status 1.
    """
