"""Which steps a new run keeps."""

from __future__ import annotations

from stepwell.store.keeping import RecordedStep, kept_steps


def steps(*records: str) -> list[RecordedStep]:
    """From `path`, `path status` or `path status kind`, in the order of their first records, a second apart."""
    made: list[RecordedStep] = []
    for number, record in enumerate(records):
        path, status, kind = (
            [*record.split(), "completed", "run"][:3] if " " not in record else [*record.split(), "run"][:3]
        )
        finished_at = number * 10 + 5 if status in ("completed", "failed", "cancelled") else None
        made.append(RecordedStep(number, path, kind, status, number * 10, finished_at, None, None))
    return made


def retried(*records: str) -> list[str]:
    made = steps(*records)
    return [made[number].path for number in kept_steps(made, None, ended_badly=True).numbers]


def begun_from(path: str, *records: str) -> list[str]:
    made = steps(*records)
    before = next(step for step in made if step.path == path)
    return [made[number].path for number in kept_steps(made, before, ended_badly=False).numbers]


def test_retry_keeps_results_only() -> None:
    assert retried("a", "b failed", "c cancelled", "d running", "#sleep-1 completed sleep", "e") == [
        "a",
        "#sleep-1",
        "e",
    ]


def test_cleaning_up_is_never_kept() -> None:
    assert retried("a", "#on_error failed on_error", "#on_error/release", "#undo/x failed") == ["a"]
    assert begun_from("b", "a", "#undo/x failed", "#on_error/release", "b") == ["a"]


def test_what_was_undone_is_not_kept_with_what_is_around_and_inside_it() -> None:
    recorded = ["a", "trip", "trip/hotel", "trip/hotel/call", "trip/flight", "b", "#undo/trip/hotel"]

    assert retried(*recorded) == ["a", "trip/flight", "b"]
    assert retried(*recorded[:-1], "#undo/trip/hotel failed") == [
        "a",
        "trip",
        "trip/hotel",
        "trip/hotel/call",
        "trip/flight",
        "b",
    ]


def test_what_is_inside_a_kept_step_stays_with_it() -> None:
    assert retried("p", "p/a failed", "p/b cancelled", "p/c", "pp failed", "p-x failed") == ["p", "p/a", "p/b", "p/c"]
    assert begun_from("x", "p", "p/a", "x", "p/b failed", "y") == ["p", "p/a", "p/b"]


def test_what_is_inside_a_step_that_runs_again_is_kept_by_itself() -> None:
    assert retried("p failed", "p/a", "p/b failed") == ["p/a"]


def test_before_a_step_failures_are_kept_too() -> None:
    assert begun_from("c", "a", "b failed", "x cancelled", "y running", "c", "d") == ["a", "b"]


def test_neither_what_is_around_nor_what_is_inside_the_step() -> None:
    assert begun_from("p/b", "a", "p", "p/a", "p/b", "p/b/x", "p/c") == ["a", "p/a"]
    # Recorded before its parent: a body announces itself only once it has a step inside.
    assert begun_from("p", "a", "p/x", "p", "b") == ["a"]


def test_a_deadline_decided_later_is_decided_anew() -> None:
    late = steps("limit failed within", "work")
    late[0] = late[0]._replace(finished_at=99)

    assert kept_steps(late, late[1], ended_badly=False).numbers == []
    early = steps("limit failed within", "work")
    assert kept_steps(early, early[1], ended_badly=False).numbers == [0]


def test_ten_thousand_steps_take_no_time() -> None:
    made = steps(*(f"p{n % 100}/s{n}" for n in range(10_000)), *(f"#undo/p{n}/s{n}" for n in range(50)))

    assert len(kept_steps(made, None, ended_badly=True).numbers) == 9_950
