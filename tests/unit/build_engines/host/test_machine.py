from __future__ import annotations

import pytest

from build_engines.host.machine import Gpu, Machine, parse_gpus, this_machine

LISTING = """NVIDIA H100 80GB HBM3, 81559, 9.0, 580.65.06
NVIDIA L4, 23034, 8.9, 580.65.06
"""
GPU = Gpu("NVIDIA L4", 23034 << 20, (8, 9), "580.65.06")


def test_gpus_are_read_from_the_drivers_listing() -> None:
    first, second = parse_gpus(LISTING)
    assert (first.name, first.compute_capability) == ("NVIDIA H100 80GB HBM3", (9, 0))
    assert second == GPU


@pytest.mark.parametrize(
    "text", ["", "No devices were found\n", "NVIDIA-SMI has failed, because, it, could\n"]
)
def test_a_driver_without_gpus_lists_none(text: str) -> None:
    assert parse_gpus(text) == ()


@pytest.mark.parametrize(
    ("gpus", "installed", "target"),
    [
        ((), "", "cpu"),
        ((), "1.2.1", "cpu"),
        ((GPU,), "", "cpu"),
        ((GPU,), "1.2.1", "trtllm"),
        ((GPU,), "1.3.0rc20", "trtllm"),
        ((GPU,), "1.3.0rc21", "llmapi"),
        ((GPU,), "1.3.0", "llmapi"),
        ((GPU,), "1.4.0rc1+cu13", "llmapi"),
    ],
)
def test_the_target_is_what_the_machine_has(
    gpus: tuple[Gpu, ...], installed: str, target: str
) -> None:
    assert Machine(gpus, 1, 1, installed).default_target == target


def test_this_machine_has_memory() -> None:
    machine = this_machine()
    assert 0 < machine.available_bytes <= machine.memory_bytes
