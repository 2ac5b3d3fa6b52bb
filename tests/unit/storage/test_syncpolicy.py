"""When syncs run on the loop, and when they must not."""

from ratifyd.storage.syncpolicy import ON_LOOP_BYTES, SLOW_WINDOW, WINDOW, SyncPolicy

QUICK, MIDDLING, STALL = 150e-6, 2e-3, 0.1


def test_quick_disks_are_synced_in_place_except_for_large_batches() -> None:
    policy = SyncPolicy(in_place_bytes=1000)
    for _ in range(100):
        assert policy.in_place(1000)
        policy.note(QUICK, in_place=True)
    assert not policy.in_place(1001)
    policy.note(MIDDLING, in_place=False)
    assert policy.in_place(1000), "a large batch's time says nothing about small ones"


def test_a_slow_disk_moves_to_the_thread_soon_and_returns_when_quick() -> None:
    policy = SyncPolicy()
    on_loop = 0
    while policy.in_place(1):
        policy.note(MIDDLING, in_place=True)
        on_loop += 1
    assert on_loop <= 4
    for _ in range(4 * WINDOW):
        assert not policy.in_place(1)
        policy.note(MIDDLING, in_place=False)
    returned = 0
    while not policy.in_place(1):
        policy.note(QUICK, in_place=False)
        returned += 1
    assert returned <= 2 * WINDOW


def test_now_and_then_a_slow_sync_does_not_make_a_quick_disk_a_slow_one() -> None:
    policy = SyncPolicy()
    for number in range(10 * WINDOW):
        policy.note(10 * MIDDLING if number % 8 == 0 else QUICK, in_place=True)
        assert policy.in_place(1)


def test_waits_for_the_interpreter_do_not_keep_a_quick_disk_on_the_thread() -> None:
    policy = SyncPolicy()
    while policy.in_place(1):
        policy.note(MIDDLING, in_place=True)
    for number in range(2 * WINDOW):
        policy.note(QUICK if number % 10 == 0 else 5e-3, in_place=False)
    assert policy.in_place(1)


def test_one_stall_bans_the_loop_for_long() -> None:
    policy = SyncPolicy()
    policy.note(STALL, in_place=True)
    for _ in range(SLOW_WINDOW):
        assert not policy.in_place(1)
        policy.note(QUICK, in_place=False)
    assert policy.in_place(1)


def test_the_kernel_syncs_what_is_written_quickly() -> None:
    policy = SyncPolicy()
    assert policy.in_kernel(ON_LOOP_BYTES) and not policy.in_kernel(ON_LOOP_BYTES + 1)
    policy.note_write(QUICK)
    policy.note(STALL, in_place=False)
    assert policy.in_kernel(1), "a slow sync holds nobody up there"
    policy.note_write(STALL)
    for _ in range(SLOW_WINDOW):
        assert not policy.in_kernel(1)
        policy.note(QUICK, in_place=False)
    assert policy.in_kernel(1)
