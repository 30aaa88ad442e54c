"""An external authorizer over gRPC, with Envoy's messages as envoy-data-plane generates them from Envoy's files.

It prints its port, and then each question as a line of JSON. The path decides on the answer. It listens until it is killed.
"""

import json
import sys
import time
from concurrent import futures

import grpc
from envoy_data_plane.envoy.config.core.v3 import HeaderValue, HeaderValueOption, HeaderValueOptionHeaderAppendAction
from envoy_data_plane.envoy.service.auth.v3 import CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse
from envoy_data_plane.envoy.type.v3 import HttpStatus, StatusCode
from envoy_data_plane.google.rpc import Status

OVERWRITE = HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
PERMISSION_DENIED = 7


def header(name, value, **how):
    """Without `how` the option says nothing of how the header is written, as many authorizers leave it."""
    return HeaderValueOption(header=HeaderValue(key=name, value=value), **how)


def allow():
    response = OkHttpResponse(
        headers=[
            header("x-user", "jo"),
            header("x-team", "bank", append=True),
            header("x-role", "reader", append_action=OVERWRITE),
        ],
        headers_to_remove=["authorization"],
        response_headers_to_add=[header("x-authorized", "yes")],
    )
    return CheckResponse(status=Status(), ok_response=response)


def deny():
    response = DeniedHttpResponse(
        status=HttpStatus(code=StatusCode.PaymentRequired),
        headers=[
            header("x-why", "unpaid", append_action=OVERWRITE),
            header("set-cookie", "a=1"),
            header("set-cookie", "b=2"),
        ],
        body='{"error": "pay first"}',
    )
    return CheckResponse(status=Status(code=PERMISSION_DENIED), denied_response=response)


def peer(of):
    address = of.address.socket_address
    return {"address": address.address, "principal": of.principal}


def check(request, context):
    attributes = request.attributes
    http = attributes.request.http
    told = {
        "source": peer(attributes.source),
        "destination": peer(attributes.destination),
        "port": attributes.destination.address.socket_address.port_value,
        "http": {name: getattr(http, name) for name in ("id", "method", "path", "host", "scheme", "size", "protocol", "body")},
        "raw_body": list(http.raw_body),
        "headers": dict(http.headers),
        "left": context.time_remaining(),
    }
    print(json.dumps(told), flush=True)
    match http.path.split("?")[0]:
        case "/deny":
            return bytes(deny())
        case "/error":
            return bytes(CheckResponse(status=Status(code=13), error_response=DeniedHttpResponse(body="broken")))
        case "/slow":
            time.sleep(15)
        case "/garbage":
            return b"\x0a\xff"
        case "/empty":
            return b""
        case "/abort":
            context.abort(grpc.StatusCode.INTERNAL, "broken")
        case "/raise":
            raise ValueError("a mistake of the authorizer")
    return bytes(allow())


handler = grpc.unary_unary_rpc_method_handler(check, request_deserializer=CheckRequest.parse)
server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
service = grpc.method_handlers_generic_handler("envoy.service.auth.v3.Authorization", {"Check": handler})
server.add_generic_rpc_handlers((service,))
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(json.dumps({"port": port}), flush=True)
sys.exit(server.wait_for_termination())
