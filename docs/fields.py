"""mkdocstrings loads this: the fields of a configuration are described when its class is made, so its docstring is asked for there."""

import inspect

import griffe

from self_models import config


class Fields(griffe.Extension):
    def on_class(self, *, cls, **_):
        if cls.path in ("self_models.config.ANNConfig", "self_models.config.SNNConfig"):
            cls.docstring.value = inspect.getdoc(getattr(config, cls.name))
