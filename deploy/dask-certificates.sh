#!/bin/bash
# Certificates for one Dask cluster, and Dask's settings for them:
#
#   deploy/dask-certificates.sh FOLDER [DAYS]
#
# It creates a certificate authority, signs one certificate for all programs of the cluster and deletes
# the key of the authority, so that nothing else is ever signed. FOLDER gets `ca.crt`, `tls.crt`, `tls.key`
# and `dask.yaml`, and only you can read it. Programs with DASK_CONFIG=FOLDER/dask.yaml in their environment
# speak TLS, and only with each other. The certificates are valid for 60 days, or for DAYS.
set -eu
umask 077

[ $# -ge 1 ] || { echo "usage: $0 FOLDER [DAYS]" >&2; exit 2; }
mkdir -p "$1"
chmod 700 "$1"
folder=$(cd "$1" && pwd)
days=${2:-60}
for name in ca.crt tls.crt tls.key; do
    [ ! -e "$folder/$name" ] || { echo "$folder has certificates already; remove it first" >&2; exit 1; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The certificates are good from an hour ago, as the clocks of the nodes may differ.
cat >"$work/openssl.cnf" <<EOF
[ca]
default_ca = cluster
[cluster]
dir = $work
database = \$dir/index
new_certs_dir = \$dir
rand_serial = yes
default_md = sha256
default_days = $days
default_startdate = $(date -u -d '1 hour ago' +%Y%m%d%H%M%SZ)
policy = names
[names]
commonName = supplied
[ca_of_dask]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign
subjectKeyIdentifier = hash
[dask]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
EOF
: >"$work/index"
certificate() { # its name, and the options for who signs it
    local name=$1
    shift
    openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$name" \
        -keyout "$work/$name.key" -out "$work/$name.csr" &&
        openssl ca -batch -notext -config "$work/openssl.cnf" -extensions "$name" \
            -in "$work/$name.csr" -out "$work/$name.crt" "$@"
}
{
    certificate ca_of_dask -selfsign -keyfile "$work/ca_of_dask.key" &&
        certificate dask -cert "$work/ca_of_dask.crt" -keyfile "$work/ca_of_dask.key"
} 2>"$work/log" || {
    echo "openssl cannot make the certificates: $(tail -n 1 "$work/log")" >&2
    exit 1
}
mv "$work/ca_of_dask.crt" "$folder/ca.crt"
mv "$work/dask.crt" "$folder/tls.crt"
mv "$work/dask.key" "$folder/tls.key"
path=${folder//\'/\'\'} # within quotes of YAML
cat >"$folder/dask.yaml" <<EOF
distributed:
  comm:
    default-scheme: tls
    require-encryption: true
    tls:
      ca-file: '$path/ca.crt'
      scheduler: {cert: '$path/tls.crt', key: '$path/tls.key'}
      worker: {cert: '$path/tls.crt', key: '$path/tls.key'}
      client: {cert: '$path/tls.crt', key: '$path/tls.key'}
EOF
