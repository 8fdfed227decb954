#!/bin/bash
# The benchmarks of a GPU, each in a process of its own that may take ten minutes: what fails or lasts too long ends alone.
#     bash tests/benchmarks/all.sh                          everything
#     bash tests/benchmarks/all.sh vit_base mocov3 mae      training of one model, with these objectives or with all
#     bash tests/benchmarks/all.sh other                    views, analysis and reading
# Results go to tests/benchmarks/results, or where RESULTS says. What is there already is not measured again: delete it first.
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONPATH="$here/../..${PYTHONPATH:+:$PYTHONPATH}"
export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}
results=${RESULTS:-$here/results}

failed=0
measure() {     # measure PROGRAM NAME ARGUMENTS: python PROGRAM.py ARGUMENTS into results/NAME.json
    local program=$1 out=$results/$2.json
    shift 2
    if [ -e "$out" ]; then echo "$out is there"; return; fi
    echo "== $program $*"
    if ! timeout 600 "${PYTHON:-python}" "$here/$program.py" "$@" --out "$out"; then
        echo "== $program $* failed" >&2
        failed=1
    fi
}

models=$1
objectives=${*:2}
if [ -z "$models" ]; then models="vit_base vit_small vit_tiny other"; fi
if [ -z "$objectives" ]; then objectives="mocov3 simmim mae dino supervised hybrid"; fi
for model in $models; do
    if [ "$model" = other ]; then
        measure views views-gpu --device cuda
        measure analysis analysis-gpu --device cuda --images 256 --rounds 2
        measure reading reading
        continue
    fi
    for objective in $objectives; do
        measure training "training-$model-$objective-gpu" --model "$model" --objectives "$objective" --device cuda
    done
done
exit $failed
