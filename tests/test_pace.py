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


def test_what_is_made_before_the_first_batch_tells_nothing_of_the_speed() -> None:
    now = 0.0
    pace = Pace(lambda: now)
    pace.begin(1000)
    pace.group("resnet56, seed 0", 1000, 64)
    pace.skip(0)
    now = 100.0
    pace.step(2)
    assert pace.line() == "[0%] resnet56, seed 0: in epoch 1, 2 lanes"
    for _ in range(99):
        now += 0.5
        pace.step(2)
    assert pace.line() == "[20%, about 3 min 20 s left] resnet56, seed 0: in epoch 1, 2 lanes, 256 images/s"
    pace.group("resnet20, seed 0", 800, 64)
    now += 60.0
    pace.step(2)
    now += 1.0
    pace.step(4)
    assert pace.line().endswith("resnet20, seed 0: in epoch 1, 4 lanes, 256 images/s")


def test_after_the_last_epoch_no_speed_is_told_and_no_further_epoch() -> None:
    now = 0.0
    pace = Pace(lambda: now)
    pace.begin(1000)
    pace.group("teacher resnet56", 100, 64)
    for _ in range(101):
        pace.step(1)
        now += 0.5
    pace.over()
    said = "[10%, about 7 min 34 s left] teacher resnet56: done; what follows is being made ready"
    assert pace.line() == f"{said}, 127 images/s"
    now += 3600.0  # 230 students are built
    assert pace.line() == said
    pace.group("resnet56, seed 0", 900, 64)
    pace.step(2)
    assert pace.line().endswith("resnet56, seed 0: in epoch 1, 2 lanes")
