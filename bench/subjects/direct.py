"""The origin, and the way to it without any proxy."""

from __future__ import annotations

import sys
from pathlib import Path
from string import Template
from typing import Final

from ambient.demo.processes import Processes
from bench import config
from bench.subjects.base import Address, await_answer

# One worker process; the answer comes from memory, so the origin costs the same in every slice.
_NGINX: Final = Template("""\
daemon off;
user root root;
worker_processes 1;
pid $dir/nginx.pid;
error_log stderr error;
worker_rlimit_nofile 16384;
events { worker_connections 12000; }
http {
    access_log off;
    default_type text/plain;
    keepalive_timeout 300s;
    keepalive_requests 1000000000;
    client_body_temp_path $dir;
    proxy_temp_path $dir;
    fastcgi_temp_path $dir;
    uwsgi_temp_path $dir;
    scgi_temp_path $dir;
    server {
        listen $host:$port backlog=4096;
        location / { return 200 "$body"; }
    }
}
""")


def nginx_config(directory: Path, host: str, port: int) -> str:
    """The configuration of an nginx whose files are in `directory`."""
    return _NGINX.substitute(dir=directory, host=host, port=port, body="x" * config.BODY_BYTES)


class Origin:
    """nginx with a 1 KB page, an iperf3 server, and a server that holds connections; also the subject `direct`."""

    name = "direct"

    def __init__(self, processes: Processes, directory: Path) -> None:
        self._processes = processes
        self._directory = directory / "origin"
        self._pids: dict[str, int] = {}

    http = Address(config.ORIGIN, config.HTTP_PORT)
    bulk = Address(config.ORIGIN, config.BULK_PORT)
    sink = Address(config.ORIGIN, config.SINK_PORT)

    @property
    def processes(self) -> dict[str, int]:
        """None: a direct connection has no proxy."""
        return {}

    @property
    def pids(self) -> dict[str, int]:
        """The origin's own processes, masters and children."""
        return self._pids

    def start(self) -> None:
        self._directory.mkdir()
        path = self._directory / "nginx.conf"
        path.write_text(nginx_config(self._directory, config.ORIGIN, config.HTTP_PORT))
        command = [config.tool("nginx"), "-e", "stderr", "-c", str(path), "-p", str(self._directory)]
        nginx = self._processes.start("nginx", command)
        iperf = [config.tool("iperf3"), "-s", "-B", config.ORIGIN, "-p", str(config.BULK_PORT)]
        bulk = self._processes.start("iperf3", iperf)
        sink = [sys.executable, "-I", "-S", str(config.PROGRAMS / "sink.py"), config.ORIGIN, str(config.SINK_PORT)]
        holder = self._processes.start("sink", sink)
        await_answer(self.http, "the origin's nginx")
        from ambient.demo.processes import children

        workers = {f"nginx-{number}": pid for number, pid in enumerate(children(nginx.pid))}
        self._pids = {"nginx": nginx.pid, **workers, "iperf3": bulk.pid, "sink": holder.pid}

    def stop(self) -> None:
        for name in ("sink", "iperf3", "nginx"):
            if (process := self._processes.get(name)) is not None:
                process.stop()
                self._processes.forget(name)

    def trim(self) -> None:
        """There is no access log."""
