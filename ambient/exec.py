"""`ambient exec`: run a program inside a pod of the laptop mesh that `ambient demo --keep` left running."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import click

from ambient.demo import config
from ambient.demo.errors import NoDemo
from ambient.demo.state import State, find


@click.command(
    "exec",
    short_help="Run a program inside a pod of the laptop mesh.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option(
    "--run-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Run directory of the demo, when it was given one.",
)
@click.argument("pod")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="-- COMMAND [ARGUMENT]...")
def command(run_dir: Path | None, pod: str, arguments: tuple[str, ...]) -> NoReturn:
    """Run a program inside a pod of the laptop mesh.

    POD is a pod, a node, a ztunnel or `control`; `shop/frontend` and `frontend` are the same. The program is one of
    this machine's: it sees the machine's files and the pod's network. Its exit status becomes this command's.

    \b
    Examples:
      ambient exec frontend -- curl -s http://10.77.96.10/
      ambient exec node-1 -- tcpdump -ni node-link -c 20
      ambient exec web-1 -- bash
    """
    if arguments[:1] == ("--",):
        arguments = arguments[1:]
    if not arguments:
        raise click.UsageError("say which program to run: ambient exec POD -- COMMAND [ARGUMENT]...")
    line = enter_line(find((run_dir or config.default_run_dir()).absolute()), pod, list(arguments))
    os.execvpe(line[0], line, config.exec_environment())


def enter_line(state: State, pod: str, arguments: list[str]) -> list[str]:
    """The command line that runs `arguments` in a namespace of the mesh; raises NoDemo naming those there are."""
    name = pod.rpartition("/")[2]
    pause = state.namespaces.get(name)
    if pause is None or not pause.alive:
        running = ", ".join(sorted(each for each, process in state.namespaces.items() if process.alive))
        raise NoDemo(f"the laptop mesh has no pod {pod!r}; there are: {running}")
    line = ["nsenter", "--target", str(pause.pid), "--net"]
    if state.rootless and config.rootless_uid() is None:
        line += ["--user", "--mount", "--preserve-credentials"]
    return [*line, "--", *arguments]
