from __future__ import annotations

from pathlib import Path

from build_engines.golden.replay import _least_margin
from build_engines.targets.trial import TRITON, server_arguments

REPOSITORY, BACKENDS, SOCKET = Path("/r"), Path("/b"), Path("/s/grpc")


def test_one_gpu_is_one_server_that_listens_on_a_socket_alone() -> None:
    arguments = server_arguments(TRITON, "model", REPOSITORY, BACKENDS, SOCKET, world_size=1)
    assert arguments[0] == "/opt/tritonserver/bin/tritonserver"
    assert {"--load-model=model", "--allow-http=false", "--grpc-address=unix:/s/grpc"} <= {
        *arguments
    }


def test_several_gpus_are_one_rank_each_and_the_first_answers() -> None:
    arguments = server_arguments(TRITON, "model", REPOSITORY, BACKENDS, SOCKET, world_size=3)
    text = " ".join(arguments)
    assert text.startswith("mpirun --allow-run-as-root -n 1 /opt/tritonserver/bin/tritonserver")
    ranks = text.split(" : ")
    assert len(ranks) == 3
    assert ["--grpc-address" in rank for rank in ranks] == [True, False, False]
    assert [f"rank{number}_" in rank for number, rank in enumerate(ranks)] == [True] * 3


def test_a_margin_is_at_least_what_the_best_token_leaves_over() -> None:
    # 0.9 against 0.1 at most; 0.4 may be any of several; 1 leaves nothing.
    assert round(_least_margin(-0.10536), 3) == round(2.1972, 3)
    assert _least_margin(-0.9163) == 0.0
    assert _least_margin(0.0) == 99.0
