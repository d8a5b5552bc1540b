"""The two exceptions that are meant for users."""


class ModelError(ValueError):
    """A setting or input of a model that cannot work.

    The message says what was wrong, and what to do.
    """


class UserError(Exception):
    """Something the user can put right.

    The message says what was wrong, and what to do.
    """
