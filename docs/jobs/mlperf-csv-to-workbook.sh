#!/bin/sh
# Take a trace of the MLPerf Storage KV-cache benchmark to a device, and its figures to a workbook.
#
#   mlperf-csv-to-workbook.sh TRACE.csv NVME_CAPACITY MODEL TARGET FOLDER
#
# NVME_CAPACITY is what the benchmark's tier nvme held (50GiB): its file has no deletes. TARGET is a
# new file, or a device that you name by KVTRACE_TARGET="--device /dev/… --allow-destroy SERIAL". MODE is
# closed, open or max; REPLAY has further options of `kvtrace replay`.
set -eu
[ $# -eq 5 ] || { sed -n '2,4p' "$0" | cut -c3- >&2; exit 2; }
csv=$1 capacity=$2 model=$3 target=$4 folder=$5

mkdir -p "$folder"
kvtrace import "$csv" "$folder/trace.parquet" --nvme-capacity "$capacity" --model "$model"
kvtrace check "$folder/trace.parquet"
# shellcheck disable=SC2086  # several words
kvtrace replay "$folder/trace.parquet" ${KVTRACE_TARGET:---device "$target"} --mode "${MODE:-closed}" ${REPLAY:-} \
    --report "$folder/result.json" --report "$folder/result.xlsx" \
    --report "$folder/result.mlperf.json" || [ $? -eq 5 ]
