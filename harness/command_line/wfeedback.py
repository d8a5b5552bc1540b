"""The command `wfeedback`, of an installed package: every script by its name, from any folder."""

import ast
import importlib
import sys

from harness import UserError
from harness.command_line.scripts import run_script
from harness.runs.commands import COMMANDS
from self_models.basics import HOME
from self_models.basics.settings import choices


def main():
    run_script(run_command)


def run_command():
    """Run the script that the first word names, as in COMMANDS or by its file, with the other words as its flags."""
    name, *flags = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "--help_all"):
        return print("\n".join(overview()))
    script = COMMANDS.get(name, name.removesuffix(".py"))
    known = {script: name for name, script in COMMANDS.items()}
    if script not in known:
        raise UserError(f"there is no command wfeedback {name}: {choices(name, COMMANDS)}")
    sys.argv = [f"wfeedback {known[script]}", *flags]
    sys.path.insert(0, str(HOME))
    importlib.import_module(script).main()


def overview():
    """Lines that list the commands, each with the first sentence of its script."""
    yield "usage: wfeedback COMMAND [FLAG ...]\n"
    for name, script in COMMANDS.items():
        said = ast.get_docstring(ast.parse((HOME / f"{script}.py").read_text(encoding="utf-8")))
        yield f"  {name:10}{said.partition(chr(10))[0]}"
    yield "\nwfeedback COMMAND --help lists a command's flags, wfeedback ann --preset list the recipes."


if __name__ == "__main__":
    main()
