"""``motet completion``: print a script by which a shell completes commands, options and their choices.

The script holds all of them as they are now, so that completing starts no Python.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator, Sequence

from motet.cli import COMMANDS, Parser

SHELLS = ("bash", "zsh")
_EPILOG = """
bash: put  eval "$(motet completion bash)"  into ~/.bashrc.
zsh: put  eval "$(motet completion zsh)"  into ~/.zshrc, after compinit.
"""
_FOR_ZSH = "autoload -U +X bashcompinit && bashcompinit\n"
# `--sync=aggregate` is three words to bash, and one to zsh. Without an answer both complete names of files.
_SCRIPT = """\
_motet() {{
    local current="${{COMP_WORDS[COMP_CWORD]}}" before="" words="" stem=""
    (( COMP_CWORD > 0 )) && before="${{COMP_WORDS[COMP_CWORD-1]}}"
    if [[ "$current" == "=" ]]; then
        current=""
    elif [[ "$before" == "=" ]]; then
        before="${{COMP_WORDS[COMP_CWORD-2]}}"
    elif [[ "$current" == --*=* ]]; then
        before="${{current%%=*}}" stem="${{current%%=*}}=" current="${{current#*=}}"
    fi
    if (( COMP_CWORD == 1 )); then
        words="{commands}"
    else
        case "${{COMP_WORDS[1]}} $before" in
{choices}
        *)  [[ "$current" == -* ]] && case "${{COMP_WORDS[1]}}" in
{options}
            esac ;;
        esac
    fi
    COMPREPLY=($(compgen -P "$stem" -W "$words" -- "$current"))
}}
complete -o default -F _motet motet
"""


def make_parser() -> Parser:
    """Return the parser of the options of ``motet completion``."""
    parser = Parser(
        "motet completion",
        description="Print a script by which a shell completes commands, options and their choices.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=SHELLS, help="the shell that is to read it")
    return parser


def main(argv: Sequence[str]) -> int:
    """Print the script."""
    options = make_parser().parse_args(argv)
    sys.stdout.write((_FOR_ZSH if options.shell == "zsh" else "") + script())
    return 0


def script() -> str:
    """Return the script, which bash reads, and zsh with its `bashcompinit`."""
    choices, options = [], []
    for command, (module, _) in COMMANDS.items():
        parser: Parser = importlib.import_module(module).make_parser()
        every = {flag for action in parser._actions for flag in action.option_strings if flag.startswith("--")}
        flags = sorted(every - {flag for flag in every if "_" in flag and flag.replace("_", "-") in every})
        options.append(f"            {command}) words='{' '.join(flags)}' ;;")
        choices += [f"        {word}) words='{' '.join(given)}' ;;" for word, given in _choices(command, parser)]
    return _SCRIPT.format(commands=" ".join(COMMANDS), choices="\n".join(choices), options="\n".join(options))


def _choices(command: str, parser: Parser) -> Iterator[tuple[str, list[str]]]:
    """Yield patterns of a command and the word before, and what may come next."""
    for action in parser._actions:
        if action.choices:
            before = action.option_strings or [command]  # a word of its own is the command's first
            yield "|".join(f"'{command} {word}'" for word in before), [str(choice) for choice in action.choices]
