"""What every back end of `PUBLISHERS` must do, run against each of them."""

import pickle
import threading
import time
import uuid
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch

from configs.errors import ConfigError, Corruption, DeadlineExceeded, StaleEpoch
from configs.learning import PublishConfig
from learners.models.weights import SHARED_FOLDER, Layout, Receiver
from learners.publish import PUBLISHERS, PublishStats, World, build
from learners.publish.collective import CollectivePublisher
from learners.publish.collective_receiver import CollectiveReceiver
from learners.publish.object_store import ObjectStoreReceiver, Packet
from learners.publish.shared_memory import SharedMemoryPublisher

Tensors = Mapping[str, torch.Tensor]
LAYOUT = Layout.of({"w": torch.zeros(300, 7), "b": torch.zeros(33, dtype=torch.bfloat16), "n": torch.tensor(0)})
SECOND_BUCKET = LAYOUT.specs[1].offset
"""Bytes before the second bucket: each tensor here is one."""


def weights(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(300, 7, generator=generator)
    return {"w": w, "b": torch.randn(33, generator=generator).bfloat16(), "n": torch.tensor(seed)}


def buckets(tensors: Tensors) -> list[Tensors]:
    return [{name: tensors[name] for name in names} for names in LAYOUT.buckets(100)]


class DamagingPublisher(CollectivePublisher):
    """Its network flips a byte of the second bucket, after the checksum."""

    flip = False

    def _broadcast(self, header: list[int], data: np.ndarray) -> None:
        data[0] ^= self.flip and header[2] == SECOND_BUCKET
        super()._broadcast(header, data)


class Link:
    """A publisher with two receivers, and what moves bytes between them: nothing, the driver, or threads."""

    def __init__(self, backend: str, epoch: int = 5) -> None:
        self.backend = backend
        self.name = f"headrace-test-{uuid.uuid4().hex}-policy"
        self.publisher = self.successor(epoch)
        factories = [pickle.loads(pickle.dumps(self.publisher.receiver(rank))) for rank in (1, 2)]
        self.receivers: list[Receiver] = [make() for make in factories]

    def successor(self, epoch: int, port: int = 0):
        section = PublishConfig(backend=self.backend, deadline_s=5.0, slow_after_s=5.0)
        world = World(receivers=2, port=port)
        if self.backend == "collective":
            return DamagingPublisher(world, LAYOUT, epoch, deadline_s=5.0, slow_after_s=5.0)
        return build(section, name=self.name, layout=LAYOUT, epoch=epoch, world=world)

    def publish(self, version: int, tensors: Tensors, *, flip: bool = False) -> list[PublishStats]:
        """Publish and, with `flip`, damage one byte on the way; collective sending goes on in a thread."""
        publisher = self.publisher
        if isinstance(publisher, DamagingPublisher):
            publisher.flip = flip
            self.sender = threading.Thread(target=publisher.publish, args=(version, buckets(tensors)))
            self.sender.start()
            while any(receiver.poll() != version for receiver in self.receivers):
                time.sleep(0.001)
            return []
        stats = publisher.publish(version, buckets(tensors))
        place = SECOND_BUCKET + 1
        if isinstance(stats, Packet):
            stats.buffer[place] ^= flip
            stats.buffer.flags.writeable = False  # as it is when it comes out of a store
            for receiver in self.receivers:
                assert isinstance(receiver, ObjectStoreReceiver)
                receiver.offer(stats)
        elif flip:
            path = next(SHARED_FOLDER.glob(f"{self.name}.*"))
            file = np.memmap(path, np.uint8)
            file[4096 + place] ^= 1
            file[4096 + 4096 * -(-LAYOUT.size // 4096) + place] ^= 1
        return [stats]

    def take(self) -> list[tuple[int, Tensors] | BaseException]:
        """Let both receivers take, at the same time as a broadcast needs it."""
        results: dict[int, tuple[int, Tensors] | BaseException] = {}

        def work(index: int) -> None:
            try:
                results[index] = self.receivers[index].take()
            except (Corruption, DeadlineExceeded) as error:
                results[index] = error

        threads = [threading.Thread(target=work, args=(index,)) for index in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if isinstance(self.publisher, CollectivePublisher):
            self.sender.join()
        return [results[0], results[1]]

    def close(self) -> None:
        for receiver in self.receivers:
            receiver.close()
        self.publisher.close()


@pytest.fixture(params=sorted(PUBLISHERS))
def link(request: pytest.FixtureRequest) -> Iterator[Link]:
    link = Link(request.param)
    yield link
    link.close()


def same(received: Tensors, sent: Tensors) -> bool:
    return all(torch.equal(received[name], sent[name]) for name in sent) and received.keys() == sent.keys()


def test_receivers_get_the_exact_bytes_of_each_version(link: Link) -> None:
    for version in (0, 1, 4):
        link.publish(version, weights(version))
        for result in link.take():
            assert not isinstance(result, BaseException)
            assert result[0] == version
            assert same(result[1], weights(version))


def test_poll_reports_a_version_until_it_is_taken(link: Link) -> None:
    assert [r.poll() for r in link.receivers] == [None, None]
    link.publish(3, weights(3))
    assert [r.poll() for r in link.receivers] == [3, 3]
    link.take()
    assert [r.poll() for r in link.receivers] == [None, None]


def test_versions_only_increase(link: Link) -> None:
    link.publish(3, weights(3))
    link.take()
    with pytest.raises(ValueError, match="version 2 is not above version 3"):
        link.publisher.publish(2, [weights(2)])


def test_one_flipped_byte_is_never_handed_out(link: Link) -> None:
    link.publish(1, weights(1), flip=True)
    for result in link.take():
        assert isinstance(result, Corruption | DeadlineExceeded)
        assert "version 1 " in str(result)
        assert "checksum" in str(result)


def test_a_bucket_that_is_missing_surplus_or_misshapen_is_refused(link: Link) -> None:
    whole, publisher = weights(1), link.publisher
    if isinstance(publisher, CollectivePublisher):  # one that nobody receives from
        publisher = CollectivePublisher(World(receivers=1), LAYOUT, 5, slow_after_s=0.01)
    for wrong in ({"b": whole["b"]}, {**whole, "x": whole["n"]}, {**whole, "w": whole["w"].T}):
        with pytest.raises(ValueError, match=r"[lL]ayout"):
            publisher.publish(1, [wrong])


def test_the_version_after_a_damaged_one_arrives(link: Link) -> None:
    link.publish(1, weights(1), flip=True)
    link.take()
    link.publish(2, weights(2))
    for result in link.take():
        assert not isinstance(result, BaseException)
        assert same(result[1], weights(2))


def test_an_older_epoch_is_refused_and_told(link: Link) -> None:
    link.publish(1, weights(1))
    link.take()
    if isinstance(link.publisher, SharedMemoryPublisher):
        with pytest.raises(StaleEpoch, match="epoch 4 is older"):
            link.successor(4)
    elif isinstance(link.publisher, CollectivePublisher):
        older = link.successor(4)
        for rank in (1, 2):
            port = older.receiver(rank).args[1]
            with pytest.raises(StaleEpoch, match="is of epoch 4, this receiver of 5"):
                CollectiveReceiver("127.0.0.1", port, rank, LAYOUT, min_epoch=5, deadline_s=0.5)
        with pytest.raises(StaleEpoch, match="refuse epoch 4"):
            older.publish(9, [weights(9)])
        older.close()
    else:
        receiver = link.receivers[0]
        assert isinstance(receiver, ObjectStoreReceiver)
        with pytest.raises(StaleEpoch, match="version 9 are of epoch 4"):
            receiver.offer(link.successor(4).publish(9, [weights(9)]))
        assert receiver.poll() is None


def test_weights_of_another_layout_are_refused(link: Link) -> None:
    other = Layout.of({"w": torch.zeros(7, 300), "b": torch.zeros(33, dtype=torch.bfloat16), "n": torch.tensor(0)})
    make = link.publisher.receiver(1)
    arguments = [other if argument is LAYOUT else argument for argument in make.args]
    if not isinstance(link.publisher, CollectivePublisher):
        link.publish(1, weights(1))
    with pytest.raises((ConfigError, Corruption), match=r"layout|other weights"):
        receiver = make.func(*arguments, **make.keywords)
        if isinstance(receiver, ObjectStoreReceiver):
            receiver.offer(link.publisher.publish(2, [weights(2)]))
        receiver.take()


@pytest.mark.parametrize("backend", ["shared_memory", "object_store"])
def test_stats_say_what_was_published(backend: str) -> None:
    link = Link(backend)
    (stats,) = link.publish(6, weights(6))
    link.close()
    assert (stats.version, stats.bytes) == (6, LAYOUT.size)
    assert stats.transfer_s > 0
    assert stats.checksum_s > 0


def test_collective_publishing_without_a_world_names_the_key() -> None:
    with pytest.raises(ConfigError, match=r"publish\.backend is 'collective', which needs a world"):
        build(PublishConfig(backend="collective"), name="x", layout=LAYOUT, epoch=1)
