"""The one exception of the models: a setting or an input that cannot work."""


class ModelError(ValueError):
    """A model setting or input that cannot work; the message says what was wrong and what to do."""


def choose(kind, name, registry):
    """registry[name], or a ModelError that lists the valid names of this kind."""
    try:
        return registry[name]
    except (KeyError, TypeError):
        raise ModelError(f"unknown {kind} {name!r}: choose one of {', '.join(registry)}") from None
