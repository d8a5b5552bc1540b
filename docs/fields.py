"""Describe the configurations' fields on the page of Python; mkdocstrings loads this.

Their docstrings are completed when their classes are made, from the declarations of the
flags. So they are asked for here, where mkdocstrings would read only the source.
"""

import inspect

import griffe

from self_models import config

CONFIGURATIONS = ("self_models.config.ANNConfig", "self_models.config.SNNConfig")


class Fields(griffe.Extension):
    """Give a configuration the docstring that its class has when it is imported."""

    def on_class(self, *, cls: griffe.Class, **_: object) -> None:
        """Complete the docstring of a class that has been read."""
        if cls.path in CONFIGURATIONS:
            cls.docstring.value = inspect.getdoc(getattr(config, cls.name))
