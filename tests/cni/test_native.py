"""The native plugin: whatever it is given and told, it does what the Python script does.

The router is a socket that says what a router may say, or half of it. Most here runs a launcher
that checks its own memory (AddressSanitizer), where the compiler has that.
"""

import json
import os
import random
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cni import native, quick
from cni.call import VERSIONS
from cni.executable import script, write_whole
from cni.native import CannotCompile, compiled, with_script
from tests.cni.programs import install
from tests.cni.test_quick import ANSWER, VARIABLES, config, http, journalled, router
from weavepy.cli.cni import cni

CHECKED = ("-std=gnu11", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
STRICT = ("-Wall", "-Wextra", "-Wshadow", "-Werror")
TIMEOUT_S = 60.0


def launcher(*flags: str) -> bytes:
    try:
        return compiled(flags)
    except CannotCompile as error:
        pytest.skip(f"no native plugin: {error}")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """With both forms of the plugin, the native one under both names, and without Python."""
    checked = launcher(*CHECKED, *STRICT)
    for folder, content in (
        ("native", with_script(checked, script())),
        ("python", script()),
        ("alone", with_script(checked, script("/nonexistent/python3"))),
    ):
        for name in ("weavepy-cni", "weavepy-ipam"):
            write_whole(tmp_path / folder / name, content, 0o755)
    return tmp_path


def run(
    plugin: Path, stdin: bytes, environment: dict[str, str]
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [plugin], input=stdin, capture_output=True, env=environment, timeout=TIMEOUT_S
    )


def variables(verb: str, **more: str) -> dict[str, str]:
    named = {f"CNI_{key.upper()}": value for key, value in VARIABLES.items()}
    return {"CNI_COMMAND": verb} | named | more


# --- the same as the script ----------------------------------------------------------------------


def answers(rng: random.Random) -> bytes:
    """One of what a router, or what is taken for one, may say."""
    refused = b"weavepy: no [7]\n" + json.dumps({"code": 7, "msg": "no"}).encode() + b"\n"
    contents: list[tuple[int, object]] = [
        (200, ANSWER),
        (200, b""),
        (200, b"x" * 300_000),
        (quick.REFUSED, refused),
        (quick.REFUSED, b"no line"),
        (409, {"code": "conflict", "message": "because"}),
        (500, {"code": "internal", "message": "a bug"}),
        (200, {"findings": [], "errors": [], "code": 0, "message": ""}),
    ]
    whole = http(*rng.choice(contents))
    match rng.randrange(4):
        case 0:
            return whole[: rng.randrange(len(whole))]
        case 1:
            place = rng.randrange(len(whole))
            return whole[:place] + rng.randbytes(1) + whole[place + 1 :]
    return whole


def inputs(rng: random.Random, run_directory: Path) -> bytes:
    plain = json.dumps(config(run_directory, cniVersion=rng.choice(VERSIONS))).encode()
    match rng.randrange(8):
        case 0:
            place = rng.randrange(len(plain))
            return plain[:place] + rng.randbytes(1) + plain[place + 1 :]
        case 1:
            return plain[: rng.randrange(len(plain))]
        case 2:
            return plain.replace(b'"runDir": ', b'"runDir"\t\r\n :\n')
        case 3:
            return plain.replace(b"/", b"\\/")
        case 4:
            return plain + b" " * rng.choice((100_000, 200_000, quick.MAX_CONFIG_BYTES))
    return plain


@pytest.mark.parametrize("seed", [150, 701, *range(int(os.environ.get("WEAVEPY_TWINS", "40")))])
def test_both_forms_ask_and_say_the_same(directory: Path, seed: int) -> None:
    """WEAVEPY_TWINS=1000: so many, instead of some."""
    rng = random.Random(seed)
    stdin, answer = inputs(rng, directory), answers(rng)
    verb = rng.choice(("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION", "", "NONE"))
    name = rng.choice(("weavepy-cni", "weavepy-ipam"))
    environment = variables(verb, CNI_ARGS=rng.choice(("", "IP=10.0.0.1", "\udcff=é")))
    outcomes = []
    for form in ("native", "python"):
        with router(directory, answer, at_most=True) as asked:
            done = run(directory / form / name, stdin, environment)
        assert b"Sanitizer" not in done.stderr
        assert b"runtime error" not in done.stderr
        requests = [(path, quick.decode(content)) for path, content in asked]
        entries = sorted(file.name for file in directory.glob("cni-journal/*"))
        outcomes.append((done.returncode, done.stdout, done.stderr, requests, entries))
        for file in directory.glob("cni-journal/*"):
            file.unlink()
    assert outcomes[0] == outcomes[1]


def test_both_forms_say_the_same_without_environment_or_input(directory: Path) -> None:
    for environment in ({}, {"CNI_COMMAND": "VERSION"}, variables("ADD")):
        for stdin in (b"", b"\0" * 100, b'"runDir"', b'{"runDir":"\0"}'):
            given = environment | {"WEAVEPY_RUN_DIR": str(directory / ("x" * 60))}
            native_form, python_form = (
                run(directory / form / "weavepy-cni", stdin, given) for form in ("native", "python")
            )
            assert native_form.returncode == python_form.returncode
            assert native_form.stdout == python_form.stdout
            assert native_form.stderr == python_form.stderr


def test_the_launcher_has_the_numbers_of_the_script() -> None:
    source = native.SOURCE.read_text()
    table = dict(re.findall(r'\{"(\w*)", (\d+), \w+\}', source))
    other = table.pop("")
    assert {verb: float(value) for verb, value in table.items()} == quick.TIMEOUTS_S
    assert float(other) == quick.OTHER_TIMEOUT_S
    named = dict(re.findall(r"#define (MAX_\w+) \(([\d *]+)\)", source))
    for name in ("MAX_CONFIG_BYTES", "MAX_CONTENT_BYTES", "MAX_ANSWER_BYTES"):
        factors = [int(factor) for factor in named[name].split("*")]
        assert getattr(quick, name) == eval("*".join(map(str, factors)))
    for name in ("PATH", "RUN_DIRECTORY", "RUN_VARIABLE", "SOCKET_NAME"):
        assert f'#define {name} "{getattr(quick, name)}"' in source
    for name in ("DONE", "REFUSED", "ELSEWHERE"):
        assert f" {name} = {getattr(quick, name)}" in source
    assert json.dumps(list(VERSIONS), separators=(",", ":")) in source.replace("\\", "")


# --- as a runtime treats it ----------------------------------------------------------------------


@pytest.fixture
def waiting(directory: Path) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket]]:
    """A plugin that has asked, and the router's end of its connection."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "weavepy.sock"))
        listener.listen()
        listener.settimeout(TIMEOUT_S)
        process = subprocess.Popen(
            [directory / "native/weavepy-cni"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=variables("ADD"),
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(config(directory)).encode())
        process.stdin.close()
        process.stdin = None
        connection, _ = listener.accept()
        connection.settimeout(TIMEOUT_S)
        assert connection.recv(1 << 16).startswith(b"POST")
        with connection, process:
            yield process, connection


def test_one_that_was_stopped_for_a_while_goes_on(
    waiting: tuple[subprocess.Popen[bytes], socket.socket],
) -> None:
    process, connection = waiting
    answer = http(200, {"cniVersion": "1.0.0"})
    for part in (answer[:10], answer[10:30]):
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        connection.sendall(part)
        process.send_signal(signal.SIGCONT)
    connection.sendall(answer[30:])
    printed, said = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, json.loads(printed), said) == (0, {"cniVersion": "1.0.0"}, b"")


def test_one_that_is_ended_hangs_up(
    waiting: tuple[subprocess.Popen[bytes], socket.socket],
) -> None:
    """By that the router knows that it has to undo the ADD."""
    process, connection = waiting
    process.terminate()
    assert connection.recv(1) == b""
    assert process.wait(TIMEOUT_S) == -signal.SIGTERM


def test_a_router_that_is_silent_is_not_waited_for_longer_than_it_takes(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "weavepy.sock"))
        listener.listen()
        given = json.dumps(config(directory, cniVersion="1.1.0")).encode()
        done = run(directory / "native/weavepy-cni", given, {"CNI_COMMAND": "STATUS"})
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, 50)


@pytest.mark.parametrize("name", ["weavepy-cni", "weavepy-ipam"])
def test_the_name_tells_what_it_is_to_do_also_of_a_link(directory: Path, name: str) -> None:
    plugin = directory / "links" / name
    plugin.parent.mkdir()
    plugin.symlink_to(directory / "native/weavepy-cni")
    with router(directory, http(quick.ELSEWHERE, b""), http(200, ANSWER)) as asked:
        run(plugin, json.dumps(config(directory)).encode(), variables("ADD"))
    assert quick.decode(asked[0][1])[0]["NAME"] == name
    kind = {"weavepy-cni": "interface", "weavepy-ipam": "addresses"}[name]
    assert json.loads(asked[1][1])["kind"] == kind


# --- without Python ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "code"), [("ADD", 11), ("DEL", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)]
)
def test_without_python_and_router_a_verb_fails(directory: Path, verb: str, code: int) -> None:
    """DEL as well: there is nobody to write it down, and a runtime repeats it."""
    done = run(
        directory / "alone/weavepy-cni", json.dumps(config(directory)).encode(), variables(verb)
    )
    printed = json.loads(done.stdout)
    assert (done.returncode, printed["code"]) == (1, code)
    assert printed["msg"] == "the router is not running"
    assert b"the router is not running" in done.stderr
    assert journalled(directory) == 0


def test_without_python_the_router_does_all_else(directory: Path) -> None:
    given = json.dumps(config(directory)).encode()
    said = json.dumps({"cniVersion": "1.0.0", "code": 7, "msg": "no"}).encode()
    plugin = directory / "alone/weavepy-cni"
    with router(
        directory,
        http(200, b"done"),
        http(quick.REFUSED, b"weavepy: no\n" + said),
        http(quick.ELSEWHERE, b""),
        http(500, {"code": "internal", "message": "a bug"}),
        http(200, b"half", 2),
    ):
        done = run(plugin, given, variables("ADD"))
        assert (done.returncode, done.stdout) == (0, b"done")
        done = run(plugin, given, variables("ADD"))
        assert (done.returncode, done.stdout, done.stderr) == (1, said, b"weavepy: no\n")
        for code in (100, 100, 11):
            done = run(plugin, given, variables("ADD"))
            assert (done.returncode, json.loads(done.stdout)["code"]) == (1, code)


def test_without_python_the_versions_are_told(directory: Path) -> None:
    done = run(directory / "alone/weavepy-cni", b"", {"CNI_COMMAND": "VERSION"})
    assert json.loads(done.stdout)["supportedVersions"] == list(VERSIONS)


# --- installing ----------------------------------------------------------------------------------


def installed(directory: Path) -> tuple[str, bytes]:
    """What the command says, and what is there then."""
    folders = ("--bin-dir", str(directory / "bin"), "--conf-dir", str(directory / "conf"))
    done = CliRunner().invoke(cni, ["install", *folders])
    assert done.exit_code == 0, done.output
    plugins = [(directory / "bin" / name).read_bytes() for name in ("weavepy-cni", "weavepy-ipam")]
    assert plugins[0] == plugins[1]
    return done.output, plugins[0]


def test_what_was_compiled_with_the_package_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prebuilt = tmp_path / "launcher"
    prebuilt.write_bytes(b"a program")
    monkeypatch.setattr(native, "PREBUILT", prebuilt)
    assert installed(tmp_path)[1] == with_script(b"a program", script())


def test_without_a_compiler_it_is_the_script_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled.cache_clear()
    monkeypatch.setattr(native, "COMPILER", "no-such-compiler")
    said, plugin = installed(tmp_path)
    assert "there is no C compiler (no-such-compiler)" in said
    assert plugin == script()


def test_the_installed_program_runs(tmp_path: Path) -> None:
    launcher(*native.FLAGS)
    plugin = install(tmp_path, "native")
    assert plugin.read_bytes()[:4] == b"\x7fELF"
    with router(tmp_path, http(200, b"done")):
        done = run(plugin, json.dumps(config(tmp_path)).encode(), variables("ADD"))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"done", b"")


def test_an_interpreter_that_is_named_runs_what_the_launcher_leaves(tmp_path: Path) -> None:
    interpreter: Any = tmp_path / "python"
    interpreter.write_text('#!/bin/sh\necho "$1 $3"\n')
    interpreter.chmod(0o755)
    write_whole(
        tmp_path / "weavepy-cni",
        with_script(launcher(*native.FLAGS), script(str(interpreter))),
        0o755,
    )
    done = run(tmp_path / "weavepy-cni", json.dumps(config(tmp_path)).encode(), variables("ADD"))
    assert done.stdout == b"-ISXutf8 weavepy-cni\n"
