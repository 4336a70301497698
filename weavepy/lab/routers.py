"""The routers of a lab: started, asked, signalled, each inside its host's namespace.

What a router is told is computed from the plan each time, so a router that is started again
gets exactly what it had.
"""

import os
import signal
import sys
from pathlib import Path

from weavepy.base.errors import WeavepyError
from weavepy.client import schema
from weavepy.client.api import Api
from weavepy.client.http import RouterNotRunning
from weavepy.lab.plan import Node, Plan
from weavepy.lab.state import ProcessRecord, State, Store
from weavepy.lab.system import (
    LabError,
    inside,
    namespace_inode,
    network_namespace_of,
    send_signal,
    spawn,
    start_ticks,
    wait_gone,
)

STATUS_TIMEOUT_S = 5.0

END_TIMEOUT_S = 15.0
"""For a router that was told to stop or was killed."""

ATTACH_TIMEOUT_S = 60.0
"""The first attachment waits until the routers have agreed on a ring."""

LOG_LINES_SHOWN = 15


def environment(store: Store, host: str) -> dict[str, str]:
    """What a command on this host finds: its directories, and none of the machine's settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("WEAVEPY_")}
    directories = store.directories(host)
    tools = str(Path(sys.executable).parent)
    return kept | {
        "PATH": f"{tools}:{kept.get('PATH', '/usr/sbin:/usr/bin:/sbin:/bin')}",
        # Its own Open vSwitch, if any: the machine's is in another namespace.
        "OVS_RUNDIR": str(directories.run.parent / "ovs"),
        "WEAVEPY_LAB_DIR": str(store.root),
        "WEAVEPY_RUN_DIR": str(directories.run),
        "WEAVEPY_STATE_DIR": str(directories.state),
    }


def launch_arguments(plan: Plan, host: Node, secret_file: Path, options: list[str]) -> list[str]:
    """What follows `weavepy launch`; the operator's options come last and win."""
    arguments = ["--nickname", host.name]
    if not any(option.split("=")[0] == "--ipalloc-init" for option in options):
        arguments += ["--ipalloc-init", f"consensus={plan.hosts}"]
    own_secret = {"--insecure", "--password-file", "--secret-file"}
    if not any(option.split("=")[0] in own_secret for option in options):
        arguments += ["--secret-file", str(secret_file)]
    return [*arguments, *options, *plan.targets(host.host)]


def start(store: Store, state: State, host: Node) -> ProcessRecord:
    """Start a host's router and record it; the caller writes the state."""
    plan = state.plan
    directories = store.directories(host.name)
    for directory in (directories.run, directories.state):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    arguments = launch_arguments(plan, host, store.secret_file, state.launch_options)
    process = spawn(
        inside(plan.namespace(host), [sys.executable, "-m", "weavepy", "launch", *arguments]),
        store.launch_log(host.name),
        directories.run.parent,
        environment(store, host.name),
    )
    record = ProcessRecord(process.pid, process.start_ticks)
    state.processes[f"router {host.name}"] = record
    return record


def router_pid(store: Store, plan: Plan, host: Node) -> int | None:
    return _pid_in(store.directories(host.name).router_pid_file, plan.namespace(host))


def datapath_pid(store: Store, plan: Plan, host: Node) -> int | None:
    return _pid_in(store.directories(host.name).datapath_pid_file, plan.namespace(host))


def _pid_in(file: Path, namespace: str) -> int | None:
    """The process of a pid file, if it is alive and really lives in that host."""
    try:
        pid = int(file.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    inode = namespace_inode(namespace)
    if inode is None or start_ticks(pid) is None or network_namespace_of(pid) != inode:
        return None
    return pid


def signal_router(store: Store, plan: Plan, host: Node, number: signal.Signals) -> int:
    """Signal the router process alone; returns its id."""
    pid = router_pid(store, plan, host)
    if pid is None:
        raise LabError(
            f"no router runs on {host.name}; `weavepy lab router {host.name} --start` starts it"
        )
    send_signal(pid, number)
    if number == signal.SIGKILL and not wait_gone(pid, END_TIMEOUT_S):
        raise LabError(f"the router of {host.name} (process {pid}) does not die")
    return pid


def stop(store: Store, plan: Plan, host: Node) -> None:
    """As `weavepy stop` there: the router says goodbye, and its datapath ends."""
    pid = router_pid(store, plan, host)
    if pid is None:
        raise LabError(f"no router runs on {host.name}")
    api(store, host).stop(schema.StopRequest())
    if not wait_gone(pid, END_TIMEOUT_S):
        raise LabError(f"the router of {host.name} (process {pid}) was told to stop and did not")


def api(store: Store, host: Node, timeout_s: float = 10.0) -> Api:
    return Api(store.directories(host.host_name), timeout_s)


def attach(store: Store, plan: Plan, node: Node, addresses: list[str]) -> schema.Attachment:
    request = schema.AttachRequest(
        namespace=plan.namespace(node), addresses=addresses, timeout_s=ATTACH_TIMEOUT_S
    )
    return api(store, node).attach(request)


def status_or_reason(store: Store, host: Node) -> schema.Status | str:
    try:
        return api(store, host, STATUS_TIMEOUT_S).status()
    except RouterNotRunning:
        return "no router answers"
    except WeavepyError as error:
        return str(error)


def last_log_lines(store: Store, host: Node) -> list[str]:
    """The end of what the router wrote, wherever it wrote it."""
    files = (store.launch_log(host.name), store.directories(host.name).log_file)
    lines: list[str] = []
    for file in files:
        try:
            lines += file.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
        except OSError:
            continue
    return lines
