"""`weavepy doctor`: the verdict, and the real thing on this machine."""

import json

from router.shell import doctor as examiner
from router.shell.doctor import Finding
from tests.weavepy.cli.conftest import Command
from weavepy.cli.doctor import REQUIRED, lacking

OK = Finding("veth pairs", "ok", "", "")


def test_what_is_nice_to_have_may_be_missing() -> None:
    assert lacking([OK, Finding("WireGuard", "missing", "no", "nothing")]) == []
    assert lacking([Finding("rights", "warn", "could not be tried", "")]) == []


def test_what_is_required_may_not() -> None:
    no_tap = Finding("TAP device", "missing", "no such device", "no sleeve")
    no_package = Finding("package uvloop", "missing", "not installed", "does not start")
    assert lacking([OK, no_tap, no_package]) == ["TAP device", "package uvloop"]


def test_whatever_is_required_is_examined() -> None:
    subjects = [experiment.subject for experiment in examiner.EXPERIMENTS]
    subjects += [f"program {name}" for name in examiner.PROGRAMS]
    subjects += [f"package {name}" for name in examiner.PACKAGES]
    subjects += ["rights"]
    for required in REQUIRED:
        assert any(subject.startswith(required) for subject in subjects), required


def test_here_it_exits_as_its_findings_say(weavepy: Command) -> None:
    result = weavepy("doctor", "--json")
    findings = [Finding(**row) for row in json.loads(result.stdout)]
    assert {"rights", "TAP device", "overlay MTU"} <= {finding.subject for finding in findings}
    assert result.returncode == (1 if lacking(findings) else 0)
    assert "SUBJECT" in weavepy("doctor").stdout
