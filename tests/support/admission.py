"""Asks a webhook as an API server does. Usage: admission.py CA PORT NAME [POD.json]

Connects to the port of 127.0.0.1, verifies the server as NAME by the authority in the file CA, and asks about the pod. Prints one JSON line:
the serial number of the server's certificate, the status, the response, and the pod with the patch applied by the package `jsonpatch`.
Without a pod it asks for /healthz.
"""

import base64
import http.client
import json
import socket
import ssl
import sys


def main(ca, port, name, pod=None):
    context = ssl.create_default_context(cafile=ca)
    connection = http.client.HTTPConnection(name)
    connection.sock = context.wrap_socket(socket.create_connection(("127.0.0.1", int(port)), timeout=30), server_hostname=name)
    told = {"serial": connection.sock.getpeercert()["serialNumber"]}
    if pod is None:
        connection.request("GET", "/healthz")
        told["status"] = connection.getresponse().status
        return told
    with open(pod, encoding="utf-8") as file:
        pod = json.load(file)
    request = {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "namespace": "shop",
        "operation": "CREATE",
        "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
        "object": pod,
        "oldObject": None,
        "dryRun": False,
        "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"},
    }
    review = {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}
    connection.request("POST", "/inject?timeout=10s", json.dumps(review), {"content-type": "application/json"})
    answer = connection.getresponse()
    told["status"], body = answer.status, answer.read()
    if answer.status == 200:
        review = json.loads(body)
        assert (review["apiVersion"], review["kind"]) == ("admission.k8s.io/v1", "AdmissionReview"), review
        response = told["response"] = review["response"]
        assert response["uid"] == request["uid"], review
        if "patch" in response:
            import jsonpatch

            assert response["patchType"] == "JSONPatch", response
            told["patched"] = jsonpatch.apply_patch(pod, json.loads(base64.b64decode(response["patch"])))
    return told


print(json.dumps(main(*sys.argv[1:])))
