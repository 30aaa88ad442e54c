"""A collector of the OpenTelemetry protocol, with the protocol's own types, over HTTP and over gRPC.

Prints `ports HTTP GRPC`, then a line of JSON for each span. It ends when its input ends.
"""

import http.server
import json
import sys
import threading
from concurrent import futures

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service_grpc
from opentelemetry.proto.trace.v1 import trace_pb2 as trace

printing = threading.Lock()


def values(attributes):
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}


def show(request, over, tenant):
    for of in request.resource_spans:
        resource = values(of.resource.attributes)
        for scope in of.scope_spans:
            for span in scope.spans:
                line = {
                    "over": over,
                    "tenant": tenant,
                    "workload": resource.get("service.name"),
                    "scope": scope.scope.name,
                    "trace": span.trace_id.hex(),
                    "id": span.span_id.hex(),
                    "parent": span.parent_span_id.hex(),
                    "name": span.name,
                    "kind": trace.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
                    "status": trace.Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
                    "message": span.status.message,
                    "from": span.start_time_unix_nano,
                    "to": span.end_time_unix_nano,
                    "attributes": values(span.attributes),
                    "events": [event.name for event in span.events],
                }
                with printing:
                    print(json.dumps(line), flush=True)


class OverHttp(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        if self.path != "/v1/traces" or self.headers["content-type"] != "application/x-protobuf":
            return self.send_error(404)
        content = self.rfile.read(int(self.headers["content-length"]))
        show(service.ExportTraceServiceRequest.FromString(content), "http", self.headers["x-tenant"])
        answer = service.ExportTraceServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


class OverGrpc(service_grpc.TraceServiceServicer):
    def Export(self, request, context):
        show(request, "grpc", dict(context.invocation_metadata()).get("x-tenant"))
        return service.ExportTraceServiceResponse()


def main():
    over_http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), OverHttp)
    threading.Thread(target=over_http.serve_forever, daemon=True).start()
    over_grpc = grpc.server(futures.ThreadPoolExecutor(4))
    service_grpc.add_TraceServiceServicer_to_server(OverGrpc(), over_grpc)
    port = over_grpc.add_insecure_port("127.0.0.1:0")
    over_grpc.start()
    print("ports", over_http.server_port, port, flush=True)
    sys.stdin.read()
    over_grpc.stop(0)


main()
