"""`virnuc completion`: the script that lets a shell complete commands, options and batch keys (click's own)."""

import click


@click.command(
    epilog="""\b
Examples:
  eval "$(virnuc completion bash)"                                  # this shell; in ~/.bashrc, every one
  eval "$(virnuc completion zsh)"
  virnuc completion fish > ~/.config/fish/completions/virnuc.fish"""
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of SHELL."""
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None, shell
    click.echo(made(context.find_root().command, {}, "virnuc", "_VIRNUC_COMPLETE").source())
