#!/bin/sh
# Starts the image's tritonserver without an orchestrator, for one that runs elsewhere
# (`ORCHESTRATOR_TRITON__MODE=remote`): triton.sh MODEL…, with Triton's names of models.
#
# WORLD_SIZE=N (tensor times pipeline parallelism of the engine) starts TensorRT-LLM's leader mode:
# one process for each GPU, of which the first answers. Without it there is one process; with
# TRTLLM_ORCHESTRATOR=1 that one starts its own helpers (orchestrator mode).
set -eu

repository="${MODEL_REPOSITORY:-/models}"
world_size="${WORLD_SIZE:-1}"

if [ "$#" -eq 0 ]; then
    echo "triton.sh: name the models to load, as Triton names them" >&2
    exit 2
fi
case "$world_size" in
'' | *[!0-9]* | 0)
    echo "triton.sh: WORLD_SIZE is \`$world_size\`, not a whole number of 1 or more" >&2
    exit 2
    ;;
esac

loads=""
for model in "$@"; do
    case "$model" in
    *[!A-Za-z0-9._-]*)
        echo "triton.sh: \`$model\` is no name of a model" >&2
        exit 2
        ;;
    esac
    loads="$loads --load-model=$model"
done

# Spans go where the orchestrator's go, of those requests only that are part of a trace of its.
traces=""
if [ -n "${OTEL_EXPORTER_OTLP_ENDPOINT:-}" ]; then
    for word in mode=opentelemetry \
        "opentelemetry,url=${OTEL_EXPORTER_OTLP_ENDPOINT%/}/v1/traces" \
        opentelemetry,resource=service.name=triton level=TIMESTAMPS rate=0 count=-1; do
        traces="$traces --trace-config=$word"
    done
fi

# The line of one rank; ranks of one machine must not share the memory of their Python backends.
rank() {
    echo "tritonserver --model-repository=$repository --model-control-mode=explicit$loads" \
        "--disable-auto-complete-config --exit-on-error=false --allow-http=false" \
        "--grpc-port=${GRPC_PORT:-8001} --metrics-port=${METRICS_PORT:-8002}" \
        "--backend-config=python,shm-region-prefix-name=rank$1_$traces"
}

# Names were checked above, so that splitting these lines into words is what is meant.
if [ "$world_size" -eq 1 ]; then
    # shellcheck disable=SC2046
    exec $(rank 0)
fi

line="mpirun"
number=0
while [ "$number" -lt "$world_size" ]; do
    [ "$number" -eq 0 ] || line="$line :"
    line="$line -n 1 $(rank "$number")"
    number=$((number + 1))
done
# shellcheck disable=SC2086
exec $line
