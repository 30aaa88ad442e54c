"""Runs pods as a kubelet does, in network and mount namespaces, from manifests that `pillion inject` has written.

Usage, as root: unshare --net --mount python3 run_pods.py BINARY SECRETS MANIFEST...

Every container gets a root file system of its own, with its volumes, and the manifest's user, group, capabilities and privileges.
`BINARY` is the program of images whose name begins with `pillion`; the folder SECRETS has one folder for each Secret. Init containers run
one after the other; a native sidecar goes on, and must pass its startup probe. Not done: seccomp profiles and limits of resources.

Prints one JSON object: what the probes answered, what the application of the last pod got from the service of the others, the
privileges of each sidecar, and how the pods ended.
"""

import ctypes
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

NETWORK = "10.77.0"
PATIENCE = 60
# of a container that says nothing, as in containerd
USUAL = {"CHOWN", "DAC_OVERRIDE", "FOWNER", "NET_BIND_SERVICE", "KILL", "SETGID", "SETUID"}
NUMBERS = {"CHOWN": 0, "DAC_OVERRIDE": 1, "FOWNER": 3, "KILL": 5, "SETGID": 6, "SETUID": 7, "NET_BIND_SERVICE": 10,
           "NET_ADMIN": 12, "NET_RAW": 13}
PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 38, 24
HOST_FOLDERS = ["usr", "bin", "sbin", "lib", "lib64", "proc", "dev", "sys"]


def run(*words):
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


# --- inside a container


def mount(*words):
    run("mount", *words)


def root_of(spec):
    """A root file system: the programs of the machine, the binary as an image has it, and the volumes."""
    root = spec["root"]
    os.makedirs(root, exist_ok=True)
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", root)
    for name in HOST_FOLDERS:
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), f"{root}/{name}")
        elif os.path.isdir(f"/{name}"):
            os.makedirs(f"{root}/{name}")
            mount("--rbind", f"/{name}", f"{root}/{name}")
    os.makedirs(f"{root}/etc")
    os.makedirs(f"{root}/run")
    with open(f"{root}/etc/hosts", "w", encoding="utf-8") as file:
        file.write("127.0.0.1 localhost\n")
    open(f"{root}/pillion", "w", encoding="utf-8").close()
    mount("--bind", spec["binary"], f"{root}/pillion")
    for volume in spec["volumes"]:
        target = root + volume["path"]
        os.makedirs(target, exist_ok=True)
        mount("--bind", volume["from"], target)
        if volume["read_only"]:
            mount("-o", "remount,bind,ro", target)
    if spec["read_only"]:
        mount("-o", "remount,ro", root)
    return root


def contained(spec):
    run("mount", "--make-rprivate", "/")
    os.chroot(root_of(spec))
    os.chdir("/")
    libc = ctypes.CDLL(None, use_errno=True)
    kept = {NUMBERS[name] for name in spec["capabilities"]}
    for capability in range(64):
        if capability not in kept:
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setgroups([])
    os.setresgid(spec["group"], spec["group"], spec["group"])
    os.setresuid(spec["user"], spec["user"], spec["user"])
    if spec["no_new_privileges"] and libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        sys.exit("no_new_privs cannot be set")
    os.execve(spec["command"][0], spec["command"], spec["environment"])


# --- the kubelet


