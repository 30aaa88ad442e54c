"""Sinks of log records that speak with the protocols' own types: OpenTelemetry's logs over HTTP, and MongoDB.

Prints `ports OTLP MONGODB`, then a line of JSON for each record. It ends when its input ends.
"""

import http.server
import json
import sys
import threading

import mockupdb
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as service

printing = threading.Lock()


def show(line):
    with printing:
        print(json.dumps(line, default=str), flush=True)


def values(attributes):
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}


class Collector(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        for of in service.ExportLogsServiceRequest.FromString(body).resource_logs:
            for scope in of.scope_logs:
                for record in scope.log_records:
                    show({
                        "over": "otlp",
                        "path": self.path,
                        "resource": values(of.resource.attributes),
                        "time": record.time_unix_nano,
                        "severity": record.severity_number,
                        "level": record.severity_text,
                        "message": record.body.string_value,
                        "fields": values(record.attributes),
                    })
        answer = service.ExportLogsServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def insert(request):
    """Refuses the documents whose message is `refused`."""
    errors = []
    for index, document in enumerate(request["documents"]):
        if document["message"] == "refused":
            errors.append({"index": index, "code": 121, "errmsg": "Document failed validation"})
        else:
            show({"over": "mongodb", "database": request["$db"], "collection": request["insert"], **document})
    request.ok({"n": len(request["documents"]) - len(errors), "writeErrors": errors})
    return True


otlp = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
threading.Thread(target=otlp.serve_forever, daemon=True).start()
mongodb = mockupdb.MockupDB()
mongodb.autoresponds(lambda request: insert(request) if request.command_name == "insert" else None)
mongodb.run()
print(f"ports {otlp.server_port} {mongodb.port}", flush=True)
sys.stdin.read()
