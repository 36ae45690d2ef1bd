"""The flat buffer that every back end moves."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from configs.errors import DataError
from learners.models.weights import Layout, checksum

MIXED = {
    "bf16": torch.linspace(-3, 3, 35, dtype=torch.bfloat16).reshape(5, 7),
    "scalar": torch.tensor(7),
    "mask": torch.tensor([True, False, True]),
    "empty": torch.empty(0, 4),
    "half": torch.randn(9).half(),
    "double": torch.randn(2, 3, 4, dtype=torch.float64),
}


def test_views_of_a_packed_buffer_equal_the_tensors_bit_for_bit() -> None:
    layout = Layout.of(MIXED)
    buffer = layout.allocate()
    layout.pack(MIXED, buffer)
    views = layout.views(buffer)
    assert list(views) == list(MIXED)
    for name, tensor in MIXED.items():
        assert views[name].dtype == tensor.dtype
        assert torch.equal(views[name], tensor), name


def test_views_share_memory_with_the_buffer() -> None:
    layout = Layout.of(MIXED)
    buffer = layout.allocate()
    layout.views(buffer)["scalar"].fill_(-1)
    offset = next(s.offset for s in layout.specs if s.name == "scalar")
    assert (buffer[offset : offset + 8] == 255).all()


def test_tensors_are_aligned_and_do_not_overlap() -> None:
    layout = Layout.of(MIXED)
    ends = [s.offset + s.bytes for s in layout.specs]
    assert all(s.offset % 64 == 0 for s in layout.specs)
    assert all(end <= s.offset for end, s in zip(ends, layout.specs[1:], strict=False))
    assert layout.size >= ends[-1]


def test_gradients_and_strides_of_the_source_do_not_matter() -> None:
    source = {"w": torch.nn.Parameter(torch.randn(4, 6)).t()}
    layout = Layout.of(source)
    buffer = layout.allocate()
    layout.pack(source, buffer)
    assert torch.equal(layout.views(buffer)["w"], source["w"].detach())


def test_equal_weights_have_equal_checksums_and_one_flipped_bit_has_another() -> None:
    layout = Layout.of(MIXED)
    first, second = layout.allocate(), layout.allocate()
    layout.pack(MIXED, first)
    layout.pack(MIXED, second)
    assert checksum(first.data) == checksum(second.data)
    second[3] ^= 1
    assert checksum(first.data) != checksum(second.data)


def test_a_layout_survives_json_with_its_fingerprint() -> None:
    layout = Layout.of(MIXED)
    again = Layout.from_json(layout.to_json())
    assert again == layout
    assert again.fingerprint == layout.fingerprint


def test_the_fingerprint_tells_apart_names_shapes_dtypes_and_order() -> None:
    a, b = torch.zeros(4, 2), torch.zeros(8)
    variants = [
        {"a": a, "b": b},
        {"b": b, "a": a},
        {"a": a.t(), "b": b},
        {"a": a, "c": b},
        {"a": a, "b": b.int()},
    ]
    assert len({Layout.of(v).fingerprint for v in variants}) == len(variants)


def test_a_layout_of_another_format_is_refused() -> None:
    text = json.dumps({**json.loads(Layout.of(MIXED).to_json()), "format": 99})
    with pytest.raises(DataError, match="format 99"):
        Layout.from_json(text)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"w": torch.zeros(3)}, r"\['v'\] are missing"),
        ({"w": torch.zeros(3), "v": torch.zeros(1), "u": torch.zeros(1)}, r"\['u'\] are missing or not in the layout"),
        ({"w": torch.zeros(4), "v": torch.zeros(1)}, r"'w' is \[4\].*says \[3\]"),
        ({"w": torch.zeros(3).double(), "v": torch.zeros(1)}, "float64"),
    ],
)
def test_tensors_that_do_not_fit_the_layout_are_named(tensors: dict[str, torch.Tensor], message: str) -> None:
    layout = Layout.of({"w": torch.zeros(3), "v": torch.zeros(1)})
    with pytest.raises(ValueError, match=message):
        layout.pack(tensors, layout.allocate())


def test_a_spec_cannot_be_changed_after_it_was_hashed() -> None:
    spec = Layout.of(MIXED).specs[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.offset = 8  # type: ignore[misc]


def test_bytes_of_a_spec_count_elements_times_width() -> None:
    layout = Layout.of(MIXED)
    assert [s.bytes for s in layout.specs] == [t.numel() * t.element_size() for t in MIXED.values()]
    assert layout.allocate().dtype == np.uint8
