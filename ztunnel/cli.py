"""The command line of the proxy: `python -m ztunnel [proxy|version|help]`; everything else is in the environment."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence

from meshcore.errors import ConfigError

HELP = """\
usage: ztunnel [proxy | version | help]

The L4 proxy of one node. It is configured by environment variables, as Istio's ztunnel:

  NODE_NAME                          the node whose pods are proxied
  XDS_ADDRESS, CA_ADDRESS            istiod, https://HOST:PORT (15012)
  XDS_ROOT_CA, CA_ROOT_CA            trust anchors for istiod: a file, SYSTEM, or PEM text
  ALT_XDS_HOSTNAME, ALT_CA_HOSTNAME  the name to expect in istiod's certificate
  AUTH_TOKEN                         token for the first certificate: a file, or the token
  INPOD_UDS                          socket of the node agent (/var/run/ztunnel/ztunnel.sock)
  ZTUNNEL_WORKER_THREADS             worker processes: N, P% of the CPUs, 0 = one per CPU
  ZTUNNEL_CPU_LIMIT, ZTUNNEL_RESOURCE_CPU_LIMIT, ZTUNNEL_RESOURCE_CPU_REQUEST
  CLUSTER_ID, TRUST_DOMAIN, NETWORK, POD_NAME, POD_NAMESPACE, SERVICE_ACCOUNT, INSTANCE_IP
  SECRET_TTL                         lifetime of certificates that is asked for (24h)
  CONNECTION_TERMINATION_DEADLINE    how long connections may go on after SIGTERM (5s)
  TERMINATION_GRACE_PERIOD_SECONDS   the same, derived from the pod's grace period
  ENABLE_ORIG_SRC, IPV6_ENABLED, PACKET_MARK, ENABLE_RESPONSE_BAGGAGE, LOCALHOST_APP_TUNNEL, TLS12_ENABLED
  KEEPALIVE_ENABLED, KEEPALIVE_TIME, KEEPALIVE_INTERVAL, KEEPALIVE_RETRIES, USER_TIMEOUT_ENABLED
  POOL_MAX_STREAMS_PER_CONNECTION, POOL_UNUSED_RELEASE_TIMEOUT
  HTTP2_STREAM_WINDOW_SIZE, HTTP2_CONNECTION_WINDOW_SIZE, HTTP2_FRAME_SIZE
  RUST_LOG, LOG_FORMAT               level or target=level, separated by commas; plain or json
  PROXY_CONFIG                       YAML or JSON: discoveryAddress, proxyAdminPort, statsPort, concurrency

Limits that upstream does not have:

  AMBIENT_CONNECT_TIMEOUT            TCP connect (10s)
  AMBIENT_TLS_HANDSHAKE_TIMEOUT      accept or connect until the TLS handshake ends (10s)
  AMBIENT_CONNECT_RESPONSE_TIMEOUT   HBONE request until its answer (15s)
  AMBIENT_UPCALL_TIMEOUT             an unknown flow until its decision (5s)
  AMBIENT_HALF_CLOSE_TIMEOUT         a half-closed connection without traffic (1h, 0s = for ever)
  AMBIENT_PING_INTERVAL, AMBIENT_PING_TIMEOUT   keepalive of HBONE connections (10s, 20s)
  AMBIENT_MAX_STREAMS, AMBIENT_HEADER_LIST_MAX  what an HBONE peer may do (200, 65536 bytes)
  AMBIENT_FLOW_TABLE_MAX             decisions kept by each worker (65536)
  AMBIENT_BUFFER_MAX                 bytes in flight in each worker (67108864)
  AMBIENT_WORKER_HUNG_TIMEOUT        a worker that stands still is replaced (10s)
  AMBIENT_ADMIN_PORT, AMBIENT_STATS_PORT, AMBIENT_READINESS_PORT   (15000, 15020, 15021)

Durations are 250ms, 10s, 5m, 1h30m; switches are true or false.
SIGTERM and the first SIGINT drain, the second SIGINT ends at once.
"""


def main(arguments: Sequence[str]) -> int:
    """Run one command line -> exit status."""
    command = arguments[0] if arguments else "proxy"
    if command in {"help", "--help", "-h"}:
        sys.stdout.write(HELP)
        return 0
    if command == "version":
        from importlib import metadata

        sys.stdout.write(f"ztunnel (ambient-mesh {metadata.version('ambient-mesh')})\n")
        return 0
    if command != "proxy":
        sys.stderr.write(f"ztunnel: error: unknown command {command!r}; try: ztunnel help\n")
        return 2
    try:
        return _proxy()
    except ConfigError as error:
        sys.stderr.write(f"ztunnel: error: {error}\n")
        return 1


def _proxy() -> int:
    from ztunnel import config, log

    settings = config.load()
    levels = log.start(settings.log_filter, json=settings.log_json)
    import uvloop

    from ztunnel.app import App, raise_descriptor_limit

    raise_descriptor_limit()

    async def run() -> int:
        app = App(settings, levels)
        gc.collect()
        gc.freeze()
        return await app.run()

    status = uvloop.run(run())
    sys.stdout.flush()
    # Nothing is left to be written, and taking the interpreter apart would only cost time.
    os._exit(status)
