from router.overlay.mac_table import MacTable


def mac(number: int) -> bytes:
    return b"\x02" + number.to_bytes(5, "big")


def test_an_address_is_found_behind_the_peer_it_was_learnt_from():
    table = MacTable()
    assert table.learn(mac(1), 7, now=0.0)
    assert table.lookup(mac(1)) == 7
    assert table.lookup(mac(2)) is None
    assert not table.learn(mac(1), 7, now=0.1)


def test_an_address_moves_to_where_it_was_seen_last():
    table = MacTable()
    table.learn(mac(1), 7, now=0.0)
    assert table.learn(mac(1), 8, now=0.1)
    assert table.lookup(mac(1)) == 8
    assert table.moves == 1


def test_group_addresses_and_the_zero_address_are_not_learnt():
    table = MacTable()
    assert not table.learn(b"\xff" * 6, 7, now=0.0)
    assert not table.learn(b"\x33\x33\0\0\0\1", 7, now=0.0)
    assert not table.learn(bytes(6), 7, now=0.0)
    assert len(table) == 0


def test_forgetting_a_peer_forgets_what_was_behind_it_only():
    table = MacTable()
    for number in range(10):
        table.learn(mac(number), number % 2, now=0.0)
    assert table.forget(1) == 5
    assert table.lookup(mac(1)) is None
    assert table.lookup(mac(2)) == 0


def test_a_full_table_drops_the_address_not_seen_for_longest():
    table = MacTable(max_entries=3)
    for number in range(3):
        table.learn(mac(number), 1, now=float(number))
    table.learn(mac(0), 1, now=5.0)
    table.learn(mac(3), 1, now=6.0)
    assert len(table) == 3
    assert table.lookup(mac(1)) is None
    assert table.lookup(mac(0)) == 1


def test_addresses_not_seen_for_ten_minutes_expire():
    table = MacTable()
    table.learn(mac(1), 1, now=0.0)
    table.learn(mac(2), 1, now=0.0)
    table.learn(mac(2), 1, now=300.0)
    assert table.expire(599.0) == 0
    assert table.expire(600.0) == 1
    assert table.lookup(mac(1)) is None
    assert table.lookup(mac(2)) == 1


def test_the_newest_entries_come_first_with_their_age():
    table = MacTable()
    for number in range(5):
        table.learn(mac(number), number, now=float(number))
    assert list(table.newest(2, now=10.0)) == [(mac(4), 4, 6.0), (mac(3), 3, 7.0)]
