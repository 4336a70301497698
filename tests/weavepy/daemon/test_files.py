import stat
from pathlib import Path

import pytest

from weavepy.base.errors import WeavepyError
from weavepy.daemon.files import load_identity, load_targets, replace_file, save_targets


def test_an_identity_is_made_once_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    first = load_identity(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_identity(path).name == first.name


def test_a_damaged_identity_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "identity.key"
    load_identity(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(WeavepyError, match=r"identity\.key.*damaged"):
        load_identity(path)


def test_targets_are_remembered_and_nonsense_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "targets.json"
    assert load_targets(path) == ()
    save_targets(path, ("host1", "[fd00::1]:6783"))
    assert load_targets(path) == ("host1", "[fd00::1]:6783")
    path.write_text("{not json")
    assert load_targets(path) == ()


def test_a_file_that_cannot_be_written_leaves_the_old_one_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    replace_file(path, b"old")
    (tmp_path / "kept.new").mkdir()
    with pytest.raises(WeavepyError, match="cannot write"):
        replace_file(path, b"new")
    assert path.read_bytes() == b"old"
