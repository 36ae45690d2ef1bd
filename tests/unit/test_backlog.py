"""How long slots wait for a worker, on a clock of the test's own."""

from __future__ import annotations

from buffers.backlog import Backlog


def test_a_backlog_waits_first_come_first_served() -> None:
    now = [0.0]
    backlog = Backlog(lambda: now[0])
    backlog.may_begin(2)
    now[0] = 3.0
    backlog.may_begin(5)  # three more
    now[0] = 4.0
    assert backlog.report().waits_s == (4.0,), "nothing began: the first one that waits counts"
    backlog.begun(3)  # two that waited 4 s, one that waited 1 s
    assert backlog.report().waits_s == (4.0, 4.0, 1.0) and backlog.report().waiting == 2
    backlog.may_begin(1)  # one may no longer: the youngest
    backlog.begun(4)  # as many as there are
    assert backlog.report().waiting == 0 and len(backlog.report().waits_s) == 4
    now[0] = 60.0
    assert backlog.report().waits_s == ()
