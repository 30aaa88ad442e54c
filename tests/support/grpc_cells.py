"""A gRPC client. For each argument `ID ADDRESS AUTHORITY` it prints the ID, the status, and the messages that came back."""

import queue
import sys

import grpc

PATIENCE = 30


def options(authority):
    return [
        ("grpc.default_authority", authority),
        ("grpc.enable_http_proxy", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]


def turns(channel, name):
    """Each message is sent only after the one before it came back."""
    outbox = queue.Queue()
    metadata = [("x-request-id", name)]
    answers = channel.stream_stream("/zoo.Zoo/Chat")(iter(outbox.get, None), timeout=PATIENCE, metadata=metadata)
    heard = []
    try:
        for message in (b"first", b"second"):
            outbox.put(message)
            heard.append(next(answers))
        outbox.put(None)
        heard.extend(answers)
    except grpc.RpcError:
        outbox.put(None)
    return answers.code().name, b"|".join(heard).decode()


for argument in sys.argv[1:]:
    name, address, authority = argument.split(" ")
    with grpc.insecure_channel(address, options=options(authority)) as channel:
        print(" ".join(word for word in (name, *turns(channel, name)) if word), flush=True)
