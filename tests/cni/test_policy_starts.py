"""Pods that a runtime starts under fire: nothing reaches one before the policies that isolate it.

WEAVEPY_POD_STARTS=1000     so many are started, instead of a few
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cni.runtime import Runtime
from tests.e2e.conftest import MakeLab
from tests.e2e.test_policy_lives import ADDRESS, PORT, drained, drops, firing
from tests.e2e.waiting import wait_for
from tests.policy.objects import policy
from weavepy.client import schema
from weavepy.lab.system import in_namespace

STARTS = int(os.environ.get("WEAVEPY_POD_STARTS", "4"))


def test_nothing_reaches_a_pod_before_the_policies_that_isolate_it(
    make_lab: MakeLab, tmp_path: Path
) -> None:
    """The socket is there before the interface, as if a program had been very quick."""
    lab = make_lab(hosts=2, containers=1)
    runtime = Runtime(lab, "h1", tmp_path)
    pod = runtime.pod()
    target = in_namespace(pod, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    target.bind(("0.0.0.0", PORT))
    target.setblocking(False)
    try:
        with target, firing(lab, "h2c1"), firing(lab, "h1c1"):
            with _started(runtime, pod, "open"):
                wait_for(lambda: drained(target), lambda count: count > 0, 20)
            drained(target)
            deny = policy("default/deny", ingress=[])
            runtime.api.policy_apply(schema.PolicyObjects(objects=[deny]))
            for number in range(STARTS):
                with _started(runtime, pod, f"isolated-{number}"):
                    wait_for(lambda: drops(lab), lambda count: count > 0, 20)
                assert drained(target) == 0
    finally:
        runtime.remove()


@contextmanager
def _started(runtime: Runtime, pod: str, container: str) -> Iterator[None]:
    runtime.add(pod, containerid=container, args=f"IP={ADDRESS};IgnoreUnknown=1")
    yield
    runtime.delete(pod, containerid=container)
