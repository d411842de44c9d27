"""The `ambient` command: a table of subcommands, each imported only when it is used.

`ambient --help` therefore needs no component installed, and a role whose packages are missing says which
extra brings them. Exit codes: 0, 1 for an error, 2 for a wrong command line, 130 for Ctrl-C.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn

import click

from meshcore.errors import MeshError

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

_SETTING = re.compile(r"[A-Z][A-Z0-9_]*=.*", re.DOTALL)
_OUR_PACKAGES = frozenset({"ambient", "meshcore", "ztunnel", "waypoint", "istiod", "cni", "bench"})


class CommandUnavailable(MeshError, code="command.unavailable"):
    """A subcommand exists, but this installation cannot run it."""


class _Lazy(NamedTuple):
    """A command elsewhere: `target` is `module:name`, `extra` is what brings its packages."""

    target: str
    extra: str
    summary: str


_ELSEWHERE: dict[str, _Lazy] = {
    "demo": _Lazy("ambient.demo.cli:command", "demo", "Build a two-node mesh on this machine and exercise it."),
    "exec": _Lazy("ambient.exec:command", "demo", "Run a program inside a pod of the laptop mesh."),
    "ztunnel-config": _Lazy("ambient.ztunnel_config:command", "ztunnel", "Show what a running ztunnel knows."),
    "proxy-status": _Lazy("ambient.proxy_status:command", "istiod", "Show whether proxies have what istiod published."),
    "istiod": _Lazy("istiod.cli:command", "istiod", "Run the control plane."),
    "analyze": _Lazy("istiod.analyze.cli:command", "istiod", "Find mistakes in files or in a cluster."),
    "cni": _Lazy("cni.cli:command", "cni", "Run the node agent that enrols pods."),
}


class _Commands(click.Group):
    """Commands of this file, then those of `_ELSEWHERE`; the help of the latter needs no import."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_ELSEWHERE, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _ELSEWHERE:
            return load(cmd_name, _ELSEWHERE[cmd_name])
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in self.list_commands(ctx):
            import difflib

            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            ctx.fail(f"No such command '{args[0]}'.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, lazy.summary) for name, lazy in _ELSEWHERE.items()]
        rows += [(name, command.get_short_help_str(limit=90)) for name, command in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def load(name: str, lazy: _Lazy) -> click.Command:
    """Import the command behind `ambient NAME`; raises CommandUnavailable with the way to get it."""
    module_name, _, attribute = lazy.target.partition(":")
    try:
        command = getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        raise CommandUnavailable(_why_missing(name, lazy, error.name or "")) from error
    if not isinstance(command, click.Command):
        raise CommandUnavailable(f"ambient {name}: BUG: {lazy.target} is not a command")
    return command


def _why_missing(name: str, lazy: _Lazy, module: str) -> str:
    import pathlib

    if module.partition(".")[0] not in _OUR_PACKAGES:
        return (
            f"ambient {name} needs the extra `{lazy.extra}` (the module {module} is missing): "
            f"pip install 'ambient-mesh[{lazy.extra}]'"
        )
    if pathlib.Path(__file__).parents[1].joinpath(*module.split(".")).with_suffix(".pyx").exists():
        return f"ambient {name} needs the compiled extension {module}: run `make build`"
    return f"ambient {name} is not part of this installation: it has no module {module}"


def _become(module: str, arguments: Sequence[str], settings: Mapping[str, str] | None = None) -> NoReturn:
    """Replace this process by `python -m module`: what runs then holds neither click nor this command.

    `settings` are added to its environment.
    """
    if importlib.util.find_spec(module) is None or importlib.util.find_spec(f"{module}.__main__") is None:
        raise CommandUnavailable(f"ambient {module} is not part of this installation: it has no program `{module}`")
    for variable, value in (settings or {}).items():
        os.putenv(variable, value)
    sys.stdout.flush()
    # -P: a directory that happens to be the current one must not supply modules to a privileged program.
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *arguments])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="ambient-mesh", prog_name="ambient")
def cli() -> None:
    """An ambient service mesh: mutual TLS, identity and policy for pods, without sidecars.

    \b
    Examples:
      ambient demo                       a whole mesh on this machine, exercised and reported
      ambient demo --keep                the same, left running to look around
      ambient exec frontend -- curl -s http://10.77.96.10/hello
      ambient ztunnel-config workloads   what ztunnel knows about the mesh
      ambient COMMAND --help             options and examples of one command
    """


