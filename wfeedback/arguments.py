"""What a script is told: the value of each flag, and where the value comes from.

A value comes from the flag's default, from the command line (it is *typed*), or from
the recipe of ``--preset``. What is typed or in the recipe is *given*, and stays. All
other flags may take over a value: first from a checkpoint, then from what follows.
"""

import argparse


class Arguments(argparse.Namespace):
    """The value of each flag, as an attribute of its name.

    ``vars(args)`` has the flags alone: what is known about them lies in slots.

    Attributes
    ----------
    parser : Parser
        The parser that read them. It has their declarations, defaults and groups.
    typed : tuple of str
        Names of the flags that the user typed, in the order of ``--help``.
    given : set of str
        Names of the flags that the user typed or the recipe has. ``take_over`` leaves
        them alone.
    origins : dict of {str: str}
        Where each value comes from: "default", "checkpoint", "script" (the evaluating
        script has its own), "followed" (from other values), "recipe", "typed" or
        "found" (the run found it out). A log's first record keeps them.
    """

    __slots__ = ("given", "is_frozen", "origins", "parser", "typed")

    def __init__(self, parser: object, defaults: dict[str, object]) -> None:
        self.is_frozen = False
        self.parser = parser
        self.typed = ()
        self.given = set()
        self.origins = dict.fromkeys(defaults, "default")
        super().__init__(**defaults)

    def __setattr__(self, name: str, value: object) -> None:
        """Set a flag. Raises AttributeError once the flags are frozen."""
        if name not in self.__slots__ and self.is_frozen:
            raise AttributeError(f"args.{name} is set too late: the run has begun with its flags")
        super().__setattr__(name, value)

    def freeze(self) -> None:
        """Refuse changes from now on: the log has told what the flags are."""
        self.is_frozen = True


def take_over(args: Arguments, values: dict[str, object], origin: str) -> None:
    """Set flags to these values, except those that the user or the recipe gave.

    Of several calls the last counts. What ``set_found`` has set stays, too.

    Parameters
    ----------
    args : Arguments
        Changed in place.
    values : dict of {str: object}
        Flag -> value.
    origin : {"checkpoint", "script", "followed"}
        Where the values come from, for the log.
    """
    for name, value in values.items():
        is_found = args.origins.get(name) == "found"
        if name not in args.given and not is_found:
            setattr(args, name, value)
            args.origins[name] = origin


def set_found(args: Arguments, **values: object) -> None:
    """Set what the run itself has found out, such as how many images are held out.

    This holds even where the user gave another value.
    """
    for name, value in values.items():
        setattr(args, name, value)
        args.origins[name] = "found"
