"""Counters, gauges and histograms in the Prometheus text format, under upstream's names.

`docs/istiod-metrics.md` says what each of them means here, and why some of upstream's are absent.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

_SECONDS: Final = (0.1, 0.5, 1, 3, 5, 10, 20, 30)
_FAST: Final = (0.01, 0.1, 1, 3, 5, 10, 20, 30)
_INIT: Final = (0.01, 0.1, 0.5, 1, 3, 5)
_BYTES: Final = (1, 10_000, 1_000_000, 4_000_000, 10_000_000, 40_000_000)
"""Upper bounds of buckets: seconds, and bytes of one response. Those of pilot/pkg/xds/monitoring.go."""

SERIES_MAX: Final = 1000
"""Label sets of one metric; some labels are texts of proxies. What comes after is counted under OTHER."""
OTHER: Final = "other"
LABEL_CHARS_MAX: Final = 128


class Metric(NamedTuple):
    """`kind` is counter, gauge or histogram. A metric without labels is there from the start, as 0."""

    kind: str
    text: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def _counter(text: str, *labels: str) -> Metric:
    return Metric("counter", text, labels)


def _gauge(text: str, *labels: str) -> Metric:
    return Metric("gauge", text, labels)


def _histogram(text: str, buckets: tuple[float, ...], *labels: str) -> Metric:
    return Metric("histogram", text, labels, buckets)


METRICS: Final[Mapping[str, Metric]] = {
    "pilot_info": _gauge("Version of this control plane.", "version"),
    "pilot_xds": _gauge("Proxies subscribed, by their version.", "version"),
    "pilot_xds_pushes": _counter("Responses sent, by type.", "type"),
    "pilot_xds_push_time": _histogram("Seconds to make and send one response, by type.", _FAST, "type"),
    "pilot_xds_send_time": _histogram("Seconds until the connection took one response.", _FAST),
    "pilot_xds_config_size_bytes": _histogram("Bytes of the resources in one response, by type.", _BYTES, "type"),
    "pilot_proxy_queue_time": _histogram("Seconds from a push to the response of one type for one proxy.", _SECONDS),
    "pilot_proxy_convergence_time": _histogram(
        "Seconds from the first change of a push to the acknowledgement of one type by one proxy.", _SECONDS
    ),
    "pilot_total_xds_rejects": _counter("Responses that a proxy refused, by type.", "type"),
    "pilot_xds_cds_reject": _gauge("Clusters responses that a proxy refused."),
    "pilot_xds_eds_reject": _gauge("Endpoints responses that a proxy refused."),
    "pilot_xds_lds_reject": _gauge("Listeners responses that a proxy refused."),
    "pilot_xds_rds_reject": _gauge("Routes responses that a proxy refused."),
    "pilot_total_xds_internal_errors": _counter("Streams ended by a fault of istiod."),
    "pilot_xds_expired_nonce": _counter("Answers to a response that is not the last one, by type.", "type"),
    "pilot_xds_write_timeout": _counter("Streams given up because the proxy did not read."),
    "pilot_xds_recv_max": _gauge("Bytes of the largest request so far."),
    "pilot_push_triggers": _counter("What made istiod compute again, by upstream's reasons.", "type"),
    "pilot_inbound_updates": _counter("Changed objects read from the sources.", "type"),
    "pilot_debounce_time": _histogram("Seconds from the first change of a push to its start.", _FAST),
    "pilot_pushcontext_init_seconds": _histogram("Seconds of one recomputation.", _INIT),
    "pilot_services": _gauge("Services published."),
    "pilot_virt_services": _gauge("VirtualServices in force."),
    "pilot_endpoint_not_ready": _gauge("Workloads published as unhealthy."),
    "pilot_total_rejected_configs": _gauge("Objects with an error now."),
    "galley_validation_passed": _counter("Reviews of the webhook that passed.", "group", "version", "resource"),
    "galley_validation_failed": _counter(
        "Reviews of the webhook that did not pass.", "group", "version", "resource", "reason"
    ),
    "galley_validation_http_error": _counter("Requests to the webhook that are no review.", "status"),
    "galley_validation_config_updates": _counter("Writes of the webhook's configuration."),
    "galley_validation_config_update_error": _counter("Such writes that failed.", "reason"),
    "citadel_server_csr_count": _counter("Requests for a certificate."),
    "citadel_server_authentication_failure_count": _counter("Requests without valid credentials."),
    "citadel_server_csr_parsing_err_count": _counter("Requests with an unusable CSR."),
    "citadel_server_id_extraction_err_count": _counter("Requests for an identity that was not granted."),
    "citadel_server_csr_sign_err_count": _counter("Requests that failed at signing.", "error"),
    "citadel_server_success_cert_issuance_count": _counter("Certificates signed."),
    "citadel_server_root_cert_expiry_timestamp": _gauge("End of the root certificate, Unix time."),
    "citadel_server_cert_chain_expiry_timestamp": _gauge("End of the signing certificate, Unix time."),
    "citadel_server_root_cert_expiry_seconds": _gauge("Seconds until the root certificate ends."),
    "citadel_server_cert_chain_expiry_seconds": _gauge("Seconds until the signing certificate ends."),
    "controller_sync_errors_total": _counter("Statuses that could not be written."),
    "istiod_uptime_seconds": _gauge("Seconds since the start."),
    "istiod_managed_clusters": _gauge("Clusters whose objects are read.", "cluster_type"),
    "istiod_objects": _gauge("Objects in force, by kind.", "kind"),
    "istiod_leader": _gauge("1 while this istiod holds the lease and writes."),
    "istiod_translations_total": _counter("Derivations computed, or kept unchanged.", "derivation", "result"),
    "istiod_translation_failures_total": _counter("Derivations that failed; each is a bug."),
    "istiod_translation_nodes": _gauge("Derivations kept in memory."),
    "istiod_reflector_objects": _gauge("Objects that the API server has of a resource.", "resource"),
    "istiod_reflector_synced": _gauge("1 once a resource was listed as a whole, or is not served.", "resource"),
    "istiod_reflector_lists_total": _counter("Lists begun.", "resource"),
    "istiod_reflector_watches_total": _counter("Watches begun.", "resource"),
    "istiod_reflector_events_total": _counter("Events of watches, bookmarks not counted.", "resource"),
    "istiod_reflector_errors_total": _counter("Attempts to list or watch that failed.", "resource"),
}

_Labels = tuple[str, ...]


class _Histogram:
    __slots__ = ("counts", "sum")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * (buckets + 1)
        self.sum = 0.0


class Metrics:
    """One registry, owned by the application. Labels are given by name; each metric has a fixed set of them."""

    def __init__(self, metrics: Mapping[str, Metric] = METRICS) -> None:
        self._metrics = metrics
        self._values: dict[str, dict[_Labels, float]] = {}
        self._histograms: dict[str, dict[_Labels, _Histogram]] = {}
        for name, metric in metrics.items():
            if metric.kind == "histogram":
                self._histograms[name] = {}
            else:
                self._values[name] = {} if metric.labels else {(): 0.0}

    def add(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Count; a gauge may also go down."""
        series = self._values[name]
        key = self._key(name, labels, series)
        series[key] = series.get(key, 0.0) + amount

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge, or a counter that somebody else counts."""
        series = self._values[name]
        series[self._key(name, labels, series)] = value

    def peak(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge to the largest value it was given."""
        self.set(name, max(value, self.get(name, **labels)), **labels)

    def replace(self, name: str, values: Mapping[str, float] | Mapping[_Labels, float]) -> None:
        """All series of a metric anew: by the value of its one label, or by those of all of them."""
        self._values[name] = {(key,) if isinstance(key, str) else key: value for key, value in values.items()}

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Put a value into its bucket."""
        series = self._histograms[name]
        key = self._key(name, labels, series)
        buckets = self._metrics[name].buckets
        histogram = series.get(key)
        if histogram is None:
            histogram = series[key] = _Histogram(len(buckets))
        histogram.counts[bisect_left(buckets, value)] += 1
        histogram.sum += value

    def get(self, name: str, **labels: str) -> float:
        """The value of a series, for a histogram how many it has seen; without labels that of all series together."""
        found: Mapping[_Labels, float]
        if name in self._values:
            found = self._values[name]
        else:
            found = {key: float(sum(one.counts)) for key, one in self._histograms[name].items()}
        return found.get(self._key(name, labels, found), 0.0) if labels else sum(found.values())

    def render(self) -> str:
        """The exposition text, format 0.0.4."""
        return "".join(self._lines())

    def _key(self, name: str, labels: Mapping[str, str], series: Mapping[_Labels, object]) -> _Labels:
        names = self._metrics[name].labels
        if len(labels) != len(names):
            raise ValueError(f"BUG: {name} has the labels {names}, not {tuple(labels)}")
        key = tuple([labels[label][:LABEL_CHARS_MAX] for label in names])
        if key in series or len(series) < SERIES_MAX:
            return key
        return (OTHER,) * len(names)

    def _lines(self) -> Iterable[str]:
        for name, metric in self._metrics.items():
            lines = list(self._histogram_lines(name) if metric.buckets else self._value_lines(name))
            if lines:
                yield f"# HELP {name} {metric.text}\n# TYPE {name} {metric.kind}\n"
                yield from lines

    def _value_lines(self, name: str) -> Iterable[str]:
        names = self._metrics[name].labels
        for key, value in self._values[name].items():
            yield f"{name}{_labels(names, key)} {value:.17g}\n"

    def _histogram_lines(self, name: str) -> Iterable[str]:
        metric = self._metrics[name]
        bounds = [*(f"{bound:g}" for bound in metric.buckets), "+Inf"]
        for key, histogram in self._histograms[name].items():
            for bound, count in zip(bounds, accumulate(histogram.counts), strict=True):
                yield f"{name}_bucket{_labels((*metric.labels, 'le'), (*key, bound))} {count}\n"
            yield f"{name}_sum{_labels(metric.labels, key)} {histogram.sum:.17g}\n"
            yield f"{name}_count{_labels(metric.labels, key)} {sum(histogram.counts)}\n"


def _labels(names: Sequence[str], values: Sequence[str]) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))
    return f"{{{pairs}}}" if pairs else ""


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
