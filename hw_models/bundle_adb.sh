#!/bin/sh
# Times the models of this folder on an Android phone: sh run_adb.sh /path/to/onnxruntime_perf_test [THREADS] [ROUNDS]
# onnxruntime_perf_test comes with a build of ONNX Runtime for Android (build.sh --android --android_abi arm64-v8a).
# Stopped, it goes on where it was. Charge the phone, close what runs on it, and let it cool between runs.
set -e
test -f "$1" || { echo "usage: sh run_adb.sh /path/to/onnxruntime_perf_test [THREADS] [ROUNDS]" >&2; exit 2; }
tool=$1 threads=${2:-1} rounds=${3:-5}
here=$(cd "$(dirname "$0")" && pwd)
there=/data/local/tmp/nas_bundle
name=$(adb shell getprop ro.product.model </dev/null | tr -d '\r"\\')
system=$(adb shell getprop ro.build.fingerprint </dev/null | tr -d '\r"\\')
about="{\"device\": \"$name\", \"runtime\": \"onnxruntime_perf_test cpu\", \"threads\": $threads, \"system\": \"$system\"}"
results=$here/results.csv
if test -s "$results" && test "$(cat "$here/device.json")" != "$about"; then
    echo "$results was measured under other conditions; move it away first" >&2
    exit 2
fi
echo "$about" >"$here/device.json"
test -s "$results" || echo "model,round,latency_ms" >"$results"
adb shell "mkdir -p $there" </dev/null
adb push "$here/models" "$tool" "$there/" >&2
adb shell "chmod +x $there/$(basename "$tool")" </dev/null
round=0
while test "$round" -lt "$rounds"; do
    for model in "$here"/models/*.onnx; do
        id=$(basename "$model" .onnx)
        grep -q "^$id,$round," "$results" && continue
        # the median of 50 runs; the tool prints it in seconds
        said=$(adb shell "cd $there && ./$(basename "$tool") -I -m times -r 50 -x $threads -e cpu models/$id.onnx" </dev/null)
        ms=$(echo "$said" | tr -d '\r' | awk '/^P50 Latency:/ { printf "%.6g", 1000 * $3 }')
        test -n "$ms" || { echo "no time for model $id; the tool said: $said" >&2; exit 1; }
        echo "$id,$round,$ms" >>"$results"
    done
    round=$((round + 1))
    echo "round $round of $rounds" >&2
done
adb shell "rm -r $there" </dev/null
echo "written to $results; run: nas fit --results $here"
