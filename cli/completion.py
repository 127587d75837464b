"""The completion command: the script by which a shell completes what is typed."""

from __future__ import annotations

import click

from msb_cache.cli import output
from msb_cache.cli.common import examples


@click.command(
    short_help="Print the script that completes commands in your shell.",
    epilog=examples(
        "msb-cache completion bash > /etc/bash_completion.d/msb-cache",
        "msb-cache completion zsh > /usr/share/zsh/site-functions/_msb-cache",
        "msb-cache completion fish | source",
    ),
)
@click.argument("shell", metavar="bash|zsh|fish", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a script with which Tab completes commands, options, images, holders, operations and more.

    For yourself, let ~/.bashrc or ~/.zshrc do `eval "$(msb-cache completion bash)"` or the same with zsh, and
    ~/.config/fish/config.fish `msb-cache completion fish | source`.
    """
    from msb_cache.cli.completing import SHELLS

    output.document(SHELLS[shell].script)


COMMAND = completion
