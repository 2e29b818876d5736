"""What a line a minute says of a group that does not begin at its beginning."""

from kdbench.terminal.pace import Pace


def test_a_resumed_group_is_not_in_its_first_epoch() -> None:
    pace = Pace()
    pace.begin(100)
    pace.group("resnet56, seed 0", 100, 64)
    assert pace.line() == "[0%] resnet56, seed 0: in epoch 1"
    pace.skip(40)
    assert pace.line() == "[40%] resnet56, seed 0: going on"


def test_a_lane_that_falls_out_takes_nobody_out_of_the_first_epoch() -> None:
    pace = Pace()
    pace.begin(100)
    pace.group("resnet56, seed 0", 100, 64)
    pace.step(2)
    pace.skip(40)
    assert "in epoch 1, 2 lanes" in pace.line()
