"""What must hold of NetworkPolicy (networking.k8s.io/v1), and that each line of it has tests.

Tests say which lines they show: `@pytest.mark.checklist(14)`. Each line needs one of the model or
of what is compiled, where that decides, and one with real packets, where the kernel decides.
`pytest -m checklist tests` runs them all.
"""

import ast
import functools
from pathlib import Path

import pytest

LINES = {
    1: "a pod that no policy selects is open in both directions",
    2: "isolation is per direction",
    3: "policyTypes absent: ingress always, egress only with egress rules",
    4: "policyTypes: [Egress] alone leaves ingress open",
    5: "policies add up, in any order",
    6: "a connection needs the source's egress and the destination's ingress",
    7: "a policy selects in its own namespace, later pods too",
    8: "no rules deny all, an empty rule allows all",
    9: "missing or empty peers are everybody, missing or empty ports are all",
    10: "peers OR peers, ports OR ports, peers AND ports, rules OR rules",
    11: "podSelector, namespaceSelector, both in one element, in two elements",
    12: "empty selectors as peers: all namespaces, the own namespace, not the world",
    13: "matchLabels AND matchExpressions, and the four operators",
    14: "ipBlock with except",
    15: "addresses are those after a Service's DNAT",
    16: "no protocol is TCP; the port is the destination pod's",
    17: "named ports per destination pod and protocol",
    18: "endPort",
    19: "TCP, UDP and SCTP each by itself; ICMP with a rule without ports",
    20: "a pod's own node reaches it, other nodes do not",
    21: "hostNetwork pods are never selected and match no selector",
    22: "replies and related ICMP errors pass",
    23: "established connections that a change forbids are cut within 1 s",
    24: "a pod reaches itself; by its own Service policy applies",
    25: "a new pod is isolated before its first container runs",
    26: "a finished pod's address leaves all sets",
    27: "changes take effect, in any order of events",
    28: "kubernetes.io/metadata.name is on every namespace",
    29: "no address yet, address change, dual stack",
    30: "restarts and others' flushes open nothing and break nothing",
    31: "all peer addresses, only local targets",
    32: "what cannot be compiled is told and closes its own pods",
}
KERNEL_ALONE = {15, 20, 22, 23, 25, 30}
MODEL_ALONE = {21, 31, 32}

TESTS = Path(__file__).parents[1]
OF_THE_KERNEL = ("policy/shell", "e2e", "kube", "weavepy/daemon")


@functools.cache
def marked() -> dict[int, set[str]]:
    """Line to the files that have tests for it."""
    found: dict[int, set[str]] = {line: set() for line in LINES}
    for path in sorted(TESTS.rglob("test_*.py")):
        text = path.read_text()
        if "mark.checklist" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for decorator in node.decorator_list:
                if "mark.checklist" in ast.unparse(decorator):
                    assert isinstance(decorator, ast.Call)
                    assert node.name.startswith("test_"), node.name
                    for argument in decorator.args:
                        found[ast.literal_eval(argument)].add(str(path.relative_to(TESTS)))
    return found


@pytest.mark.parametrize("line", [line for line in LINES if line not in KERNEL_ALONE])
def test_the_model_or_what_is_compiled_shows_it(line: int) -> None:
    assert [file for file in marked()[line] if not file.startswith(OF_THE_KERNEL)], LINES[line]


@pytest.mark.parametrize("line", [line for line in LINES if line not in MODEL_ALONE])
def test_the_kernel_shows_it(line: int) -> None:
    assert [file for file in marked()[line] if file.startswith(OF_THE_KERNEL)], LINES[line]
