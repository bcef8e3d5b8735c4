"""Completion scripts for bash, zsh and fish, generated from the table in ``grammar``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quictunnel.cli import grammar

if TYPE_CHECKING:
    from quictunnel.cli.grammar import Command, Option


def script(shell: str) -> str:
    """Return the script for one of :data:`grammar.SHELLS`."""
    match shell:
        case "bash":
            return _bash()
        case "zsh":
            return _zsh()
        case "fish":
            return _fish()
        case _:
            raise ValueError(f"no completion for {shell!r}")


def _options(command: Command) -> tuple[Option, ...]:
    return (*command.options, grammar.HELP)


def _words(command: Command) -> list[str]:
    fixed = [choice for argument in command.arguments for choice in argument.choices]
    return fixed + [option.flag for option in _options(command)]


def _bash() -> str:
    names = " ".join([*(c.name for c in grammar.COMMANDS), grammar.VERSION.flag, grammar.HELP.flag])
    every = {option.flag: option for command in grammar.COMMANDS for option in command.options}.values()
    files = "|".join(option.flag for option in every if option.is_file)
    free = "|".join(
        option.flag for option in every if option.metavar and not option.is_file and not option.choices
    )
    runners = "|".join(command.name for command in grammar.COMMANDS if command.runs_program)
    lines = [
        "# bash completion for quictunnel",
        "_quictunnel() {",
        '    local word="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" words=""',
        "    COMPREPLY=()",
        # After --: the name of a program, then files, as for any unknown command.
        "    local place",
        f'    case "${{COMP_WORDS[1]}}" in {runners})',
        "        for ((place = 2; place < COMP_CWORD; place++)); do",
        '            [[ "${COMP_WORDS[place]}" == -- ]] || continue',
        "            if ((place == COMP_CWORD - 1)); then",
        '                COMPREPLY=($(compgen -c -- "$word"))',
        "            else",
        '                COMPREPLY=($(compgen -f -- "$word"))',
        "            fi",
        "            return",
        "        done",
        "    esac",
        '    case "$before" in',
        f'        {files}) COMPREPLY=($(compgen -f -- "$word")); return ;;',
        f"        {free}) return ;;",
    ]
    lines += [
        f'        {option.flag}) COMPREPLY=($(compgen -W "{" ".join(option.choices)}" -- "$word")); return ;;'
        for option in every
        if option.choices
    ]
    lines += [
        "    esac",
        "    if ((COMP_CWORD == 1)); then",
        f'        words="{names}"',
        "    else",
        '        case "${COMP_WORDS[1]}" in',
    ]
    lines += [f'            {c.name}) words="{" ".join(_words(c))}" ;;' for c in grammar.COMMANDS]
    lines += [
        "        esac",
        "    fi",
        '    COMPREPLY=($(compgen -W "$words" -- "$word"))',
        "}",
        "complete -o filenames -F _quictunnel quictunnel",
    ]
    return "\n".join(lines) + "\n"


def _zsh() -> str:
    lines = ["#compdef quictunnel", "_quictunnel() {", "    local -a commands=("]
    lines += ["        " + _quoted(c.name + ":" + c.summary.replace(":", r"\:")) for c in grammar.COMMANDS]
    lines += [
        "    )",
        "    if ((CURRENT == 2)); then",
        "        _describe command commands",
        f"        _arguments {_zsh_option(grammar.VERSION)} {_zsh_option(grammar.HELP)}",
        "        return",
        "    fi",
        "    local command=${words[2]}",
        "    shift words",
        "    ((CURRENT--))",
        "    case $command in",
    ]
    for command in grammar.COMMANDS:
        arguments = [
            _quoted(f"1:{a.name.lower()}:({' '.join(a.choices)})" if a.choices else f"1:{a.name.lower()}: ")
            for a in command.arguments
        ]
        program = ["'*::program: _normal'"] if command.runs_program else []
        specs = " ".join([*arguments, *map(_zsh_option, _options(command)), *program])
        lines.append(f"        {command.name}) _arguments {specs} ;;")
    # The file is either sourced or autoloaded by compinit; in the second case it is the function itself.
    lines += ["    esac", "}", 'if [[ ${funcstack[1]} == _quictunnel ]]; then _quictunnel "$@"']
    lines += ["else compdef _quictunnel quictunnel; fi"]
    return "\n".join(lines) + "\n"


def _zsh_option(option: Option) -> str:
    summary = option.summary.replace("]", r"\]")
    spec = f"{option.flag}[{summary}]"
    if option.metavar:
        action = "_files" if option.is_file else f"({' '.join(option.choices)})" if option.choices else " "
        spec += f":{option.metavar.replace(':', ' ').lower()}:{action}"
    return _quoted(spec)


def _fish() -> str:
    lines = ["# fish completion for quictunnel", "complete -c quictunnel -f"]
    first = "complete -c quictunnel -n __fish_use_subcommand"
    lines += [f"{first} {_fish_option(option)}" for option in (grammar.VERSION, grammar.HELP)]
    for command in grammar.COMMANDS:
        lines.append(f"{first} -a {command.name} -d {_quoted(command.summary)}")
        seen = f"complete -c quictunnel -n '__fish_seen_subcommand_from {command.name}'"
        lines += [f"{seen} -a {_quoted(' '.join(a.choices))}" for a in command.arguments if a.choices]
        lines += [f"{seen} {_fish_option(option)}" for option in _options(command)]
        if command.runs_program:
            after = f"__fish_seen_subcommand_from {command.name}; and contains -- -- (commandline -opc)"
            lines.append(f"complete -c quictunnel -n '{after}' -F")
    return "\n".join(lines) + "\n"


def _fish_option(option: Option) -> str:
    parts = [f"-l {option.flag.removeprefix('--')}"]
    if option.is_file:
        parts.append("-r -F")
    elif option.choices:
        parts.append(f"-x -a {_quoted(' '.join(option.choices))}")
    elif option.metavar:
        parts.append("-x")
    return " ".join([*parts, f"-d {_quoted(option.summary)}"])


def _quoted(text: str) -> str:
    """Return a text in single quotes, without its apostrophes.

    The three shells escape apostrophes in three ways, and only descriptions have them.
    """
    return "'" + text.replace("'", "") + "'"
