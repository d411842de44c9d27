"""`python -m istiod.schema DIR` writes the CustomResourceDefinition of every kind into DIR."""

from __future__ import annotations

import click

from istiod.schema.definitions import write


@click.command(help=__doc__)
@click.argument("directory")
def main(directory: str) -> None:
    try:
        names = write(directory)
    except OSError as exc:
        raise click.ClickException(f"cannot write to {directory}: {exc.strerror}") from exc
    click.echo(f"{len(names)} definitions in {directory}")


main()
