#!/bin/sh
# From a log of requests to a table of tier sizes, and a replay of the chosen one in a directory.
#
#   requests-to-sizing.sh REQUESTS.jsonl MODEL DIRECTORY FOLDER
#
# The log's format is recognised (see `kvtrace list sources`). Settings, as environment variables:
#   CPU_SIZES, NVME_SIZES  what is tried (16GiB,64GiB,256GiB and 256GiB,1TiB,4TiB)
#   GPU                    KV budget of the GPU (16GiB)
#   CPU, NVME              what is replayed (64GiB and 1TiB)
#   FIT                    what DIRECTORY has room for (4GiB)
#   MODE, RUN_TIME         how and how long it is replayed (max, 60s)
#   REPLAY                 further options of `kvtrace replay`
set -eu
[ $# -eq 4 ] || { sed -n '2,4p' "$0" | cut -c3- >&2; exit 2; }
requests=$1 model=$2 directory=$3 folder=$4

mkdir -p "$folder"
kvtrace whatif --input "$requests" --model "$model" --gpu-mem "${GPU:-16GiB}" \
    --cpu-mem "${CPU_SIZES:-16GiB,64GiB,256GiB}" --nvme-capacity "${NVME_SIZES:-256GiB,1TiB,4TiB}" \
    --csv "$folder/sizing.csv" --report "$folder/sizing.html"

kvtrace record "$folder/trace.parquet" --input "$requests" --model "$model" --gpu-mem "${GPU:-16GiB}" \
    --cpu-mem "${CPU:-64GiB}" --nvme-capacity "${NVME:-1TiB}" --fit "${FIT:-4GiB}"
# shellcheck disable=SC2086  # several words
kvtrace replay "$folder/trace.parquet" --dir "$directory" --mode "${MODE:-max}" \
    --run-time "${RUN_TIME:-60s}" --loop --min-window "${RUN_TIME:-60s}" ${REPLAY:-} \
    --report "$folder/result.html" --report "$folder/result.json" || [ $? -eq 5 ]
