"""A Ray cluster: an existing one, or one of this machine alone that Orchard starts, which outlives its runs.

Whoever reaches a Ray cluster can run code on it. So one that is started here listens on the loopback
interface only and asks for a token that this user alone can read; whether an existing one wants a token is
said, never guessed. Ray is imported inside the functions: it takes a second, and most runs do without it.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from resources.compute.device import DeviceUnavailable

LOOPBACK = "127.0.0.1"
LOOPBACK_NAMES = (LOOPBACK, "localhost", "::1")
FOLDER_VARIABLE = "ORCHARD_RAY_FOLDER"
START_SECONDS = 120.0
STOP_SECONDS = 5.0
"""How long the own cluster may take to end by itself: it has nothing to save, and Ray would wait half a
minute for workers that do not listen."""

ANSWER_SECONDS = 20.0
"""How long an existing cluster may take to accept a connection."""

OBJECT_STORE_BYTES = 256 * 2**20
"""Shared memory of a cluster that is started here: only progress and file names pass through it."""

AuthMode = Literal["token", "disabled"]


class ClusterUnavailable(DeviceUnavailable):
    """There is no such cluster, or it cannot give what was asked; the message says what to do."""


@dataclass(frozen=True)
class OwnCluster:
    """The cluster of this machine that Orchard started: `host:port`, and the process that holds it."""

    address: str
    process: int


def own_folder() -> Path:
    """Where the own cluster's address, token and logs lie; only this user may enter.

    Its path must be short: Ray makes sockets in it, whose names may have 107 bytes. Raises ClusterUnavailable
    when it belongs to somebody else.
    """
    default = Path(tempfile.gettempdir()) / f"orchard-ray-{os.getuid()}"
    folder = Path(os.environ.get(FOLDER_VARIABLE) or default)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise ClusterUnavailable(f"{folder} belongs to another user; name a folder in {FOLDER_VARIABLE}")
    folder.chmod(0o700)
    return folder


def own_cluster() -> OwnCluster | None:
    """The own cluster if it runs."""
    folder = own_folder()
    with (folder / "alive").open("a") as handle:
        if _shares(handle):
            return None  # a cluster has this lock for itself as long as it lives
    try:
        return OwnCluster(**json.loads((folder / "cluster.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def start_own_cluster(
    *, num_cpus: int | None = None, num_gpus: int | None = None, report: Callable[[str], None] = print
) -> OwnCluster:
    """Start a cluster of this machine on the loopback interface, unless one runs; it stays until stopped.

    CPUs and GPUs are counted by Ray unless they are given.

    Raises ClusterUnavailable with the end of Ray's log when it does not start.
    """
    folder = own_folder()
    with (folder / "starting").open("a") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)
        running = own_cluster()
        if running is not None:
            return running
        (folder / "cluster.json").unlink(missing_ok=True)
        token = folder / "token"
        if not token.exists():
            with open(os.open(token, os.O_WRONLY | os.O_CREAT, 0o600), "w", encoding="utf-8") as handle:
                handle.write(secrets.token_hex(32))
        cluster = _start(folder, num_cpus, num_gpus)
        (folder / "cluster.json").write_text(json.dumps(vars(cluster)), encoding="utf-8")
    report(
        f"ray: started a cluster of this machine at {cluster.address}, on the loopback interface, with a "
        "token; it stays until `orchard ray stop`"
    )
    return cluster


def stop_own_cluster() -> bool:
    """End the own cluster and all its processes; whether there was one."""
    cluster = own_cluster()
    if cluster is None:
        return False
    os.kill(cluster.process, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while own_cluster() is not None:
        if time.monotonic() > deadline:
            os.killpg(cluster.process, signal.SIGKILL)
            deadline += STOP_SECONDS
        time.sleep(0.1)
    (own_folder() / "cluster.json").unlink(missing_ok=True)
    return True


def connect(
    address: str | None,
    namespace: str,
    *,
    auth: AuthMode = "token",
    report: Callable[[str], None] = print,
) -> None:
    """Join a cluster as a driver; `address` is `host:port`, or None for this machine's own cluster.

    The own one is started where it does not run, and always asks for its token. An existing one's token comes
    from RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH. `namespace` is where actors of this driver are named that name
    none of their own; a process that has joined the cluster already stays in the one it had.

    Raises ClusterUnavailable without Ray, where nobody answers, and in a process that is elsewhere already.
    """
    if importlib.util.find_spec("ray") is None:
        raise ClusterUnavailable("the engine `ray` needs Ray: pip install 'orchard-faces[ray]'")
    if address is None:
        address, auth = start_own_cluster(report=report).address, "token"
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(own_folder() / "token")
    _set_environment(address, auth)
    import ray
    from ray.exceptions import RayError

    if ray.is_initialized():
        context = ray.get_runtime_context()
        if context.gcs_address != address:
            raise ClusterUnavailable(
                f"this process is in the cluster {context.gcs_address}; {address} needs another process"
            )
        return
    _knock(address)
    try:
        ray.init(
            address=address,
            namespace=namespace,
            log_to_driver=False,
            configure_logging=False,
        )
    except (ConnectionError, RuntimeError, RayError) as error:
        raise ClusterUnavailable(
            f"no Ray cluster lets this process in at {address} ({str(error).splitlines()[0]}); look whether "
            f"it runs, and whether it wants a token (authentication here: {auth})"
        ) from error


def _knock(address: str) -> None:
    """Whether anybody listens there: Ray itself would go on asking for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_SECONDS).close()
    except (OSError, ValueError) as error:
        raise ClusterUnavailable(
            f"no Ray cluster answers at {address} ({error}); look whether it runs, whether that is its "
            "head's host:port, and whether a firewall lies between"
        ) from error


