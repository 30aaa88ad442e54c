"""Reads a SPIFFE Workload API with the library `spiffe`, and a TLS server's certificate with `ssl`.

`spiffe_client.py SOCKET HOST PORT` prints a line of JSON: the SPIFFE ID, and the SHA-256 of each certificate.
"""

import hashlib
import json
import ssl
import sys

import grpc
from cryptography.hazmat.primitives.serialization import Encoding
from spiffe import WorkloadApiClient

socket, host, port = sys.argv[1:]

# grpcio sends the path of a Unix socket as authority, which the crate h2, with which the test's agent is written, refuses.
insecure_channel = grpc.insecure_channel
grpc.insecure_channel = lambda target: insecure_channel(target, [("grpc.default_authority", "localhost")])


def sha256(certificate):
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


with WorkloadApiClient(f"unix:{socket}") as client:
    context = client.fetch_x509_context(timeout=30)

svid = context.default_svid
bundles = context.x509_bundle_set.bundles
served = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((host, int(port)), timeout=30))
found = {
    "spiffe_id": str(svid.spiffe_id),
    "chain": [sha256(certificate) for certificate in svid.cert_chain],
    "bundles": {bundle.trust_domain.name: sorted(map(sha256, bundle.x509_authorities)) for bundle in bundles},
    "served": hashlib.sha256(served).hexdigest(),
}
print(json.dumps(found))
