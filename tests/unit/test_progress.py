"""Progress: never goes back, tells speed and time left, and is done only when all is."""

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milvault import BackupProgress
from milvault.display import human_bytes, human_duration
from milvault.progress import ProgressTracker


def counters(rows=0, total_rows=1000, bytes_per_row=1024, phase="reading"):
    return {
        "phase": phase,
        "rows_processed": rows,
        "total_rows": total_rows,
        "bytes_processed": rows * bytes_per_row,
        "total_bytes": total_rows * bytes_per_row,
        "started_at": 1000.0,
    }


def test_speed_and_time_left_follow_from_the_last_seconds():
    tracker = ProgressTracker()
    tracker.update(counters(50, bytes_per_row=1024**2), 1000.0)
    progress = tracker.update(counters(300, bytes_per_row=1024**2), 1005.0)
    assert progress.percentage == 30.0
    assert progress.current_speed_mbps == 50.0
    assert progress.estimated_remaining_time_seconds == pytest.approx(14.0)
    assert progress.formatted_eta == "14s"
    assert progress.start_time == datetime.datetime.fromtimestamp(1000, datetime.timezone.utc)
    assert progress.estimated_completion_time - progress.current_time == datetime.timedelta(seconds=14)


def test_a_slowdown_shows_within_seconds():
    tracker = ProgressTracker()
    for second in range(10):
        tracker.update(counters(second * 50), 1000.0 + second)
    for second in range(10, 40):
        progress = tracker.update(counters(450 + second), 1000.0 + second)
    assert progress.estimated_remaining_time_seconds == pytest.approx(511, rel=0.05)


def drive(job, *, until=60.0, poll=2.0):
    """Runs a job on a clock of its own and gives every progress. `job` maps seconds to rows done of 1000."""
    tracker, seen, second = ProgressTracker(), [], 0.0
    while second <= until:
        seen.append((second, tracker.update(counters(job(second)), 1000.0 + second)))
        second += poll
    return seen


@pytest.mark.parametrize("poll", [0.02, 0.2, 2.0])
@pytest.mark.parametrize("dead", [0.0, 1.3, 9.0])
def test_the_estimate_is_right_from_the_first_seconds_on_however_long_the_start_took(poll, dead):
    # 20 rows a second, from `dead` seconds on: 50 seconds of work.
    def steady(second):
        return min(1000, round(20 * max(0.0, second - dead)))

    told = [
        (second, progress.estimated_remaining_time_seconds)
        for second, progress in drive(steady, poll=poll)
        if progress.estimated_remaining_time_seconds is not None
    ]
    assert told[0][0] <= dead + max(1.5, 2 * poll) + poll
    for second, left in told:
        assert left == pytest.approx(50 + dead - second, rel=0.5, abs=2.5), f"after {second} s"
    # once two readings with rows lie behind it, it is close
    for second, left in told[3:]:
        assert left == pytest.approx(50 + dead - second, rel=0.1, abs=2.0), f"after {second} s"


def test_the_estimate_is_sane_where_rows_come_in_lumps():
    # Pages of 100 rows, one every 3 seconds: 30 seconds of work.
    for second, progress in drive(lambda second: min(1000, 100 * int(second / 3)), until=26, poll=0.5):
        left = progress.estimated_remaining_time_seconds
        assert left is None or 0.2 * (30 - second) <= left <= 4 * (30 - second) + 5, f"after {second} s: {left}"


def test_nothing_is_left_to_tell_once_all_rows_are_counted():
    progress = [progress for _, progress in drive(lambda second: min(1000, round(100 * second)), until=40)][-1]
    assert progress.estimated_remaining_time_seconds is None
    assert progress.formatted_eta == "unknown"
    assert progress.percentage == 99.9


def test_an_estimate_beyond_ten_years_is_none():
    tracker = ProgressTracker()
    tracker.update(counters(1, total_rows=2**40), 1000.0)
    progress = tracker.update(counters(2, total_rows=2**40), 1100.0)
    assert progress.estimated_remaining_time_seconds is None
    assert progress.estimated_completion_time is None


def test_the_total_is_never_less_than_what_is_done():
    progress = ProgressTracker().update({**counters(10), "total_bytes": 5}, 1001.0)
    assert progress.total_bytes == progress.bytes_processed == 10 * 1024


def test_nothing_is_guessed_while_nothing_is_known():
    progress = ProgressTracker().update({"phase": "counting", "started_at": 1000.0}, 1001.0)
    assert (progress.percentage, progress.current_speed_mbps) == (0.0, 0.0)
    assert progress.estimated_remaining_time_seconds is None
    assert progress.formatted_eta == "unknown"


def test_a_stalled_job_has_no_time_left_to_tell():
    tracker = ProgressTracker()
    for second in range(30):
        progress = tracker.update(counters(100), 1000.0 + second)
    assert progress.estimated_remaining_time_seconds is None
    assert progress.current_speed_mbps == 0.0


def test_a_phase_that_counts_anew_does_not_take_the_percentage_back():
    tracker = ProgressTracker()
    tracker.update(counters(1000), 1001.0)
    progress = tracker.update(counters(1, phase="verifying"), 1002.0)
    assert progress.percentage == 99.9
    assert progress.current_speed_mbps >= 0


def test_the_cores_last_phase_is_not_done_before_its_result_is_there():
    progress = ProgressTracker().update(counters(1000, phase="done"), 1001.0)
    assert not progress.is_complete
    assert progress.percentage < 100


def test_the_end_is_complete_or_failed():
    done = ProgressTracker().update(counters(1000), 1001.0, outcome="done")
    assert (done.is_complete, done.is_failed, done.percentage, done.formatted_eta) == (True, False, 100.0, "done")
    failed = ProgressTracker().update(counters(500), 1001.0, outcome="failed")
    assert (failed.is_complete, failed.is_failed, failed.percentage) == (False, True, 50.0)


@given(
    steps=st.lists(
        st.tuples(st.floats(0, 100), st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**50)),
        min_size=1,
        max_size=40,
    )
)
def test_whatever_the_core_says_progress_is_monotone_and_sane(steps):
    tracker, now, last = ProgressTracker(), 1000.0, 0.0
    for elapsed, rows, total_rows, size in steps:
        now += elapsed
        progress = tracker.update(
            {"rows_processed": rows, "total_rows": total_rows, "bytes_processed": size, "started_at": 1000.0}, now
        )
        assert last <= progress.percentage < 100
        assert progress.current_speed_mbps >= 0
        left = progress.estimated_remaining_time_seconds
        assert left is None or left >= 0
        assert progress.start_time <= progress.current_time
        assert progress.formatted_eta
        last = progress.percentage


def test_progress_shows_in_a_notebook():
    now = datetime.datetime.now(datetime.timezone.utc)
    html = BackupProgress(phase="<reading>", start_time=now, current_time=now)._repr_html_()
    assert "&lt;reading&gt;" in html


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59.4, "59s"), (59.6, "1m 00s"), (65, "1m 05s"), (3600, "1h 00m"), (7384, "2h 03m"), (90000, "1d 01h")],
)
def test_durations_for_people(seconds, text):
    assert human_duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (5 * 1024**2, "5.0 MiB"),
        (3 * 1024**3, "3.0 GiB"),
        (2 * 1024**4, "2.0 TiB"),
    ],
)
def test_sizes_for_people(count, text):
    assert human_bytes(count) == text