_ZTUNNEL_SETTINGS = {
    "node": "NODE_NAME",
    "xds_address": "XDS_ADDRESS",
    "ca_address": "CA_ADDRESS",
    "token": "AUTH_TOKEN",
    "zds": "INPOD_UDS",
    "workers": "ZTUNNEL_WORKER_THREADS",
}


@cli.command()
@click.option("--node", metavar="NAME", help="The node this proxy serves (NODE_NAME).")
@click.option("--xds-address", metavar="URL", help="Where istiod serves the configuration (XDS_ADDRESS).")
@click.option("--ca-address", metavar="URL", help="Where istiod signs certificates (CA_ADDRESS).")
@click.option("--root-ca", metavar="FILE", help="Trust anchors for istiod (XDS_ROOT_CA and CA_ROOT_CA).")
@click.option("--token", metavar="FILE", help="Token that proves who this proxy is (AUTH_TOKEN).")
@click.option("--zds", metavar="PATH", help="Socket of the node agent (INPOD_UDS).")
@click.option("--workers", metavar="N", help="Worker processes; 0 means one per CPU (ZTUNNEL_WORKER_THREADS).")
@click.argument("settings", nargs=-1, metavar="[NAME=VALUE]...")
def ztunnel(root_ca: str | None, settings: tuple[str, ...], **options: str | None) -> None:
    """Run the L4 proxy of one node.

    Each option sets the environment variable that it names, and every other setting is given as NAME=VALUE;
    names are those of Istio's ztunnel. What stands on the command line wins over the environment.

    \b
    Examples:
      ambient ztunnel --node node1 --xds-address https://istiod.istio-system.svc:15012
      ambient ztunnel --node node1 --workers 2 POOL_UNUSED_RELEASE_TIMEOUT=1m
      NODE_NAME=node1 ambient ztunnel
    """
    chosen = {variable: options[option] for option, variable in _ZTUNNEL_SETTINGS.items()}
    chosen |= {"XDS_ROOT_CA": root_ca, "CA_ROOT_CA": root_ca}
    for setting in settings:
        if not _SETTING.fullmatch(setting):
            raise click.UsageError(f"'{setting}' is not of the form NAME=VALUE, for example LOG_FORMAT=json")
        variable, _, value = setting.partition("=")
        chosen[variable] = value
    _become("ztunnel", (), {variable: text for variable, text in chosen.items() if text is not None})


@cli.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def bench(arguments: tuple[str, ...]) -> None:
    """Measure the mesh against its rivals.

    It needs a source checkout: no package contains it. Everything after `bench` goes to it.

    \b
    Examples:
      ambient bench --help
    """
    _become("bench", arguments)


@cli.command()
def version() -> None:
    """Print the versions that a bug report should name.

    \b
    Examples:
      ambient version
    """
    import platform
    import ssl
    from importlib import metadata

    click.echo(f"ambient-mesh {metadata.version('ambient-mesh')}")
    click.echo(f"Python {platform.python_version()}, {ssl.OPENSSL_VERSION}, Linux {platform.release()}")


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; a user's mistake is one line, never a stack trace."""
    try:
        result = cli.main(arguments, prog_name="ambient", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except MeshError as error:
        click.echo(f"ambient: error: {error}", err=True)
        return EXIT_ERROR
    except BrokenPipeError:
        # Whoever read our output is gone; the interpreter must not try again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_BROKEN_PIPE
    except OSError as error:
        if error.filename is None:
            raise
        click.echo(f"ambient: error: {error.filename}: {error.strerror}", err=True)
        return EXIT_ERROR
    return result if isinstance(result, int) else 0


def main() -> NoReturn:
    """Entry point of the console script."""
    sys.exit(run())
