"""The log of bytes, and how bytes reach others."""

import pytest
import torch.distributed as dist
from support.one_byte_replicas import replicas
from support.one_byte_worker import network, spsa

from ponita.sharing.federated.one_byte import ABSENT, ByteLog, StoreTransport


def test_a_log_that_was_cut_ends_before_the_cut(tmp_path):
    made, _ = replicas(5)
    path = tmp_path / "a.log"
    log = ByteLog(path)
    for step, messages in made[0].log:
        log.append(step, messages)
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    assert len(ByteLog(path)) == 4 and path.read_bytes() == whole[: whole.rindex(b"\n", 0, -1) + 1]
    damaged = whole.replace(whole.splitlines()[2][9:20], b'[2, {"0": "0', 1)
    path.write_bytes(damaged)
    assert len(ByteLog(path)) <= 2
    with pytest.raises(ValueError, match="does not follow"):
        log.append(9, {})


def test_a_store_counts_late_and_wrong_bytes_as_absent():
    store = dist.HashStore()
    store.set("bytes/0/1", b"\x05\x06\x07")
    leader = StoreTransport(store, 0, [0, 1, 2], patience=0.05)
    nothing = bytes([ABSENT, ABSENT])
    assert leader.exchange(0, b"\x01\x02") == {0: b"\x01\x02", 1: nothing, 2: nothing}
    store.set("bytes/0/2", b"\x09\x09")
    assert StoreTransport(store, 1, [0, 1, 2]).missed(0)[2] == nothing
    assert leader.missed(1) is None
    with pytest.raises(ValueError, match="on the roster"):
        StoreTransport(store, 5, [0, 1])


def test_weights_that_differ_are_noticed():
    store = dist.HashStore()
    store.set("digest/0/1", "something else")
    made = spsa(network(), 0, transport=StoreTransport(store, 0, [0, 1], patience=0.05))
    with pytest.raises(RuntimeError, match="machines differ in their weights before step 0"):
        made.verify()
