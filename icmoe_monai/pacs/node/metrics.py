"""What a node tells of itself over HTTP: `/health` for whoever watches it, and `/metrics` for Prometheus.

Neither holds anything of a patient: numbers, states, and the names of peers that the config gives.
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, Counter, Histogram, Info
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import ThreadingWSGIServer, make_wsgi_app

from icmoe_monai.errors import InputError, kind_of
from icmoe_monai.pacs.node.queue import Queue
from icmoe_monai.version import __version__

_SECONDS_OF_A_STUDY = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800)


class Metrics:
    """Numbers of a node, in the names and the format of Prometheus.

    Args:
        queue: The node's queue, which is asked at every reading.
        folder: Folder of the node, whose disk is told.

    Attributes:
        associations: Counted by `outcome`.
        instances: Images that were offered, by `outcome`.
        sent: Results that reached a peer, by `peer`.
        unsent: Tries to send that failed, by `peer` and `reason`.
        seconds: How long a study took to predict.
    """

    def __init__(self, queue: Queue, folder: Path) -> None:
        self.registry = CollectorRegistry()
        counted: Any = {"registry": self.registry, "namespace": "icmoe_node"}
        self.associations = Counter("associations", "Associations that were asked for", ["outcome"], **counted)
        self.instances = Counter("instances", "Instances that were offered", ["outcome"], **counted)
        self.sent = Counter("results_sent", "Results that are at a peer", ["peer"], **counted)
        self.unsent = Counter("send_failures", "Tries to send a result that failed", ["peer", "reason"], **counted)
        self.seconds = Histogram(
            "prediction_seconds", "Seconds that a study took", buckets=_SECONDS_OF_A_STUDY, **counted
        )
        Info("build", "Version of the package", **counted).info({"version": __version__})
        self._queue = queue
        self._folder = folder
        self.registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Return what the queue and the disk tell, as prometheus_client asks for it."""
        states = GaugeMetricFamily("icmoe_node_studies", "Studies by their state", labels=["state"])
        for state, count in self._queue.counts().items():
            states.add_metric([state], count)
        reasons = GaugeMetricFamily("icmoe_node_failed_studies", "Failed studies by their reason", labels=["reason"])
        for reason, count in self._queue.reasons().items():
            reasons.add_metric([reason], count)
        waiting = GaugeMetricFamily("icmoe_node_results_waiting", "Results that are not at their peer yet")
        waiting.add_metric([], self._queue.unsent())
        free = GaugeMetricFamily("icmoe_node_disk_free_bytes", "Bytes that are free on the node's disk")
        free.add_metric([], free_bytes(self._folder))
        return [states, reasons, waiting, free]


def free_bytes(folder: Path) -> int:
    """Return how many bytes are free where a folder lies."""
    return shutil.disk_usage(folder).free


class StatusServer:
    """Serve `/health` and `/metrics`.

    Args:
        address: Address and port to listen at.
        metrics: What `/metrics` tells.
        health: Returns what `/health` tells: plain values by name, of which `status` is ok where nothing is wrong.

    Raises:
        InputError: If the address cannot be listened at.
    """

    def __init__(self, address: tuple[str, int], metrics: Metrics, health: Callable[[], dict[str, Any]]) -> None:
        self._metrics = make_wsgi_app(metrics.registry)
        self._health = health
        try:
            self._server = make_server(*address, self._answer, ThreadingWSGIServer, _Quiet)
        except OSError as error:
            raise InputError(
                f"Port {address[1]} of {address[0]} cannot be listened at ({kind_of(error)}): give another health_port."
            ) from None
        self._thread = threading.Thread(target=self._server.serve_forever, name="status", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """End to answer; also where it has not begun."""
        if self._thread.is_alive():  # else the server would wait for its thread for ever
            self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if environ.get("REQUEST_METHOD") not in ("GET", "HEAD"):
            return _plain(start, "405 Method Not Allowed", b"")
        if path == "/metrics":
            return self._metrics(environ, start)
        if path == "/health":
            told = self._health()
            status = "200 OK" if told["status"] == "ok" else "503 Service Unavailable"
            return _plain(start, status, json.dumps(told).encode() + b"\n", "application/json")
        return _plain(start, "404 Not Found", b"/health and /metrics\n")


def _plain(start: Callable[..., Any], status: str, body: bytes, kind: str = "text/plain") -> Iterator[bytes]:
    start(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return iter([body])


class _Quiet(WSGIRequestHandler):
    """Answer without a line on standard error for each request."""

    timeout = 10  # of a client that says nothing

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
