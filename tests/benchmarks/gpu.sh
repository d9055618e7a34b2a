#!/usr/bin/env bash
# Everything that only a GPU can settle, in one go of at most 8 minutes, from a bare checkout.
#
#     bash tests/benchmarks/gpu.sh [OUT_FOLDER]              # on the card
#     DEVICE=cpu bash tests/benchmarks/gpu.sh [OUT_FOLDER]   # the rehearsal: every line, small sizes
#
# It needs torch and numpy; without pytest the tests are left out, and said to be. OUT_FOLDER gets gpu.json, rewritten
# after each part, so that a run that is cut off has told what it knew.
set -uo pipefail
cd "$(dirname "$0")/../.."
export RQVAE_TEST_DEVICE="${DEVICE:-cuda}" OMP_WAIT_POLICY=PASSIVE
python="${PYTHON:-python3}"
out="${1:-gpu-results}"
mkdir -p "$out"

if [ "$RQVAE_TEST_DEVICE" = cuda ]; then nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader; fi
if "$python" -c "import pytest, tqdm" 2>/dev/null; then
    timeout 60 "$python" -m pytest -q tests/test_device.py tests/test_functional.py tests/items/test_batches.py | tee "$out/tests.txt"
    suite=(tests/test_quantize.py tests/test_model.py tests/test_training.py tests/cli/test_train.py)
    timeout 120 "$python" -m pytest -q -x "${suite[@]}" | tee -a "$out/tests.txt"
else
    echo "pytest or tqdm is missing: the tests are left out"
fi
timeout 280 "$python" tests/benchmarks/gpu.py --device "$RQVAE_TEST_DEVICE" --out "$out/gpu.json"
