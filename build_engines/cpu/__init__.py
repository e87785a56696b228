"""The CPU engine: OpenVINO with paged attention behind our own in-flight batching."""

import sys

# `import openvino` reports its use to an analytics service, from a forked process, wherever the
# package `openvino_telemetry` can be imported. An appliance tells nobody what it runs. OpenVINO
# has a stand-in for machines where that package is missing; this makes every machine such a one.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # how Python spells "missing"
