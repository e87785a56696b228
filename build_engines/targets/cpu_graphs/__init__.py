"""OpenVINO graphs of the CPU target."""
