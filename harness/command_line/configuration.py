"""What a run is told, in one frozen object."""

from dataclasses import dataclass, field, fields, replace
from functools import cached_property


@dataclass(frozen=True)
class Configuration:
    """Flags as attributes; each has the value of the strongest layer that knows it: settled, typed, recipe, found, default.
    about: flag -> (title of its group in --help, default). found: what a checkpoint says, or follows from it or from the images;
    recipe: of --preset; typed: what was typed beside it; settled: what came of the flags (how many images are held out, what is
    known of the images, where --resume goes on). Nobody writes into it: with_found() and with_settled() make another."""

    about: dict = field(default_factory=dict)
    found: dict = field(default_factory=dict)
    recipe: dict = field(default_factory=dict)
    typed: dict = field(default_factory=dict)
    settled: dict = field(default_factory=dict)

    @cached_property
    def given(self):
        """flag -> value of what somebody has said."""
        return self.recipe | self.typed

    @cached_property
    def values(self):
        """Name -> value of all."""
        return {flag: default for flag, (_, default) in self.about.items()} | self.found | self.given | self.settled

    def __getattr__(self, name):
        if name in LAYERS or name not in self.values:
            raise AttributeError(f"there is no flag {name}")
        return self.values[name]

    def with_found(self, **found):
        """A copy with these defaults filled in; values of the user and the recipe win."""
        return replace(self, found=self.found | found)

    def with_settled(self, **settled):
        """A copy with these values, whatever the user gave."""
        return replace(self, settled=self.settled | settled)


LAYERS = {one.name for one in fields(Configuration)}
