"""Pods without an engine: what Kubernetes objects say of a container, carried out with namespaces of the kernel.

A container here has root file system (read-only, with the mounts that the object declares), processes, host name and
address of its own; its user, no rights, no compiler, and the environment and command of its image. What it lacks is the
image itself: this machine's /usr, this virtual environment and this checkout stand for it.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
VENV = Path(sys.prefix)
PYTHON = Path(sys.base_prefix)
BRIDGE = "10.77.0.1"
COMPILERS = ("gcc", "g++", "cc", "c++", "clang", "c99", "tcc")

CAN_RUN = os.geteuid() == 0 and all(shutil.which(name) for name in ("ip", "unshare", "setpriv", "nsenter", "kubectl"))


@dataclass(frozen=True)
class Image:
    """What a Dockerfile's target says of its containers."""

    entrypoint: list[str]
    command: list[str]
    environment: dict[str, str]


def image(target: str) -> Image:
    """A target of `deploy/docker/Dockerfile`."""
    text = (ROOT / "deploy" / "docker" / "Dockerfile").read_text().replace("\\\n", "")
    stages = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", text, re.MULTILINE | re.DOTALL))
    lists = {
        name: json.loads(found[1]) if (found := re.search(rf"^{name} (\[.*\])", stages[target], re.MULTILINE)) else []
        for name in ("ENTRYPOINT", "CMD")
    }
    (declared,) = re.findall(r"^ENV (.*)", stages["service"], re.MULTILINE)
    environment = dict(pair.split("=", 1) for pair in declared.split())
    environment["PATH"] = environment["PATH"].replace("$PATH", "/usr/local/bin:/usr/bin:/bin")
    return Image(lists["ENTRYPOINT"], lists["CMD"], environment)


class Network:
    """A bridge, and what is said on it: every connection that a pod opens, by the addresses of both and the port."""

    def __init__(self, folder: Path) -> None:
        self._name = f"net{os.getpid()}"
        self._seen = folder / "connections"
        self.addresses: dict[str, str] = {}
        self.hosts: dict[str, str] = {}
        _run("ip", "netns", "add", self._name)
        self._inside("ip", "link", "add", "bridge", "type", "bridge")
        self._inside("ip", "address", "add", f"{BRIDGE}/24", "dev", "bridge")
        self._inside("ip", "link", "set", "bridge", "promisc", "on", "up")  # or it sees only what is for itself
        self._inside("ip", "link", "set", "lo", "up")
        listen = [sys.executable, "-c", _LISTEN, str(self._seen)]
        self._listener = subprocess.Popen(["ip", "netns", "exec", self._name, *listen])

    def add(self, pod: str, *names: str) -> str:
        """Gives a pod a network namespace and an address, which others find by these names; returns the namespace."""
        number = len(self.addresses) + 10
        namespace, outer, inner = f"{self._name}-{number}", f"v{number}", f"i{number}"
        self.addresses[pod] = f"10.77.0.{number}"
        for name in (pod, *names):
            self.hosts[name] = self.addresses[pod]
        _run("ip", "netns", "add", namespace)
        self._inside("ip", "link", "add", outer, "type", "veth", "peer", "name", inner)
        self._inside("ip", "link", "set", inner, "netns", namespace)
        self._inside("ip", "link", "set", outer, "master", "bridge", "up")
        for command in (
            f"link set {inner} name eth0",
            f"address add {self.addresses[pod]}/24 dev eth0",
            "link set eth0 up",
            "link set lo up",
        ):
            _run("ip", "-n", namespace, *command.split())
        return namespace

    def connections(self) -> set[tuple[str, str, int]]:
        """Pairs of pods, and the port; those to and from this machine left out."""
        pods = {address: pod for pod, address in self.addresses.items()}
        found = {tuple(line.split()) for line in self._seen.read_text().splitlines()}
        return {(pods[a], pods[b], int(port)) for a, b, port in found if a in pods and b in pods}

    def answers(self, pod: str, port: int, path: str) -> bool:
        """Whether a pod answers a probe of the node's."""
        ask = f"import urllib.request as r; r.urlopen('http://{self.addresses[pod]}:{port}{path}', timeout=3)"
        command = ["ip", "netns", "exec", self._name, sys.executable, "-c", ask]
        return subprocess.run(command, capture_output=True).returncode == 0

    def close(self) -> None:
        """Takes everything down; pods have to be stopped before."""
        self._listener.kill()
        self._listener.wait()
        for number in range(10, len(self.addresses) + 10):
            _run("ip", "netns", "delete", f"{self._name}-{number}")
        _run("ip", "netns", "delete", self._name)

    def _inside(self, *command: str) -> None:
        _run("ip", "-n", self._name, *command[1:])


