#!/bin/sh
# The tests talk to a real Prometheus and Alertmanager: install them where they are missing.
set -eu

missing=""
for program in prometheus promtool prometheus-alertmanager cc; do
    command -v "$program" >/dev/null 2>&1 || missing="$missing $program"
done
[ -z "$missing" ] && exit 0

if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    export DEBIAN_FRONTEND=noninteractive
    # Nothing may be started on this machine because of tests.
    apt-get update -qq
    RUNLEVEL=1 apt-get install -qq -y --no-install-recommends \
        prometheus prometheus-alertmanager gcc libc6-dev >/dev/null
    exit 0
fi
echo "the tests need$missing: install Prometheus, Alertmanager and a C compiler, and put them on PATH" >&2
exit 1
