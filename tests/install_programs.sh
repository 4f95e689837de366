#!/bin/sh
# Makes sure that the tests find the programs that no Python package brings: prometheus, promtool,
# alertmanager, amtool and a C compiler; and ip and chromium, without which the test with two hosts
# and the tests of the live page in a browser are skipped.
set -eu

missing() {
    for program in prometheus promtool prometheus-alertmanager amtool cc; do
        command -v "$program" > /dev/null && continue
        # Debian calls the program after its package; everybody else calls it alertmanager.
        [ "$program" = prometheus-alertmanager ] && command -v alertmanager > /dev/null && continue
        echo "$program"
    done
}

[ -z "$(missing)" ] && command -v ip > /dev/null && command -v chromium > /dev/null && exit 0
if command -v apt-get > /dev/null && [ "$(id -u)" = 0 ]; then
    # Without a service: the tests start the programs themselves.
    export DEBIAN_FRONTEND=noninteractive
    apt-get -qq update > /dev/null && apt-get -qq install -y --no-install-recommends \
        prometheus prometheus-alertmanager gcc libc6-dev iproute2 > /dev/null || true
    # Alone: where a distribution has no such package, the others are installed all the same.
    command -v chromium > /dev/null ||
        apt-get -qq install -y --no-install-recommends chromium > /dev/null || true
fi
left=$(missing)
[ -z "$left" ] && exit 0
echo "tests need" $left "on PATH: install prometheus, alertmanager and a C compiler (Debian: apt-get install prometheus prometheus-alertmanager gcc libc6-dev)" >&2
exit 1
