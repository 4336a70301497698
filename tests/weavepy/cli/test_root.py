"""The command as a whole: help, errors as one line, exit codes, and what it loads."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.weavepy.cli.conftest import Command, only_line
from tests.weavepy.cli.stand_in import StandIn
from weavepy.cli import root as cli_root
from weavepy.cli.root import COMMANDS, root

# The interpreter may lie where only root can go, so the right to read everything is kept.
AS_STRANGER = (
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search", "--"),
)


def _walk(command: click.Command, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from _walk(found, (*path, name))


ALL_COMMANDS = sorted(_walk(root, ()))


def _help_of(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> str:
    assert cli_root.run([*path, "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("path", ALL_COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example_of_itself(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    text = _help_of(path, capsys)
    _, heading, examples = text.partition("Examples:")
    assert heading
    assert " ".join(("weavepy", *path)) in examples


def test_every_example_uses_options_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    for path in ALL_COMMANDS:
        options, _, examples = _help_of(path, capsys).partition("Examples:")
        if path == () or "lab" in path:
            continue
        for word in examples.split():
            if word.startswith("--") and word.strip("-"):
                assert word.split("=")[0] in options, f"{word} in the examples of {path}"


def test_the_table_of_commands_names_what_is_there() -> None:
    context = click.Context(root)
    for section in COMMANDS.values():
        for name in section:
            command = root.get_command(context, name)
            assert command is not None
            assert command.name == name


def test_every_launch_option_has_its_variable(capsys: pytest.CaptureFixture[str]) -> None:
    context = click.Context(root)
    launch = root.get_command(context, "launch")
    assert launch is not None
    for parameter in launch.params:
        if isinstance(parameter, click.Option):
            name = parameter.opts[0].removeprefix("--").replace("-", "_").upper()
            assert parameter.envvar == f"WEAVEPY_{name}"
            assert f"WEAVEPY_{name}" in _help_of(("launch",), capsys)


def test_without_arguments_it_shows_help_and_exits_with_2(weavepy: Command) -> None:
    result = weavepy()
    assert result.returncode == 2
    assert "Start and stop:" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("no-such-command",),
        ("status", "no-such-part"),
        ("status", "--no-such-option"),
        ("connect",),
        ("connect", "999.0.0.1"),
        ("connect", "host:70000"),
        ("connect", "[::zz]:6783"),
        ("forget", "two words"),
        ("attach",),
        ("attach", "web", "--pid", "7"),
        ("attach", "--pid", "0"),
        ("attach", "--ip", "10.32.0.9", "web"),
        ("attach", "--ip", "10.32.0.999/12", "web"),
        ("attach", "--net", "10.32.0.1/12", "web"),
        ("attach", "--net", "nonsense", "web"),
        ("detach", "--net", "10.0.0.0/33", "web"),
        ("expose", "--ip", "nonsense/8"),
        ("ipam", "no-such-command"),
        ("ipam", "claim", "printer", "nonsense"),
        ("ipam", "allocate", "backup", "--subnet", "10.0.0.0/40"),
        ("ipam", "allocate", "backup", "--timeout", "-1"),
        ("launch", "--ipalloc-range", "10.32.0.0/40"),
        ("launch", "--ipalloc-default-subnet", "192.168.0.0/16"),
        ("launch", "--ipalloc-init", "seed=host1"),
        ("launch", "--port", "0"),
        ("launch", "--port", "many"),
        ("launch", "--mtu", "100"),
        ("launch", "--bridge", "a-name-that-is-too-long"),
        ("launch", "--nickname", "two words"),
        ("launch", "--http-addr", "localhost"),
        ("launch", "bad host"),
        ("launch", "--insecure", "--secret-file", "x"),
        ("join",),
        ("join", "weavepy1-abc"),
        ("join", "not-a-token", "host1"),
        ("join", "--token-file", "x", "weavepy1-abc", "host1"),
        ("join", "--show", "host1"),
    ],
    ids=" ".join,
)
def test_what_is_asked_wrongly_is_one_line_and_exit_code_2(
    weavepy: Command, arguments: tuple[str, ...]
) -> None:
    result = weavepy(*arguments)
    assert only_line(result)
    assert result.returncode == 2
    assert not weavepy.state_dir.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("status",),
        ("status", "peers", "--json"),
        ("status", "--watch"),
        ("report",),
        ("connect", "192.0.2.7"),
        ("forget", "192.0.2.7"),
        ("attach", "web"),
        ("detach", "web"),
        ("ps",),
        ("expose",),
        ("hide",),
        ("ipam",),
        ("ipam", "list"),
        ("ipam", "ranges"),
        ("ipam", "history"),
        ("ipam", "check"),
        ("rmpeer", "gone"),
        ("ipam", "allocate", "backup"),
        ("ipam", "claim", "printer", "10.32.0.9"),
        ("ipam", "release", "backup"),
        ("ipam", "lookup", "backup"),
        ("prime",),
        ("stop",),
        ("reset", "--yes"),
    ],
    ids=" ".join,
)
def test_a_missing_router_is_one_line_and_exit_code_1(
    weavepy: Command, arguments: tuple[str, ...]
) -> None:
    result = weavepy(*arguments)
    assert f"weavepy is not running here (no socket at {weavepy.run_dir}" in only_line(result)
    assert result.returncode == 1


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("setpriv"),
    reason="becoming another user takes root and setpriv",
)
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("launch",), "`weavepy launch` needs root"),
        (("launch", "--detach"), "`weavepy launch` needs root"),
        (("join", "--token-file", "x", "host1"), "`weavepy join` needs root"),
        (("status",), "not allowed to talk to the router"),
    ],
)
def test_missing_rights_are_one_line_and_exit_code_1(
    weavepy: Command, router: StandIn, arguments: tuple[str, ...], says: str
) -> None:
    weavepy.run_dir.parent.chmod(0o755)
    (weavepy.run_dir / "weavepy.sock").chmod(0o660)
    result = subprocess.run(
        [*AS_STRANGER, *weavepy.arguments(*arguments)],
        env=weavepy.environment(),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert says in only_line(result)
    assert result.returncode == 1


def test_a_refusal_is_shown_as_the_router_words_it(weavepy: Command, router: StandIn) -> None:
    router.fail("/v1/attach", 404, "not-found", "there is no network namespace called web")
    result = weavepy("attach", "web")
    assert only_line(result) == "weavepy: there is no network namespace called web"
    assert result.returncode == 1


def test_a_refusal_for_wrong_usage_exits_with_2(weavepy: Command, router: StandIn) -> None:
    router.fail("/v1/attach", 400, "usage", "10.99.0.0/16 is outside the universe")
    assert weavepy("attach", "--net", "10.99.0.0/16", "web").returncode == 2


def test_an_answer_cut_short_is_one_line(weavepy: Command, router: StandIn) -> None:
    router.cut_after_bytes = 200
    result = weavepy("status")
    assert "went away in the middle of its answer" in only_line(result)
    assert result.returncode == 1


def test_our_own_bug_is_one_line_too_and_a_traceback_on_demand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> int:
        raise KeyError("oops")

    monkeypatch.setattr(cli_root, "_invoke", broken)
    assert cli_root.run(["status"]) == 1
    assert "this is a bug: KeyError: 'oops'; set WEAVEPY_DEBUG=1" in capsys.readouterr().err
    monkeypatch.setenv("WEAVEPY_DEBUG", "1")
    with pytest.raises(KeyError):
        cli_root.run(["status"])


def test_a_reader_that_goes_away_is_no_error(weavepy: Command, router: StandIn) -> None:
    command = " ".join([*weavepy.arguments("status", "--watch"), "| head -1"])
    result = subprocess.run(
        ["sh", "-c", command],
        env=weavepy.environment(),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.stdout.startswith("--- ")
    assert result.stderr == ""


def test_ctrl_c_ends_a_wait_quietly(weavepy: Command, router: StandIn) -> None:
    router.answering.clear()
    process = subprocess.Popen(
        weavepy.arguments("prime"),
        env=weavepy.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        _until_asked(router, "/v1/ipam/prime", process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert (out, err.strip(), process.returncode) == ("", "", 1)


def _until_asked(router: StandIn, path: str, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 20
    while not any(asked == path for _, asked, _ in router.requests):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)


HEAVY = {"aiohttp", "uvloop", "pyroute2", "cryptography", "rich", "prometheus_client", "asyncio"}


@pytest.mark.parametrize("arguments", [("version",), ("attach", "web"), ("detach", "web")])
def test_what_runs_once_per_container_loads_nothing_heavy(
    weavepy: Command, router: StandIn, arguments: tuple[str, ...]
) -> None:
    program = (
        "import sys\n"
        "from weavepy.cli.root import run\n"
        "code = run(sys.argv[1:])\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)\n"
        "sys.exit(code)\n"
    )
    result = subprocess.run(
        [sys.executable, "-P", "-c", program, *arguments],
        env=weavepy.environment(),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert result.returncode == 0, result.stderr
    assert HEAVY.isdisjoint(result.stderr.split())


def test_version_is_that_of_the_package(weavepy: Command) -> None:
    import weavepy as package

    assert weavepy("version").stdout == f"weavepy {package.__version__}\n"
    assert weavepy("--version").stdout == f"weavepy {package.__version__}\n"


def test_the_installed_script_is_this_command() -> None:
    script = Path(sys.executable).with_name("weavepy")
    if not script.exists():
        pytest.skip("weavepy is not installed in this environment")
    result = subprocess.run([script, "version"], capture_output=True, text=True, timeout=30)
    assert result.returncode == 0
