#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# make demo: from a fresh machine to a circuit in a real pretrained model. Installs what is missing,
# builds, fetches SmolLM2-135M-Instruct (without a network: the small model of the tests), starts the
# daemon on free ports, discovers the circuit for indirect object identification with live progress,
# and prints its top edges, a table of its faithfulness by size, and where the metrics are. A second
# run finds everything there. The daemon outlives the demo by ten minutes, so that the dashboard's
# address shows the circuit, or until the next demo, then ends by SIGTERM; with --keep it stays.
set -euo pipefail
cd "$(dirname "$0")/.."

keep=no
[ "${1:-}" = --keep ] && keep=yes
bin=build/release/bin
models=build/models
minutes=10
pid_file=build/demo.pid
run="$(mktemp -d "${TMPDIR:-/tmp}/ablate-demo-XXXXXX")"
daemon=

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] && [ -z "${NO_COLOR:-}" ] || say() { printf '\n%s\n' "$*"; }

# Ends a daemon of a demo, if that number still is one.
end_daemon() {
    [ "$(cat "/proc/$1/comm" 2>/dev/null)" != ablated ] || kill -TERM "$1"
}
export -f end_daemon

# The daemon goes on without us.
stay() {
    if [ "$keep" = yes ]; then
        echo "The daemon keeps running; end it with: kill $daemon"
        return
    fi
    echo "$daemon" >"$pid_file"
    setsid bash -c 'sleep "$1"; end_daemon "$2"; rm -rf "$3"' - "${minutes}m" "$daemon" "$run" \
        >/dev/null 2>&1 </dev/null &
    echo "The daemon stays for $minutes minutes ('make demo KEEP=1': for good); end it with: kill $daemon"
}

# What the demo before this one left.
end_last() {
    [ -e "$pid_file" ] || return 0
    end_daemon "$(cat "$pid_file")"
    rm -f "$pid_file"
}

finish() {
    local code=$?
    if [ -n "$daemon" ] && kill -0 "$daemon" 2>/dev/null; then
        if [ "$code" -eq 0 ]; then
            stay
            return
        fi
        kill -TERM "$daemon"
        wait "$daemon" || echo "the daemon ended with $?; its log is $run/log" >&2
    fi
    if [ "$code" -ne 0 ]; then
        [ -e "$run/log" ] && tail -5 "$run/log" >&2
        echo "demo: failed; the daemon's log, if it started, is $run/log" >&2
    else
        rm -rf "$run"
    fi
}
trap finish EXIT

say "1. What this needs"
deploy/deps.sh demo
make --no-print-directory build PRESET=release | { grep -Ev '^(ninja: no work|\[0/)' || true; }
echo "built: $bin/ablated, $bin/ablate"
if [ -e clients/web/package-lock.json ] && make --no-print-directory dashboard >build/dashboard.log 2>&1; then
    tail -1 build/dashboard.log
elif [ -e clients/web/dist/index.html ]; then
    echo "The dashboard was not built anew (see build/dashboard.log); the one from before is served."
else
    echo "The dashboard could not be built (see build/dashboard.log); a page that says so is served."
fi

say "2. The model"
mkdir -p "$models"
if .venv/bin/python -m ablate.models fetch smollm2-135m --dir "$models" >/dev/null; then
    root="$models" model=smollm2-135m dataset=deploy/ioi.json
    sizes=0,100,500,1000,2000,5000,10000,20000,70651
    echo "SmolLM2-135M-Instruct by Hugging Face TB, Apache-2.0 (its own licence)"
else
    root=tests/golden/data/models model=tiny-ioi dataset=tests/golden/data/prompts/ioi_abba.json
    sizes=0,10,20,50,100,200,500,1000,1519
    echo "SmolLM2-135M could not be fetched (is there a network?)."
    echo "Going on with tiny-ioi, a small model trained on this task, which is in the repository."
fi

say "3. The daemon"
end_last
"$bin/ablated" --listen 127.0.0.1:0 --http 127.0.0.1:0 --ready-file "$run/ready.json" \
    --model-root "$root" --state-dir "$run/state" >"$run/log" 2>&1 &
daemon=$!
for _ in $(seq 300); do
    [ -e "$run/ready.json" ] && break
    kill -0 "$daemon" 2>/dev/null || { echo "the daemon did not start:" >&2; exit 1; }
    sleep 0.1
done
field() {
    .venv/bin/python -c 'import json,sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' \
        "$run/ready.json" "$1"
}
ABLATE_HOST="$(field grpc)"
http="$(field http)"
export ABLATE_HOST
echo "gRPC on $ABLATE_HOST; gRPC-web and metrics on http://$http"

say "4. Which edges carry indirect object identification"
"$bin/ablate" models load "$model"
"$bin/ablate" discover --model "$model" --dataset "$dataset" --algorithm eap --top 15

say "5. How faithful circuits of the best edges are: everything outside of them is replaced by the"
echo "   corrupt prompt's activations, and the output compared with the whole model's"
job="$("$bin/ablate" --json jobs list | .venv/bin/python -c '
import json, sys
jobs = json.load(sys.stdin)["jobs"]
print(jobs[0].get("job_id") or jobs[0]["jobId"])')"
"$bin/ablate" eval "$job" --sizes "$sizes"

say "Done. This circuit in the dashboard: http://$http/#/discover?job=$job"
echo "Metrics: http://$http/metrics"
echo "Go on with: export ABLATE_HOST=$ABLATE_HOST; $bin/ablate --help"
