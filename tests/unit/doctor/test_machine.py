"""What the doctor makes of the machine."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from orchestrator.doctor import machine, ports
from orchestrator.settings import ServerSettings, Settings, TritonSettings

H100 = "NVIDIA H100 80GB HBM3, 81559 MiB, 580.65.06, 9.0\n"


def settings(folder: Path, *, port: int = 0) -> Settings:
    return Settings(
        data_dir=folder / "data",
        server=ServerSettings(port=port),
        triton=TritonSettings(repository=folder / "models"),
    )


def test_this_interpreter_is_well() -> None:
    assert machine.python().level == "ok"


def test_the_clock_tells_the_time_whatever_it_is_set_by() -> None:
    finding = machine.clock()
    assert "UTC" in finding.text
    assert (finding.level == "warning") == bool(finding.advice)


def test_a_gpu_is_told_with_its_driver() -> None:
    (finding,) = machine.read_gpus(H100)
    assert finding.level == "ok"
    assert finding.text == (
        "NVIDIA H100 80GB HBM3, 81559 MiB, compute capability 9.0, driver 580.65.06"
    )


def test_each_gpu_has_its_line() -> None:
    assert [one.subject for one in machine.read_gpus(H100 + H100)] == ["gpu 0", "gpu 1"]


def test_an_old_driver_is_a_warning() -> None:
    (finding,) = machine.read_gpus("Tesla T4, 15360 MiB, 535.104.05, 7.5\n")
    assert finding.level == "warning"
    assert "580" in finding.advice


@pytest.mark.parametrize(
    ("script", "level", "capabilities"),
    [
        (f"echo '{H100.strip()}'", "ok", {"9.0"}),
        ("echo 'no devices were found'; exit 6", "failed", set()),
    ],
)
def test_nvidia_smi_is_asked_where_it_is(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: str,
    level: str,
    capabilities: set[str],
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert [one.level for one in machine.gpu()] == [level]
    assert machine.compute_capabilities() == capabilities


def test_a_machine_without_nvidia_smi_has_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (finding,) = machine.gpu()
    assert (finding.level, finding.text) == ("ok", "none: engines run on the CPU")
    assert machine.compute_capabilities() == set()


def test_disk_is_told_of_folders_that_are_not_there_yet(tmp_path: Path) -> None:
    found = machine.disk(settings(tmp_path))
    assert [one.subject for one in found] == ["disk, data", "disk, models"]
    assert all("MiB free for" in one.text for one in found)


def test_memory_counts_the_newest_version_of_each_model(tmp_path: Path) -> None:
    for version, size in (("1", 900), ("2", 3)):
        folder = tmp_path / "models" / "chat" / version
        folder.mkdir(parents=True)
        (folder / "manifest.json").touch()
        with (folder / "weights").open("wb") as stream:
            stream.truncate(size * 1024 * 1024)
    assert "need about 515 MiB" in machine.memory(settings(tmp_path))[0].text


def test_a_free_port_is_well(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (finding,) = ports.ports(settings(tmp_path, port=port))
    assert (finding.level, finding.text) == (
        "ok",
        f"{port} is free; the appliance is not running",
    )


def test_a_port_of_somebody_else_is_named_with_the_setting(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        port = other.getsockname()[1]
        # It takes connections and says nothing, so asking it has to end by itself.
        (finding,) = ports.ports(settings(tmp_path, port=port))
    assert finding.level == "failed"
    assert finding.text == f"{port} of 127.0.0.1 is taken by another program"
    assert "ORCHESTRATOR_SERVER__PORT" in finding.advice
