"""The real applications in the pods: nginx, each with a configuration of its own."""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import Final

from ambient.demo.topology import HTTP, SECOND

_KEEPALIVE: Final = 300  # seconds; a connection that closes earlier was closed by the mesh

# One process, and the user it has anyway: a user namespace with one uid has no other to change to.
_NGINX: Final = Template("""\
daemon off;
master_process off;
user root root;
pid $dir/nginx.pid;
error_log stderr notice;
worker_rlimit_nofile 16384;
events { worker_connections 12000; }
http {
    log_format demo '$$msec $$remote_addr $$server_port $$status $$request_uri';
    access_log $dir/access.log demo;
    default_type text/plain;
    keepalive_timeout ${keepalive}s;
    keepalive_requests 1000000;
    client_max_body_size 1g;
    client_body_temp_path $dir/tmp;
    client_body_in_file_only off;
    proxy_temp_path $dir/tmp;
    fastcgi_temp_path $dir/tmp;
    uwsgi_temp_path $dir/tmp;
    scgi_temp_path $dir/tmp;
    sendfile on;
    server {
        listen $http backlog=4096;
        listen $second backlog=4096;
        location / { return 200 "pod=$pod client=$$remote_addr asked=$$request_uri\\n"; }
        location /files/ { alias $dir/files/; access_log off; dav_methods PUT; }
        location /load { access_log $dir/load.log demo; return 200 "$pod\\n"; }
    }
}
""")


def write_nginx(directory: Path, pod: str) -> list[str]:
    """Write the configuration and directories of one nginx -> its command line."""
    for name in ("tmp", "files"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    path = directory / "nginx.conf"
    path.write_text(_NGINX.substitute(dir=directory, pod=pod, http=HTTP, second=SECOND, keepalive=_KEEPALIVE))
    return ["nginx", "-e", "stderr", "-c", str(path), "-p", str(directory)]
