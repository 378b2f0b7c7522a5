"""Reads OpenTelemetry metrics as Prometheus samples, and receives them over OTLP for real."""

from __future__ import annotations

import gzip
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

from poolscope import catalog
from poolscope.catalog import prometheus_label

METRICS = {metric.name: metric for metric in catalog.CATALOG}


def as_prometheus(name, attributes, point):
    """Translate one data point to the samples that Prometheus would show of it.

    ``point`` is a number, or ``(count, sum, bounds, bucket counts)``.
    """
    labels = {prometheus_label(key): _text(value) for key, value in attributes.items()}
    name = METRICS[name].prometheus_name
    if not isinstance(point, tuple):
        return {(name, frozenset(labels.items())): float(point)}
    count, total, bounds, buckets = point
    found = {(f"{name}_{part}", frozenset(labels.items())): float(value)
             for part, value in (("count", count), ("sum", total))}  # fmt: skip
    below = 0
    for bound, bucket in zip([*bounds, float("inf")], buckets, strict=True):
        below += bucket
        le = "+Inf" if bound == float("inf") else str(float(bound))
        key = frozenset((labels | {"le": le}).items())
        found[f"{name}_bucket", key] = float(below)
    return found


def _text(value):
    return str(value).lower() if isinstance(value, bool) else str(value)


def samples_of(data):
    """Return a reader's metrics as Prometheus samples: ``{(name, labels): value}``."""
    found = {}
    for metric in metrics_of(data):
        for point in metric.data.data_points:
            value = (
                point.value
                if hasattr(point, "value")
                else (point.count, point.sum, point.explicit_bounds, point.bucket_counts)
            )
            found |= as_prometheus(metric.name, point.attributes, value)
    return found


def metrics_of(data):
    """Return the metrics of poolscope's scope."""
    return [
        metric
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics
        if scope.scope.name == "poolscope"
        for metric in scope.metrics
    ]


class Receiver:
    """An OTLP receiver over HTTP/protobuf or gRPC, which keeps the last of each series.

    ``answer`` is the status that it gives over HTTP.
    """

    def __init__(self, protocol="http/protobuf", answer=200):
        self.samples = {}
        self.resources = []
        self.requests = 0
        if protocol == "grpc":
            self._serve_grpc()
        else:
            self._serve_http(answer)

    def _serve_http(self, answer):
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver.paths = [self.path]
                receiver.take(ExportMetricsServiceRequest.FromString(body), answer)
                response = ExportMetricsServiceResponse().SerializeToString()
                self.send_response(answer)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(response)))
                self.end_headers()
                self.wfile.write(response)

            def log_message(self, *_args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_port}"
        self.stop = lambda: (server.shutdown(), server.server_close())

    def _serve_grpc(self):
        receiver = self

        class Servicer(metrics_service_pb2_grpc.MetricsServiceServicer):
            def Export(self, request, _context):  # noqa: N802 - the protocol's name
                receiver.take(request, 200)
                return ExportMetricsServiceResponse()

        server = grpc.server(ThreadPoolExecutor(2))
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(Servicer(), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        self.url = f"http://127.0.0.1:{port}"
        self.stop = lambda: server.stop(0).wait()

    def take(self, request, answer):
        """Keep what an export holds, if it is accepted."""
        self.requests += 1
        if answer != 200:
            return
        for resource in request.resource_metrics:
            self.resources.append(_plain(resource.resource.attributes))
            for scope in resource.scope_metrics:
                if scope.scope.name != "poolscope":
                    continue
                for metric in scope.metrics:
                    for point in getattr(metric, metric.WhichOneof("data")).data_points:
                        self.samples |= as_prometheus(
                            metric.name, _plain(point.attributes), _value(point)
                        )


def _plain(attributes):
    return {each.key: _any(each.value) for each in attributes}


def _any(value):
    (found,) = MessageToDict(value).values()
    return int(found) if value.WhichOneof("value") == "int_value" else found


def _value(point):
    if hasattr(point, "bucket_counts"):
        return point.count, point.sum, list(point.explicit_bounds), list(point.bucket_counts)
    return getattr(point, point.WhichOneof("value"))
