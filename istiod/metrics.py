"""Counters and gauges in the Prometheus text format, under upstream's names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

HELP: Final[dict[str, tuple[str, str]]] = {
    "pilot_info": ("gauge", "Version of this control plane."),
    "pilot_xds": ("gauge", "Proxies connected."),
    "pilot_xds_pushes": ("counter", "Responses sent, by type."),
    "pilot_xds_config_size_bytes": ("counter", "Bytes of resources sent, by type."),
    "pilot_total_xds_rejects": ("counter", "Responses that a proxy refused, by type."),
    "pilot_total_xds_internal_errors": ("counter", "Streams ended by a fault of istiod."),
    "pilot_xds_expired_nonce": ("counter", "Answers to a response that is not the last one, by type."),
    "pilot_xds_write_timeout": ("counter", "Streams given up because the proxy did not read."),
    "pilot_push_triggers": ("counter", "Recomputations, by what caused them."),
    "pilot_inbound_updates": ("counter", "Changed objects read from the sources."),
    "pilot_debounce_time": ("gauge", "Seconds from the first change of the last push to its start."),
    "pilot_pushcontext_init_seconds": ("gauge", "Seconds of the last recomputation."),
    "pilot_services": ("gauge", "Services published."),
    "pilot_total_rejected_configs": ("gauge", "Objects with an error now."),
    "galley_validation_passed": ("counter", "Objects that were read and found valid."),
    "galley_validation_failed": ("counter", "Objects that were read and found invalid."),
    "citadel_server_csr_count": ("counter", "Requests for a certificate."),
    "citadel_server_authentication_failure_count": ("counter", "Requests without valid credentials."),
    "citadel_server_csr_parsing_err_count": ("counter", "Requests with an unusable CSR."),
    "citadel_server_id_extraction_err_count": ("counter", "Requests for an identity that was not granted."),
    "citadel_server_csr_sign_err_count": ("counter", "Requests that failed at signing."),
    "citadel_server_success_cert_issuance_count": ("counter", "Certificates signed."),
    "citadel_server_root_cert_expiry_timestamp": ("gauge", "End of the root certificate, Unix time."),
    "citadel_server_cert_chain_expiry_timestamp": ("gauge", "End of the signing certificate, Unix time."),
    "istiod_uptime_seconds": ("gauge", "Seconds since the start."),
}


class Metrics:
    """One registry, owned by the application."""

    def __init__(self) -> None:
        self._values: dict[str, dict[tuple[tuple[str, str], ...], float]] = {name: {} for name in HELP}
        for name, (kind, _) in HELP.items():
            if kind == "counter":
                self._values[name][()] = 0.0

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        series = self._values[name]
        key = tuple(sorted(labels.items()))
        if key:
            series.pop((), None)
        series[key] = series.get(key, 0.0) + amount

    def set(self, name: str, value: float, **labels: str) -> None:
        self._values[name][tuple(sorted(labels.items()))] = value

    def get(self, name: str, **labels: str) -> float:
        return self._values[name].get(tuple(sorted(labels.items())), 0.0)

    def render(self) -> str:
        """The exposition text."""
        return "".join(self._lines())

    def _lines(self) -> Iterable[str]:
        for name, (kind, text) in HELP.items():
            series = self._values[name]
            if not series:
                continue
            yield f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
            for key, value in series.items():
                labels = ",".join(f'{label}="{_escaped(word)}"' for label, word in key)
                yield f"{name}{{{labels}}} {value:.17g}\n" if labels else f"{name} {value:.17g}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
