"""``quictunnel completion``: print a script by which a shell gets completions from quictunnel."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

from quictunnel.shared.command_line import Command

SHELLS: Final = ("bash", "zsh", "fish")
VARIABLE: Final = "_QUICTUNNEL_COMPLETE"
"""Environment variable by which the scripts request completions."""


@click.command(
    cls=Command,
    help="Print a script that completes quictunnel's commands and options.",
    epilog="""\
Examples:
  bash:  quictunnel completion bash > ~/.local/share/bash-completion/completions/quictunnel
  zsh:   quictunnel completion zsh > ~/.zfunc/_quictunnel      (with fpath+=~/.zfunc before compinit)
  fish:  quictunnel completion fish > ~/.config/fish/completions/quictunnel.fish
""",
)
@click.argument("shell", type=click.Choice(SHELLS), metavar="SHELL", help=", ".join(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Run ``quictunnel completion``."""
    kind = get_completion_class(shell)
    assert kind is not None, f"click completes no {shell}"
    root = context.find_root()
    script = kind(root.command, {}, str(root.info_name), VARIABLE).source()
    # click's script for fish cuts descriptions at their first comma.
    print(script.replace('string split "," $completion', 'string split --max 1 "," $completion'), end="")