def without_client_server(parameters: Any, head: bool) -> None:
    """Hook of `ray start`: one port less. Drivers of this machine need no server for remote ones."""
    parameters.ray_client_server_port = None


def _set_environment(address: str, auth: AuthMode) -> None:
    """What Ray reads when it is imported: who may come in, and where it listens."""
    wanted = {"RAY_AUTH_MODE": auth, "RAY_USAGE_STATS_ENABLED": "0"}
    if address.rpartition(":")[0] in LOOPBACK_NAMES:
        # Ray takes a loopback address for a slip and puts the machine's outer one in its place, and then
        # listens on all interfaces; this, which it does by itself on laptops of two kinds, keeps it from that
        wanted["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    differs = [name for name, value in wanted.items() if os.environ.get(name) != value]
    if "ray" in sys.modules and differs and differs != ["RAY_USAGE_STATS_ENABLED"]:
        raise ClusterUnavailable(
            f"this process has loaded Ray already without {', '.join(differs)}; use another process"
        )
    os.environ.update(wanted)


def _start(folder: Path, num_cpus: int | None, num_gpus: int | None) -> OwnCluster:
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += [f"--node-ip-address={LOOPBACK}", "--port=0"]
    # neither Ray's autoscaler nor what copies logs to drivers is of use here
    command += ["--no-monitor", "--include-log-monitor=false"]
    command += ["--include-dashboard=false", "--disable-usage-stats", f"--temp-dir={folder}"]
    command += [f"--object-store-memory={OBJECT_STORE_BYTES}"]
    command += [] if num_cpus is None else [f"--num-cpus={num_cpus}"]
    command += [] if num_gpus is None else [f"--num-gpus={num_gpus}"]
    environment = {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_START_HOOK": f"{__name__}.without_client_server",
        # Ray runs its workers at niceness 15: beside any other program of the machine they would starve
        "RAY_worker_niceness": "0",
    }
    said, known = folder / "ray_current_cluster", folder / "start.log"
    said.unlink(missing_ok=True)
    with (folder / "alive").open("a") as alive, known.open("w") as log:
        fcntl.flock(alive, fcntl.LOCK_EX)
        os.set_inheritable(alive.fileno(), True)
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=[alive.fileno()],
        )
    deadline = time.monotonic() + START_SECONDS
    while "Ray runtime started" not in known.read_text(encoding="utf-8", errors="replace"):
        ended = process.poll() is not None
        if ended or time.monotonic() > deadline:
            if not ended:
                os.killpg(process.pid, signal.SIGKILL)
            end = "\n".join(known.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
            raise ClusterUnavailable(f"Ray did not start within {START_SECONDS:.0f} s:\n{end}")
        time.sleep(0.1)
    return OwnCluster(said.read_text(encoding="utf-8").strip(), process.pid)


def _shares(handle: IO[str]) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
