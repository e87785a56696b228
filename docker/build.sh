#!/bin/sh
# Builds engines inside the `gpu` image, into the repository that is mounted where it will be served:
# build.sh [MODEL…] [--dry-run …], with the options of `python -m build_engines`.
#
# The image's own Python has TensorRT-LLM. What it lacks of the builder's packages is found in the
# appliance's environment, which is looked at last, so that nothing of NVIDIA's is replaced.
set -eu

repository="${MODEL_REPOSITORY:-/models}"
export APPLIANCE_PACKAGES="${APPLIANCE_PACKAGES:-/opt/venv/lib/python3*/site-packages}"

exec "${PYTHON:-/usr/bin/python3}" -c '
import glob, os, runpy, sys
sys.path += glob.glob(os.environ["APPLIANCE_PACKAGES"])
runpy.run_module("build_engines", run_name="__main__", alter_sys=True)
' --repository "$repository" --catalogue "$repository/catalogue.toml" "$@"
