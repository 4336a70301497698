"""Kubernetes' own end-to-end specs for network policies, run against a cluster with weavepy.

    script/kube-build --e2e
    python -m tests.kube.conformance                    # all; --focus REGEX for some, --at-once N

One run of e2e.test per spec, several at once, as most of each is waiting for connections that do
not come. Specs for SCTP are left out where the kernel has none. What failed keeps its output.
"""

import argparse
import concurrent.futures
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.kube.cluster import PROGRAMS, Cluster, why_not
from tests.kube.images import write_image
from tests.kube.installed import install
from tests.kube.manifest import ROOT
from tests.policy.reach import has_sctp

PROGRAM = PROGRAMS / "e2e.test"
REGISTRY = "localhost/e2e"
IMAGE = f"{REGISTRY}/agnhost:2.21"
FOCUS = r"NetworkPolicy"
LIMIT_S = 900
PASSED = re.compile(r'"msg":"PASSED (.*?)","total"')


@dataclass(frozen=True)
class Outcome:
    spec: str
    passed: bool
    seconds: float


class Suite:
    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        repositories = folder / "repositories.yaml"
        repositories.write_text(f"promoterE2eRegistry: {REGISTRY}\n")
        self._environment = {
            "HOME": str(folder),
            "PATH": f"{PROGRAMS}:/usr/sbin:/usr/bin:/sbin:/bin",
            "KUBE_TEST_REPO_LIST": str(repositories),
        }

    def specs(self, focus: str) -> list[str]:
        """The full text of each."""
        return sorted(re.findall(PASSED, self._run(focus, "--ginkgo.dryRun").stdout))

    def run(self, spec: str) -> Outcome:
        began = time.monotonic()
        done = self._run(re.escape(spec).replace(r"\ ", " "))
        passed = done.returncode == 0 and re.findall(PASSED, done.stdout) == [spec]
        if not passed:
            name = re.sub(r"\W+", "-", spec)[-100:]
            (self._folder / f"{name}.log").write_text(done.stdout + done.stderr)
        return Outcome(spec, passed, time.monotonic() - began)

    def _run(self, focus: str, *options: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [
                *("nsenter", f"--net=/run/netns/{self._cluster.control.netns}", str(PROGRAM)),
                *(f"--kubeconfig={self._cluster.folder}/admin.conf", "--provider=skeleton"),
                *(f"--ginkgo.focus={focus}", "--ginkgo.noColor", "--num-nodes=2", *options),
            ],
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            env=self._environment,
            cwd=self._folder,
            check=False,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--focus", default=FOCUS)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--keep", type=Path, default=Path("build/conformance"))
    given = parser.parse_args()
    reason = why_not() or ("" if PROGRAM.exists() else "run script/kube-build --e2e")
    if reason:
        sys.exit(reason)
    given.keep.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(nodes=2)
    try:
        image = cluster.folder / "weavepy.tar"
        subprocess.run([ROOT / "script/image-build", image], check=True)
        cluster.up()
        install(cluster, image)
        archive = cluster.folder / "agnhost.tar"
        programs = {"bin/busybox": Path("/bin/busybox"), "agnhost": PROGRAMS / "agnhost"}
        write_image(archive, IMAGE, programs, ["/agnhost"])
        for place in cluster.nodes.values():
            place.run("ctr", "-n", "k8s.io", "images", "import", str(archive))
        return report(Suite(cluster, given.keep.absolute()), given.focus, given.at_once)
    finally:
        cluster.down()


def report(suite: Suite, focus: str, at_once: int) -> int:
    specs = suite.specs(focus)
    left_out = [] if has_sctp() else [spec for spec in specs if "SCTP" in spec]
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        for outcome in pool.map(suite.run, [spec for spec in specs if spec not in left_out]):
            failed += not outcome.passed
            word = "passed" if outcome.passed else "FAILED"
            print(f"{word} {outcome.seconds:4.0f} s  {outcome.spec}", flush=True)
    for spec in left_out:
        print(f"no SCTP here  {spec}")
    print(
        f"{len(specs) - len(left_out) - failed} passed, {failed} failed, {len(left_out)} left out"
    )
    return 1 if failed or not specs else 0


if __name__ == "__main__":
    sys.exit(main())
