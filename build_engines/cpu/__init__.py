"""The CPU engine: OpenVINO with paged attention behind our own in-flight batching."""

import sys

# `import openvino` reports its use to an analytics service, from a forked process, if the package
# `openvino_telemetry` can be imported. An appliance must not report what it runs. OpenVINO has a
# stub for machines without that package; this line makes Python treat it as missing everywhere.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # how Python spells "missing"
