"""The limit in bytes a second that all pulls share."""

import pytest

from proxy.transfer.bandwidth import Bandwidth
from tests.kit.streams import LoopClock


async def test_the_bandwidth_is_shared_by_all_bytes(clock: LoopClock) -> None:
    waits: list[float] = []
    bandwidth = Bandwidth(1 << 20)
    for seconds, size in ((0, 1 << 17), (0, 1 << 16), (0.0625, 1 << 19)):
        clock.now += seconds
        waits.append(bandwidth.take(size))
    assert waits == [0.125, 0.1875, 0.6875 - 0.0625]


async def test_unused_bandwidth_is_not_saved_up(clock: LoopClock) -> None:
    bandwidth = Bandwidth(1 << 20)
    bandwidth.take(1 << 10)
    clock.now += 1
    assert bandwidth.take(1 << 19) == 0.5


def test_without_a_limit_no_byte_waits() -> None:
    assert Bandwidth(0).take(10**12) == 0


@pytest.mark.parametrize(
    ("rate", "connections", "buffer"),
    [(0, 8, None), (20_000_000, 8, 500_000), (20_000_000, 1, 4_000_000), (100_000, 8, 32 * 1024)],
)
def test_the_receive_buffer_holds_a_fifth_of_a_second(rate: int, connections: int, buffer: int | None) -> None:
    assert Bandwidth(rate).receive_buffer(connections) == buffer
