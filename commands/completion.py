"""``zerolabel completion bash|zsh|fish`` prints a script that completes commands, options and the names we know.

The script asks nothing when TAB is pressed: all names are written into it, so that it answers at once.
"""

from __future__ import annotations

from commands import COMMANDS
from commands.list import KINDS
from commands.shells import SCRIPTS
from common.errors import UserError, known

USAGE = """usage: zerolabel completion bash|zsh|fish

  bash    zerolabel completion bash > ~/.local/share/bash-completion/completions/zerolabel
  zsh     zerolabel completion zsh > DIR/_zerolabel, where DIR is in $fpath (set it before compinit in ~/.zshrc)
  fish    zerolabel completion fish > ~/.config/fish/completions/zerolabel.fish

The folder must exist; a new shell knows it. Write it again after an update, or after adding a method. It completes the
command zerolabel, not python cli.py.
"""
SHELLS = ("bash", "zsh", "fish")
FREE = ("--config", "--classes", "--data.classes", "--ckpt_path")  # which take files and other words too


def run(arguments: list[str]) -> int:
    """Prints the script of one shell."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    shell = known("shell", arguments[0], SHELLS)
    if arguments[1:]:
        raise UserError(f"completion takes one shell, not '{' '.join(arguments)}'.")
    from commands.options import benchmarks, options_of  # here, so that help and mistakes answer at once

    positional = {"list": list(KINDS), "prepare": sorted(benchmarks()), "completion": list(SHELLS)}
    print(SCRIPTS[shell]({name: options_of(name) for name in COMMANDS}, positional, FREE), end="")
    return 0
