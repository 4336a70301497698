"""The picture of who reaches whom, read as a program reads it."""

from pathlib import Path
from xml.etree import ElementTree

from tests.weavepy.cli.conftest import Command
from tests.weavepy.cli.stand_in import StandIn
from weavepy.cli.policy_picture import SQUARE, matrix_svg
from weavepy.client import schema

NAMES = "{http://www.w3.org/2000/svg}"
PODS = ["shop/db", "shop/web", "y/a<b>&c"]
ANSWER = schema.MatrixAnswer(
    pods=PODS, allowed=[[True, True, False], [False, True, False], [True, True, True]]
)


def drawn(answer: schema.MatrixAnswer) -> ElementTree.Element:
    return ElementTree.fromstring(matrix_svg(answer, "80/tcp"))


def test_there_is_a_square_for_each_pair_that_says_what_it_means() -> None:
    squares = [one for one in drawn(ANSWER).iter(f"{NAMES}rect") if len(one)]
    said = {one[0].text: one.get("class") for one in squares}
    assert len(squares) == 9
    assert said["shop/db -> shop/web: passes"] == "passes"
    assert said["shop/web -> shop/db: is blocked"] == "blocked"
    assert said["y/a<b>&c -> y/a<b>&c: itself"] == "itself"
    assert [*said.values()].count("passes") == 3


def test_all_is_within_the_picture_and_nothing_overlaps() -> None:
    names = [f"namespace-{number // 10}/pod-with-a-name-{number}" for number in range(30)]
    answer = schema.MatrixAnswer(pods=names, allowed=[[False] * 30] * 30)
    root = drawn(answer)
    width, height = float(root.get("width", 0)), float(root.get("height", 0))
    places = {
        (float(one.get("x", 0)), float(one.get("y", 0)))
        for one in root.iter(f"{NAMES}rect")
        if len(one)
    }
    assert len(places) == 900
    assert max(x for x, _ in places) + SQUARE < width
    assert max(y for _, y in places) + SQUARE < height
    assert len([*root.iter(f"{NAMES}line")]) == 4, "two between three namespaces, each way"
    assert all(float(one.get("x", -1)) >= 0 for one in root.iter(f"{NAMES}text"))


def test_long_names_are_shortened_and_still_told_apart() -> None:
    names = [f"shop/{'x' * 100}-{number}" for number in range(2)]
    root = drawn(schema.MatrixAnswer(pods=names, allowed=[[True, True]] * 2))
    labels = {one.text for one in root.iter(f"{NAMES}text") if "…" in (one.text or "")}
    assert len(labels) == 2
    assert float(root.get("width", 0)) < 800


def test_the_same_answer_makes_the_same_file(
    weavepy: Command, router: StandIn, tmp_path: Path
) -> None:
    files = [tmp_path / name for name in ("one.svg", "two.svg")]
    for file in files:
        assert weavepy("policy", "matrix", "--svg", str(file)).returncode == 0
    assert files[0].read_text() == files[1].read_text()
    assert "default/db -> default/web: is blocked" in files[0].read_text()
    assert weavepy("policy", "matrix", "--svg", "-").stdout == files[0].read_text()
    assert weavepy("policy", "matrix", "--svg", str(tmp_path)).returncode == 2


def test_without_pods_it_is_a_picture_all_the_same() -> None:
    assert "0 of 0 pass" in matrix_svg(schema.MatrixAnswer(pods=[], allowed=[]), "icmp")
