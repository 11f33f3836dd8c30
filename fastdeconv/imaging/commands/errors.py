"""How a command ends that was used in a way that has no meaning."""


class UsageError(Exception):
    """What is wrong with the arguments, in one line: exit status 2."""
