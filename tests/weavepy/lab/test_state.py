import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from weavepy.lab import state as state_module
from weavepy.lab.plan import make_plan
from weavepy.lab.state import Impairment, ProcessRecord, Store, new_state
from weavepy.lab.system import LabError, start_ticks, wait_until


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    store = Store("lab", tmp_path)
    state = new_state(make_plan("lab", 2, 1, "chain", 9000), ["--no-discovery"])
    state.processes["router h1"] = ProcessRecord(1, 2)
    state.impairments["h1-h2"] = Impairment(loss=0.01, down=True)
    store.write(state)
    assert store.read() == state
    assert store.read().plan == make_plan("lab", 2, 1, "chain", 9000)
    assert store.read().namespaces[0] == "weavepy-lab-wire"


def test_a_lab_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    Store("one", tmp_path).write(new_state(make_plan("one"), []))
    with pytest.raises(LabError, match="no lab 'two'.*there is: one"):
        Store("two", tmp_path).read()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "lab"}', '{"hosts": 99}'])
def test_a_damaged_file_is_an_error_that_does_not_hinder_cleaning_up(
    tmp_path: Path, text: str
) -> None:
    store = Store("lab", tmp_path)
    store.path.mkdir()
    store.file.write_text(text)
    with pytest.raises(LabError, match="lab down"):
        store.read()
    assert store.read_if_sound() is None


def test_changes_are_kept_even_if_their_maker_fails(tmp_path: Path) -> None:
    store = Store("lab", tmp_path)
    store.write(new_state(make_plan(), []))
    with pytest.raises(ZeroDivisionError), store.changing() as state:
        state.processes["router h1"] = ProcessRecord(1, 2)
        _ = 1 / 0
    assert store.read().processes == {"router h1": ProcessRecord(1, 2)}


def test_two_commands_on_one_lab_take_turns(tmp_path: Path) -> None:
    store = Store("lab", tmp_path)
    store.write(new_state(make_plan(), []))

    def add(number: int) -> None:
        with Store("lab", tmp_path).changing() as state:
            state.processes[f"router h{number}"] = ProcessRecord(number, 0)

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.read().processes) == 8


def test_a_command_that_holds_the_lock_for_ever_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_module, "LOCK_TIMEOUT_S", 0.1)
    with (
        Store("lab", tmp_path).lock(),
        pytest.raises(LabError, match="another command"),
        Store("lab", tmp_path).lock(),
    ):
        pass


def test_a_process_is_known_by_its_start_too() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        started = start_ticks(process.pid)
        assert started is not None
        assert ProcessRecord(process.pid, started).running
        assert not ProcessRecord(process.pid, started - 1).running
        process.kill()
    assert not ProcessRecord(process.pid, started).running
    assert start_ticks(os.getpid()) is not None


def test_an_impairment_is_told_in_one_line() -> None:
    assert str(Impairment()) == "ok"
    bad = Impairment(down=True, loss=0.015, delay_ms=20, mtu_bytes=1400, rate_bits=100_000_000)
    assert str(bad) == "down, loss 1.5%, delay 20ms, mtu 1400, rate 100mbit"


HOLDER = """
import sys
from pathlib import Path
from weavepy.lab.state import Store
from weavepy.lab.system import run
with Store("lab", Path(sys.argv[1])).lock():
    run(["sh", "-c", "touch $0/started; sleep 1", sys.argv[1]])
"""


def test_a_tool_that_outlives_a_killed_command_still_holds_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_module, "LOCK_TIMEOUT_S", 0.1)
    store = Store("lab", tmp_path)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)])
    try:
        assert wait_until((tmp_path / "started").exists, 10)
    finally:
        holder.kill()
        holder.wait()
    with pytest.raises(LabError, match="another command"), store.lock():
        pass
    monkeypatch.setattr(state_module, "LOCK_TIMEOUT_S", 10)
    with store.lock():
        pass
