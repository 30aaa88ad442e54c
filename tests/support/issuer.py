"""An issuer of tokens (PyJWT) that publishes its keys over http and https.

Usage: issuer.py DIRECTORY. It writes the CA of its https server to DIRECTORY/ca.pem, and prints one line of JSON: the ports of
both servers, and tokens by name. The tokens of `good` are to be accepted, those of `bad` refused.
"""

import base64
import datetime
import hashlib
import hmac
import http.server
import ipaddress
import json
import ssl
import sys
import threading
import time

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

PATH = "/.well-known/jwks.json"


def keys():
    """Private keys by the names of their algorithms."""
    return {
        "RS256": rsa.generate_private_key(65537, 2048),
        "PS384": rsa.generate_private_key(65537, 3072),
        "ES256": ec.generate_private_key(ec.SECP256R1()),
        "ES384": ec.generate_private_key(ec.SECP384R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate(),
    }


def jwk(algorithm, private):
    public = jwt.algorithms.get_default_algorithms()[algorithm].to_jwk(private.public_key(), as_dict=True)
    return {**public, "kid": algorithm, "alg": algorithm, "use": "sig"}


def claims(**more):
    now = int(time.time())
    usual = {"iss": "https://id.example", "aud": "orders", "sub": "svc-a", "groups": ["user", "admin"]}
    return {**usual, "iat": now, "nbf": now, "exp": now + 3600, **more}


def encoded(value):
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def forged(header, payload, secret):
    """A token by hand: PyJWT itself refuses to make these."""
    message = encoded(json.dumps(header).encode()) + "." + encoded(json.dumps(payload).encode())
    signature = hmac.new(secret, message.encode(), hashlib.sha256).digest() if secret is not None else b""
    return message + "." + encoded(signature)


def tokens(private):
    now = int(time.time())
    sign = lambda name, payload, **headers: jwt.encode(payload, private[name], name, {"kid": name, **headers})
    pem = private["RS256"].public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    thief = ec.generate_private_key(ec.SECP256R1())
    good = {name: sign(name, claims()) for name in private}
    good["without kid"] = jwt.encode(claims(), private["ES384"], "ES384")
    good["list of audiences"] = sign("ES256", claims(aud=["billing", "orders"]))
    bad = {
        "none": jwt.encode(claims(), None, "none"),
        "none with kid": jwt.encode(claims(), None, "none", {"kid": "RS256"}),
        "public key as secret": forged({"alg": "HS256", "kid": "RS256"}, claims(), pem),
        "empty secret": forged({"alg": "HS256", "kid": "RS256"}, claims(), b""),
        "no signature": forged({"alg": "ES256", "kid": "ES256"}, claims(), None),
        "another key": jwt.encode(claims(), thief, "ES256", {"kid": "ES256"}),
        "its own key": jwt.encode(claims(), thief, "ES256", {"jwk": jwk("ES256", thief)}),
        "unknown key": jwt.encode(claims(), thief, "ES256", {"kid": "other"}),
        "another algorithm": jwt.encode(claims(), private["RS256"], "RS512", {"kid": "RS256"}),
        "another kind": jwt.encode(claims(), private["ES256"], "ES256", {"kid": "RS256"}),
        "expired": sign("ES256", claims(exp=now - 60)),
        "too early": sign("ES256", claims(nbf=now + 600)),
        "another issuer": sign("ES256", claims(iss="https://id.example.evil")),
        "another audience": sign("ES256", claims(aud="billing")),
        "no audience": sign("ES256", {k: v for k, v in claims().items() if k != "aud"}),
        "no expiry": sign("ES256", {k: v for k, v in claims().items() if k != "exp"}),
        "critical": sign("ES256", claims(), crit=["exp"]),
        "long": sign("ES256", claims(x="x" * 9000)),
    }
    return {"good": good, "bad": bad, "user": sign("ES256", claims(groups=["user"]))}


def certified(directory):
    """A CA in a file, and the context of a server for 127.0.0.1 that it has certified."""
    now = datetime.datetime.now(datetime.timezone.utc)
    name = lambda text: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
    authority, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def certificate(subject, key, is_ca):
        builder = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name("ca"))
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(hours=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(is_ca, None), True)
        if not is_ca:
            here = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            builder = builder.add_extension(x509.SubjectAlternativeName([here]), False)
        return builder.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def written(file, content):
        with open(f"{directory}/{file}", "wb") as out:
            out.write(content)
        return f"{directory}/{file}"

    written("ca.pem", certificate("ca", authority, True))
    chain = written("server.pem", certificate("server", own, False))
    key = written("server.key", own.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    return context


def served(content, context=None):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(200 if self.path == PATH else 404)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_words):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


private = keys()
content = json.dumps({"keys": [jwk(name, key) for name, key in private.items()]}).encode()
ports = {"http": served(content), "https": served(content, certified(sys.argv[1]))}
print(json.dumps({**ports, **tokens(private)}), flush=True)
threading.Event().wait()
