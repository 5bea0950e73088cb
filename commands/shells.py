"""The scripts that ``zerolabel completion`` prints, one frame per shell around the same names.

Each takes the options of every command with the words known for them, the positional words, and the options that take files
beside those words. No name holds a space or a quote, so they are written as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

Commands = Mapping[str, Mapping[str, list[str]]]
Positional = Mapping[str, list[str]]
Script = Callable[[Commands, Positional, Collection[str]], str]

BASH = r"""# completion of zerolabel for bash, written by 'zerolabel completion bash'
{tables}
_zerolabel() {
  local current=${COMP_WORDS[COMP_CWORD]} option=${COMP_WORDS[COMP_CWORD-1]} words
  [[ $option == = ]] && option=${COMP_WORDS[COMP_CWORD-2]}  # bash splits --option=value at the sign
  [[ $current == = ]] && current=
  COMPREPLY=()
  if ((COMP_CWORD == 1)); then
    words="{commands} --help --version"
  elif [[ $current == -* ]]; then
    words=$(_zerolabel_options "${COMP_WORDS[1]}")
  elif [[ $option == -* ]]; then
    words=$(_zerolabel_words "${COMP_WORDS[1]}" "$option")
  else
    words=$(_zerolabel_words "${COMP_WORDS[1]}" "")
  fi
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
  case $option in
    {free}) compopt -o filenames 2> /dev/null; mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "$current") ;;
  esac
}
complete -o default -F _zerolabel zerolabel
"""

ZSH = r"""#compdef zerolabel
# completion of zerolabel for zsh, written by 'zerolabel completion zsh'
{tables}
_zerolabel() {
  local option=$words[CURRENT-1] found
  if [[ $words[CURRENT] == --*=* ]]; then
    option=${words[CURRENT]%%=*}
    compset -P '*='
  elif ((CURRENT == 2)); then
    compadd -- {commands} --help --version
    return
  elif [[ $words[CURRENT] == -* ]]; then
    compadd -- ${=$(_zerolabel_options "$words[2]")}
    return
  elif [[ $option != -* ]]; then
    option=
  fi
  found=$(_zerolabel_words "$words[2]" "$option")
  [[ -n $found ]] && compadd -- ${=found}
  case $option in
    {free}) _files ;;
    *) [[ -n $found ]] || _files ;;
  esac
}
if [[ $funcstack[1] == _zerolabel ]]; then _zerolabel "$@"; else compdef _zerolabel zerolabel; fi
"""


def bash(commands: Commands, positional: Positional, free: Collection[str]) -> str:
    return _filled(BASH, commands, positional, free)


def zsh(commands: Commands, positional: Positional, free: Collection[str]) -> str:
    return _filled(ZSH, commands, positional, free)


def fish(commands: Commands, positional: Positional, free: Collection[str]) -> str:
    """A line per option; commands that share an option and its words share the line."""
    lines = ["# completion of zerolabel for fish, written by 'zerolabel completion fish'"]
    lines.append(f"complete -c zerolabel -n __fish_use_subcommand -f -a '{' '.join(commands)} --help --version'")
    for option, words, owners in _shared(commands):
        known = f" -a '{' '.join(words)}'" if words else ""
        kind = " -f" if option.startswith("--help") else " -r -F" if option in free or not words else " -x"
        lines.append(f"complete -c zerolabel -n '__fish_seen_subcommand_from {' '.join(owners)}'{kind} -l {option[2:]}{known}")
    for command, words in positional.items():
        lines.append(f"complete -c zerolabel -n '__fish_seen_subcommand_from {command}' -f -a '{' '.join(words)}'")
    return "\n".join(lines) + "\n"


SCRIPTS: dict[str, Script] = {"bash": bash, "zsh": zsh, "fish": fish}


def _filled(frame: str, commands: Commands, positional: Positional, free: Collection[str]) -> str:
    """The frame with its names; not ``str.format``, for shells are full of braces."""
    names = {"{tables}": _tables(commands, positional), "{commands}": " ".join(commands), "{free}": " | ".join([*free, "-c"])}
    for place, text in names.items():
        frame = frame.replace(place, text)
    return frame


def _tables(commands: Commands, positional: Positional) -> str:
    """Two functions in the language that bash and zsh share: a command's options, and the words for an option."""
    options = [f"    {name}) echo {' '.join(of_command)} ;;" for name, of_command in commands.items()]
    words = [f"    '{name} ') echo {' '.join(places)} ;;" for name, places in positional.items()]
    for option, known, owners in _shared(commands):
        spellings = (option, "-c") if option == "--config" else (option,)
        keys = [f"'{owner} {spelling}'" for owner in owners for spelling in spellings]
        words += [f"    {' | '.join(keys)}) echo {' '.join(known)} ;;"] if known else []
    return "\n".join([*_function("_zerolabel_options", "$1", options), *_function("_zerolabel_words", "$1 $2", words)])


def _function(name: str, key: str, cases: list[str]) -> list[str]:
    return [f"{name}() {{", f'  case "{key}" in', *cases, "  esac", "}"]


def _shared(commands: Commands) -> list[tuple[str, list[str], list[str]]]:
    """(option, its words, the commands that have it with these words), each once."""
    owners: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for command, options in commands.items():
        for option, words in options.items():
            owners.setdefault((option, tuple(words)), []).append(command)
    return [(option, list(words), names) for (option, words), names in owners.items()]