class Pod:
    def __init__(self, number, manifest, binary, secrets):
        self.manifest, self.binary, self.secrets = manifest, os.path.abspath(binary), os.path.abspath(secrets)
        self.name = manifest["metadata"]["name"]
        self.spec = manifest["spec"]
        self.ip, self.host, self.link = f"{NETWORK}.{number}", f"pod{number}", f"link{number}"
        self.folder = f"/tmp/pods/{self.name}"
        self.running = {}
        os.makedirs(self.folder)
        self.network()
        self.volumes = {volume["name"]: self.volume(volume) for volume in self.spec.get("volumes", [])}

    def network(self):
        run("ip", "netns", "add", self.host)
        run("ip", "link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.host)
        run("ip", "link", "set", self.link, "master", "bridge", "up")
        for words in (["address", "add", f"{self.ip}/24", "dev", "eth0"], ["link", "set", "eth0", "up"],
                      ["link", "set", "lo", "up"], ["route", "add", "default", "via", f"{NETWORK}.254"]):
            run("ip", "-n", self.host, *words)

    def volume(self, volume):
        folder = f"{self.folder}/{volume['name']}"
        if "secret" in volume:
            return f"{self.secrets}/{volume['secret']['secretName']}"
        os.makedirs(folder)
        os.chmod(folder, 0o777 if "emptyDir" in volume else 0o755)
        for item in volume.get("downwardAPI", {}).get("items", []):
            key = item["fieldRef"]["fieldPath"].removeprefix("metadata.annotations['").removesuffix("']")
            with open(f"{folder}/{item['path']}", "w", encoding="utf-8") as file:
                file.write(self.manifest["metadata"]["annotations"][key])
        return folder

    def value(self, entry):
        if "valueFrom" not in entry:
            return entry["value"]
        if entry["valueFrom"] != {"fieldRef": {"fieldPath": "spec.nodeName"}}:
            sys.exit(f"{entry['name']} has a source that this runner does not know")
        return "node-1"

    def contained(self, container, command):
        security = {**self.spec.get("securityContext", {}), **container.get("securityContext", {})}
        capabilities = security.get("capabilities", {})
        kept = set() if "ALL" in capabilities.get("drop", []) else set(USUAL)
        user = security.get("runAsUser", 0)
        if security.get("runAsNonRoot") and user == 0:
            sys.exit(f"{container['name']} must not run as root")
        spec = {
            "root": f"{self.folder}/root", "binary": self.binary, "command": command,
            "read_only": security.get("readOnlyRootFilesystem", False),
            "volumes": [{"path": mounted["mountPath"], "from": self.volumes[mounted["name"]],
                         "read_only": mounted.get("readOnly", False)} for mounted in container.get("volumeMounts", [])],
            "capabilities": sorted(kept | set(capabilities.get("add", []))),
            "user": user, "group": security.get("runAsGroup", user),
            "no_new_privileges": security.get("allowPrivilegeEscalation") is False,
            "environment": {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                            **{entry["name"]: self.value(entry) for entry in container.get("env", [])}},
        }
        return ["ip", "netns", "exec", self.host, "/usr/bin/python3", os.path.abspath(__file__), "--contained", json.dumps(spec)]

    def start(self, container):
        is_ours = container["image"].startswith("pillion")
        command = container.get("command", ["/pillion"] if is_ours else []) + container.get("args", [])
        with open(f"{self.folder}/{container['name']}.log", "w", encoding="utf-8") as log:
            return subprocess.Popen(self.contained(container, command), stdout=log, stderr=log)

    def exec(self, container, command):
        return subprocess.run(self.contained(container, command), capture_output=True, text=True, timeout=PATIENCE)

    def run(self):
        for container in self.spec.get("initContainers", []):
            process = self.start(container)
            if container.get("restartPolicy") == "Always":
                self.running[container["name"]] = process
                self.started(container, process)
            elif process.wait(PATIENCE) != 0:
                self.fail(container)
        for container in self.spec["containers"]:
            self.running[container["name"]] = self.start(container)
            hook = container.get("lifecycle", {}).get("postStart")
            if hook and self.exec(container, hook["exec"]["command"]).returncode != 0:
                self.fail(container)

    def started(self, container, process):
        probe = container.get("startupProbe", {})
        for _ in range(probe.get("failureThreshold", 3)):
            if "exec" not in probe or self.exec(container, probe["exec"]["command"]).returncode == 0:
                return
        process.kill()
        self.fail(container)

    def fail(self, container):
        with open(f"{self.folder}/{container['name']}.log", encoding="utf-8") as log:
            sys.exit(f"{self.name}: {container['name']} has failed: {log.read()}")

    def containers(self):
        return self.spec.get("initContainers", []) + self.spec["containers"]

    def probes(self):
        """The answers of all probes over HTTP, as the node asks them."""
        answers = {}
        for container in self.containers():
            for kind in ("livenessProbe", "readinessProbe", "startupProbe"):
                handler = container.get(kind, {}).get("httpGet")
                if handler:
                    answers[f"{container['name']}.{kind}"] = ask(f"http://{self.ip}:{handler['port']}{handler['path']}")[0]
        return answers

    def privileges(self):
        """What the kernel says of the sidecar's process."""
        with open(f"/proc/{self.pid('pillion')}/status", encoding="utf-8") as file:
            status = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
        return {key: status[key] for key in ("Uid", "Gid", "CapEff", "CapBnd", "NoNewPrivs")}

    def pid(self, name):
        return self.running[name].pid  # every stage before is replaced by the next one

    def end(self):
        """The hooks first, then the applications, then the native sidecars."""
        ended = {}
        native = [item for item in self.spec.get("initContainers", []) if item["name"] in self.running]
        for container in self.spec["containers"] + native:
            hook = container.get("lifecycle", {}).get("preStop", {}).get("exec")
            if hook:
                drained = self.exec(container, hook["command"])
                ended["preStop"] = [drained.returncode, drained.stderr]
                ended["ready_after_preStop"] = self.probes().get("pillion.readinessProbe")
        for container in self.spec["containers"] + native:
            process = self.running[container["name"]]
            process.terminate()
            ended[container["name"]] = process.wait(PATIENCE)
        return ended


def ask(url):
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def until_ready(pods):
    deadline = time.monotonic() + PATIENCE
    while any(status != 200 for pod in pods for status in pod.probes().values()):
        if time.monotonic() > deadline:
            sys.exit(f"not ready: {[pod.probes() for pod in pods]}")
        time.sleep(0.05)  # a kubelet asks again, too


def main(binary, secrets, *manifests):
    import yaml

    mount("--make-rprivate", "/")
    os.makedirs("/run/netns", exist_ok=True)
    mount("-t", "tmpfs", "tmpfs", "/run/netns")
    os.makedirs("/tmp/pods", exist_ok=True)
    mount("-t", "tmpfs", "tmpfs", "/tmp/pods")
    for words in (["link", "add", "bridge", "type", "bridge"], ["address", "add", f"{NETWORK}.254/24", "dev", "bridge"],
                  ["link", "set", "bridge", "up"], ["link", "set", "lo", "up"]):
        run("ip", *words)
    pods = []
    try:
        for number, path in enumerate(manifests, 1):
            with open(path, encoding="utf-8") as file:
                pods.append(Pod(number, yaml.safe_load(file), binary, secrets))
        for pod in pods:
            pod.run()
        until_ready(pods)
        caller = pods[-1]
        app = caller.spec["containers"][-1]
        call = "import urllib.request as r; print(r.urlopen('http://10.96.0.10/', timeout=20).read().decode())"
        called = caller.exec(app, ["/usr/bin/python3", "-c", call])
        told = {
            "probes": {pod.name: pod.probes() for pod in pods},
            "plaintext": ask(f"http://{pods[0].ip}:8080/"),
            "called": called.stdout or called.stderr,
            "privileges": {pod.name: pod.privileges() for pod in pods},
        }
        told["ended"] = {pod.name: pod.end() for pod in pods}
        print(json.dumps(told))
    finally:
        for pod in pods:
            for process in pod.running.values():
                process.kill()
                process.wait()


if __name__ == "__main__":
    if sys.argv[1] == "--contained":
        contained(json.loads(sys.argv[2]))
    main(*sys.argv[1:])