# The first packet of every TCP connection on the bridge.
_LISTEN = """
import socket, sys
packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(0x0800))
packets.bind(("bridge", 0))
seen = set()
with open(sys.argv[1], "w") as file:
    while True:
        packet = packets.recv(128)[14:]
        header = 4 * (packet[0] & 15)
        if packet[9] == 6 and packet[header + 13] & 0x12 == 2:
            a, b = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
            connection = f"{a} {b} {int.from_bytes(packet[header + 2:header + 4], 'big')}"
            if connection not in seen:
                seen.add(connection)
                print(connection, file=file, flush=True)
"""


@dataclass
class Pod:
    """One container of a pod.

    Args:
        specification: of the pod, as in a Deployment's template.
        container: of its containers, which is run.
        volumes: folders on this machine by the name of the claim, ConfigMap or Secret that stands for them.
        environment: beside the container's own.
    """

    name: str
    namespace: str
    specification: dict[str, Any]
    container: dict[str, Any]
    volumes: Mapping[str, Path]
    secrets: Mapping[str, Mapping[str, str]]
    hosts: Mapping[str, str]
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str) -> "Pod":
        """Runs the container's command, with more arguments."""
        script = self._script([*self.command(), *more])
        inside = ["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork", "bash", "-ec", script]
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *inside], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        return self

    def command(self) -> list[str]:
        """As Kubernetes makes it of image and object."""
        own, variables = self._image(), self._variables()
        entrypoint = self.container.get("command", own.entrypoint)
        arguments = self.container.get("args", [] if "command" in self.container else own.command)
        expand = re.compile(r"\$\((\w+)\)")
        full = [expand.sub(lambda found: variables[found[1]], part) for part in (*entrypoint, *arguments)]
        return [*_with(variables), *full]

    @property
    def has_ended(self) -> bool:
        """Whether its command is over."""
        return self.process is not None and self.process.poll() is not None

    def wait(self, timeout_s: float) -> int:
        """Exit status of its command."""
        assert self.process is not None
        return self.process.wait(timeout_s)

    def succeeds(self, command: list[str]) -> bool:
        """Whether a command, such as a probe's, succeeds within the running container."""
        inside = self._first_process()
        return inside is not None and subprocess.run(_enter(inside, command), capture_output=True).returncode == 0

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """What `kubectl exec` does: a command with the container's environment, as its user."""
        inside = self._first_process()
        assert inside is not None
        entered = _enter(inside, [*self._without_rights(), *_with(self._variables()), *command])
        return subprocess.run(entered, capture_output=True, text=True, timeout=120)

    def kill(self) -> None:
        """All of its processes, at once: the kernel takes them with the first."""
        if self.process is not None:
            if (inside := self._first_process()) is not None:
                os.kill(inside, signal.SIGKILL)
            self.process.kill()
            self.process.wait()

    def terminate(self) -> None:
        """SIGTERM to its first process, as Kubernetes sends it."""
        if (inside := self._first_process()) is not None:
            os.kill(inside, signal.SIGTERM)

    def log(self) -> str:
        """The end of what it has printed."""
        return (self.folder / f"{self.name}.log").read_text(errors="replace")[-6000:]

    def _first_process(self) -> int | None:
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        numbers = children.read_text().split() if children.exists() else []
        return int(numbers[0]) if numbers else None

    def _image(self) -> Image:
        stage = self.container["image"].rpartition("/")[2].partition(":")[0].removeprefix("vision-sr1-")
        return image(stage) if stage != "redis" else Image([], [], {"PATH": "/usr/bin:/bin"})

    def _variables(self) -> dict[str, str]:
        found = dict(self._image().environment)
        for source in self.container.get("envFrom", []):
            found |= self.secrets[source["secretRef"]["name"]]
        for variable in self.container.get("env", []):
            if "valueFrom" in variable:
                asked = variable["valueFrom"]["secretKeyRef"]
                found[variable["name"]] = self.secrets[asked["name"]][asked["key"]]
            else:
                found[variable["name"]] = variable["value"]
        return found | self.environment

    def _script(self, command: list[str]) -> str:
        """What sets the namespaces up, as root of this machine, and gives up all rights before the command."""
        lines = [
            "mount --make-rprivate /",
            f"root={self.folder}/root-{self.name}",
            "mkdir -p $root",
            "mount -t tmpfs -o mode=755 none $root",
            "mkdir $root/proc $root/dev $root/sys $root/etc",
            "ln -s usr/bin usr/sbin usr/lib usr/lib64 $root/",
            "mount -t proc proc $root/proc",
            "mount --rbind /dev $root/dev",
            "mount -t tmpfs -o size=64m none $root/dev/shm",
            "mount --rbind /sys $root/sys",
            "cp -r /etc/passwd /etc/group /etc/nsswitch.conf /etc/ld.so.cache /etc/ssl $root/etc/",
            f"hostname {self.name}",
        ]
        known = "".join(f"{address} {name}\n" for name, address in {"localhost": "127.0.0.1", **self.hosts}.items())
        lines.append(f"printf %s {shlex.quote(known)} > $root/etc/hosts")
        for source in (Path("/usr"), PYTHON, ROOT, VENV):
            lines += _bind(source, str(source), read_only=True)
        lines += _bind(VENV, "/opt/venv", read_only=True)
        lines += _bind(ROOT / "examples", "/opt/vision-sr1/examples", read_only=True)
        lines += [
            f"for c in $root/usr/bin/{name}*; do if [ -e $c ]; then mount --bind /dev/null $c; fi; done"
            for name in COMPILERS
        ]
        lines += self._mounts()
        lines.append("mount -o remount,ro $root")
        lines.append(f"exec chroot $root {shlex.join([*self._without_rights(), *command])}")
        return "\n".join(lines)

    def _without_rights(self) -> list[str]:
        """Begins a command of the pod's user, who has no capabilities and can get none."""
        context = self.specification["securityContext"]
        user, group = context["runAsUser"], context["runAsGroup"]
        who = [f"--reuid={user}", f"--regid={group}", f"--groups={context.get('fsGroup', group)}"]
        return ["setpriv", *who, "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]

    def _mounts(self) -> list[str]:
        lines = []
        declared = {volume["name"]: volume for volume in self.specification.get("volumes", [])}
        for mount in self.container.get("volumeMounts", []):
            volume, target = declared.get(mount["name"], {}), mount["mountPath"]
            if "emptyDir" in volume:
                lines += [f"mkdir -p $root{target}", f"mount -t tmpfs -o mode=1777 none $root{target}"]
                continue
            source = self.volumes[_stands_for(mount["name"], volume)] / mount.get("subPath", "")
            read_only = mount.get("readOnly", False) or "configMap" in volume or "secret" in volume
            lines += _bind(source, target, read_only=read_only)
        return lines


def _with(variables: Mapping[str, str]) -> list[str]:
    """Begins a command that has these environment variables and no others."""
    return ["env", "-i", *(f"{name}={value}" for name, value in variables.items())]


def _enter(process: int, command: list[str]) -> list[str]:
    """A command in all namespaces of a process, and within its root."""
    return ["nsenter", f"--target={process}", "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd", *command]


def _stands_for(name: str, volume: Mapping[str, Any]) -> str:
    if "persistentVolumeClaim" in volume:
        return str(volume["persistentVolumeClaim"]["claimName"])
    if "configMap" in volume:
        return str(volume["configMap"]["name"])
    return str(volume["secret"]["secretName"]) if "secret" in volume else name


def _bind(source: Path, target: str, *, read_only: bool) -> list[str]:
    place = f"$root{target}"
    make = f"mkdir -p {place}" if source.is_dir() else f"mkdir -p $(dirname {place}); touch {place}"
    bind = [make, f"mount --bind {source} {place}"]
    return [*bind, f"mount -o remount,bind,ro {place}"] if read_only else bind


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
