"""A Triton backend that does what the prompt says: a real stub process with faults on order.

The prompt's token ids are bytes. If they spell a JSON object it is the script (see `Script`);
anything else is sent back as it came. What happens is appended to the file that the parameter
`log_file` names, one JSON object a line, `at` in nanoseconds of the monotonic clock.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import triton_python_backend_utils as pb

ENGINE_ERROR = """[TensorRT-LLM][ERROR] Assertion failed: scripted fault (/src/secret/engine.cpp:42)
Traceback (most recent call last):
  File "/opt/engine/worker.py", line 7, in step
    raise RuntimeError("scripted fault")
RuntimeError: scripted fault"""


@dataclass(frozen=True)
class Script:
    """What one request does. `…_at` counts the tokens that were sent before."""

    emit: str = ""
    repeat: int = 1
    emit_hex: str = ""
    """Bytes that need not be whole characters; takes the place of `emit`."""
    delay_ms: float = 0
    """Before each token."""
    first_delay_ms: float = 0
    tokens_per_response: int = 1
    fail_at: int = -1
    """Ends with `error` as an engine would report it, in an error response."""
    error: str = ENGINE_ERROR
    hang_at: int = -1
    """Sends nothing more, whatever it is asked to stop."""
    exit_at: int = -1
    """The stub process ends."""
    kill_at: int = -1
    """The stub process is killed."""
    raise_in_execute: str = ""
    """`execute` raises this text, so that Triton reports a Python traceback."""
    freeze: bool = False
    """`execute` never returns, so that the model answers nobody any more."""
    ignore_stop: bool = False
    no_final: bool = False
    """All tokens are sent, the final response never."""

    @property
    def tokens(self) -> bytes:
        """The token ids to send: one for each byte."""
        text = bytes.fromhex(self.emit_hex) if self.emit_hex else self.emit.encode()
        return text * self.repeat


def read_script(prompt: bytes) -> Script:
    """The script in `prompt`, or one that sends the prompt back."""
    try:
        document = json.loads(prompt)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        return Script(emit_hex=prompt.hex())
    if unknown := set(document) - {field.name for field in fields(Script)}:
        raise ValueError(f"the script has an unknown key: {min(unknown)}")
    return Script(**document)


class TritonPythonModel:
    """Runs each request in a thread of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        parameters = json.loads(args["model_config"]).get("parameters", {})
        path = parameters.get("log_file", {}).get("string_value", "")
        self._log: TextIO | None = None
        if path:
            self._log = Path(path).open("a", buffering=1)  # noqa: SIM115  # closed in finalize
        self._stops: dict[str, threading.Event] = {}
        self._note("initialize", "", pid=os.getpid())

    def finalize(self) -> None:
        self._note("finalize", "")
        if self._log is not None:
            self._log.close()

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            self._take(request)

    def _take(self, request: Any) -> None:
        request_id = request.request_id()
        if _scalar(request, "stop", default=False):
            self._note("stop", request_id, known=request_id in self._stops)
            if (event := self._stops.get(request_id)) is not None:
                event.set()
            request.get_response_sender().send(flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            return
        ids = pb.get_input_tensor_by_name(request, "input_ids").as_numpy().ravel()
        length = int(_scalar(request, "input_lengths"))
        script = read_script(ids[:length].astype(np.uint8).tobytes())
        salt = int(_scalar(request, "cache_salt_id", default=0))
        self._note("start", request_id, prompt_tokens=length, salt=salt)
        if script.raise_in_execute:
            raise RuntimeError(script.raise_in_execute)
        if script.freeze:
            threading.Event().wait()
        stop = self._stops[request_id] = threading.Event()
        play = _Play(
            script,
            limit=int(_scalar(request, "request_output_len")),
            streaming=bool(_scalar(request, "streaming", default=False)),
            sender=request.get_response_sender(),
            stop=stop,
            note=lambda event, **more: self._note(event, request_id, **more),
            on_end=lambda: self._stops.pop(request_id, None),
        )
        threading.Thread(target=play.run, daemon=True).start()

    def _note(self, event: str, request_id: str, **more: object) -> None:
        if self._log is not None:
            line = {"event": event, "id": request_id, "at": time.monotonic_ns(), **more}
            self._log.write(json.dumps(line) + "\n")


class _Play:
    """One request from its first token to its end."""

    def __init__(
        self,
        script: Script,
        *,
        limit: int,
        streaming: bool,
        sender: Any,
        stop: threading.Event,
        note: Callable[..., None],
        on_end: Callable[[], object],
    ) -> None:
        self._script = script
        self._tokens = script.tokens[:limit]
        self._full = len(script.tokens) >= limit
        self._kept: bytes | None = None if streaming else b""
        self._sender = sender
        self._stop = stop
        self._note = note
        self._on_end = on_end

    def run(self) -> None:
        script, sent = self._script, 0
        time.sleep(script.first_delay_ms / 1000)
        while True:
            if self._has_fault(sent):
                return
            if self._stop.is_set() and not script.ignore_stop:
                self._finish("cancelled")
                return
            if sent >= len(self._tokens):
                break
            self._pause()
            chunk = self._tokens[sent : sent + script.tokens_per_response]
            sent += len(chunk)
            self._note("token", tokens=len(chunk), sent=sent)
            if self._kept is None:
                self._sender.send(_response(chunk))
            else:
                self._kept += chunk
        if script.no_final:
            self._note("no_final")
            return
        self._finish("length" if self._full else "stop")

    def _pause(self) -> None:
        if self._script.delay_ms:
            seconds = self._script.delay_ms / 1000
            if self._script.ignore_stop:
                time.sleep(seconds)
            else:
                self._stop.wait(seconds)

    def _has_fault(self, sent: int) -> bool:
        """Whether the script says that something goes wrong here."""
        script = self._script
        if sent == script.exit_at:
            self._note("exit")
            os._exit(1)
        if sent == script.kill_at:
            self._note("kill")
            os.kill(os.getpid(), signal.SIGKILL)
        if sent == script.hang_at:
            self._note("hang")
            return True
        if sent == script.fail_at:
            self._note("fail")
            self._on_end()
            error = pb.TritonError(script.error)
            self._sender.send(
                pb.InferenceResponse(output_tensors=[], error=error),
                flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL,
            )
            return True
        return False

    def _finish(self, reason: str) -> None:
        self._note("final", reason=reason)
        self._on_end()
        last = _response(self._kept or b"", reason)
        self._sender.send(last, flags=pb.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _response(tokens: bytes, reason: str = "") -> Any:
    ids = np.frombuffer(tokens, dtype=np.uint8).astype(np.int32).reshape(1, 1, -1)
    length = np.array([[len(tokens)]], dtype=np.int32)
    return pb.InferenceResponse(
        output_tensors=[
            pb.Tensor("output_ids", ids),
            pb.Tensor("sequence_length", length),
            pb.Tensor("finish_reason", np.array([[reason.encode()]], dtype=np.object_)),
        ]
    )


def _scalar(request: Any, name: str, default: Any = None) -> Any:
    tensor = pb.get_input_tensor_by_name(request, name)
    return default if tensor is None else tensor.as_numpy().ravel()[0]
