#!/bin/sh
# Compare two drives under the same KV-cache workload: a page that says which is faster.
#
#   compare-two-drives.sh DEVICE_A DEVICE_B FOLDER
#
# EVERYTHING ON BOTH DEVICES IS LOST. Needs root. Settings, as environment variables:
#   PRESET    what to record (agentic-coding); see `kvtrace list presets`
#   RECORD    further options of `kvtrace record`, such as --model qwen3-32b
#   FIT       size that the workload is made for (16GiB); no more than the smaller device
#   TRIALS    runs per drive (5)
#   RUN_TIME  how long each measures (60s)
#   MODE      max, open or closed (max)
#   REPLAY    further options of `kvtrace replay`, such as --queue-depth 8
set -eu
[ $# -eq 3 ] || { sed -n '2,5p' "$0" | cut -c3- >&2; exit 2; }
device_a=$1 device_b=$2 folder=$3

# What --allow-destroy wants to be told: serial, WWN or name of a device.
identity() {
    kvtrace discover --json |
        python3 -c '
import json, os, sys
disks = json.load(sys.stdin)["disks"]
print(next(d["allow_destroy"] for d in disks if d["path"] == os.path.realpath(sys.argv[1])))' "$1"
}

mkdir -p "$folder"
# shellcheck disable=SC2086  # several words
kvtrace record "$folder/workload.parquet" --preset "${PRESET:-agentic-coding}" \
    --fit "${FIT:-16GiB}" ${RECORD:-}

bench() {
    # 5: some trial is INVALID. The page says why, and the comparison is still worth reading.
    # shellcheck disable=SC2086  # several words
    kvtrace bench --trace "$folder/workload.parquet" --folder "$folder/$1" \
        --device "$2" --allow-destroy "$(identity "$2")" --trials "${TRIALS:-5}" \
        --mode "${MODE:-max}" --run-time "${RUN_TIME:-60s}" --loop \
        --min-window "${RUN_TIME:-60s}" ${REPLAY:-} || [ $? -eq 5 ]
}
bench drive-a "$device_a"
bench drive-b "$device_b"

kvtrace compare "$folder/drive-a" "$folder/drive-b" --label "drive A" --label "drive B" \
    --report "$folder/comparison.html" --report "$folder/comparison.xlsx"
