from __future__ import annotations

import pytest

from motet.errors import UsageError
from motet.jobs.names import MAX_NAME_LENGTH, check_name, is_name, joined, label, names_of, part, unused


@pytest.mark.parametrize("name", ["a", "0", "lr0.1-width=128", "A.b_c+d", "x" * MAX_NAME_LENGTH])
def test_good_names(name: str) -> None:
    assert check_name(name) == name
    assert is_name(name)


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b", "a,b", "a b", "-a", "é", "a\n", "x" * 101])
def test_bad_names_are_refused_and_shown(name: str) -> None:
    assert not is_name(name)
    with pytest.raises(UsageError, match=r"^jobs.yaml:3: "):
        check_name(name, "jobs.yaml:3")


def test_a_name_must_be_text() -> None:
    with pytest.raises(UsageError, match="must be text, not 3"):
        check_name(3)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1e-3, "0.001"),
        (3e-4, "0.0003"),
        (1e-30, "1e-30"),
        (100000.0, "100000.0"),
        (1e22, "1e+22"),
        (-0.5, "-0.5"),
        (float("inf"), "inf"),
        (-3, "-3"),
        ("-3", "-3"),
        (True, "true"),
        (None, "none"),
        ("configs/base.yaml", "configs-base.yaml"),
        ("-- a b --", "a-b"),
        ([0.9, 0.99], "0.9+0.99"),
        ({"depth": 3}, "depth=3"),
        ("ß", ""),
    ],
)
def test_labels_hold_only_what_names_may_hold(value: object, expected: str) -> None:
    assert label(value) == expected


def test_parts_stay_readable() -> None:
    assert part("lr", "0.1") == "lr0.1"
    assert part("opt", "adam") == "opt=adam"
    assert part("beta1", "0.9") == "beta1=0.9"
    assert part("bias", "-1") == "bias=-1"
    assert part("amp", "") == "amp"
    assert part("", "x") == "x"


def test_long_names_are_cut_but_stay_apart() -> None:
    one, other = joined(["x" * 200 + "1"]), joined(["x" * 200 + "2"])
    assert is_name(one)
    assert is_name(other)
    assert one != other
    assert one == joined(["x" * 200 + "1"])


def test_a_long_name_keeps_its_end() -> None:
    assert joined(["x" * 200, "seed1"]).endswith("x-seed1")


@pytest.mark.parametrize(
    ("jobs", "names"),
    [
        ([{"lr": "0.1"}, {"lr": "0.2", "amp": ""}], ["lr0.1", "lr0.2-amp"]),
        (
            [
                {"model.optimizer.learning_rate": f"0.{i}", "model." * 8 + "encoder.width": "8", "x" * 20: "1"}
                for i in (1, 2)
            ],
            [f"learning_rate0.{i}-width8-{'x' * 20}1" for i in (1, 2)],
        ),
        (
            [{"data": f"{'long-' * 20}{i}.yaml", "seed": str(i)} for i in (1, 2)],
            ["data1-seed1", "data2-seed2"],
        ),
        (
            [{"name": f"{'abc' * 40}{i}"} for i in (1, 2)],
            [f"name={'abc' * 10}..c{'abc' * 20}{i}" for i in (1, 2)],
        ),
    ],
)
def test_long_names_keep_what_tells_jobs_apart(jobs: list[dict[str, str]], names: list[str]) -> None:
    assert names_of(jobs) == names


def test_many_values_leave_a_hash_and_the_end() -> None:
    jobs = [{f"key{number}": f"{number}{seed}" for number in range(40)} for seed in (1, 2)]
    one, other = names_of(jobs)
    assert is_name(one)
    assert is_name(other)
    assert one != other
    assert one.endswith("-key39=391")
    assert other.endswith("-key39=392")


def test_used_names_are_numbered() -> None:
    assert unused("a", []) == "a"
    assert unused("a", ["a", "a-2"]) == "a-3"
    long = "x" * MAX_NAME_LENGTH
    assert is_name(unused(long, [long]))
