"""The one exception of the models: a setting or an input that cannot work."""


class ModelError(ValueError):
    """A model setting or input that cannot work; the message says what was wrong and what to do."""
