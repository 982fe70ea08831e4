#!/bin/sh
# Install what `make test-integration` starts on loopback, and the tracer of its long proofs, from Debian's packages:
# Ceph and strace; and the aws command line from PyPI, in an environment of its own, which is kept. Swift and HDFS are
# fetched from PyPI by their tests, and kept.
# Says what is missing, and succeeds, where it cannot: the tests are then skipped with their reason.
set -eu
kept="${TMPDIR:-/tmp}/clipperfs-test-servers-$(id -u)"
if ! command -v aws > /dev/null && [ ! -x "$kept/bin/aws" ]; then
    { mkdir -p "$kept/bin" && python3 -m venv --clear "$kept/awscli" && "$kept/awscli/bin/pip" install -q "awscli==1.46.*" &&
        ln -sf ../awscli/bin/aws "$kept/bin/aws"; } > /dev/null 2>&1 ||
        echo "installing the aws command line failed; the tests that need it will be skipped" >&2
fi

ceph_packages="ceph-mon ceph-mgr ceph-osd radosgw ceph-common"

packages=""
for program in ceph-mon ceph-mgr ceph-osd radosgw radosgw-admin ceph; do
    command -v "$program" > /dev/null || packages="$ceph_packages"
done
command -v strace > /dev/null || packages="$packages strace"
[ -n "$packages" ] || exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get > /dev/null; then
    echo "Not installed; the tests that need it will be skipped. As root on Debian: apt-get install $packages" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
# The packages start no daemon by themselves: a cluster needs a configuration first.
{ apt-get update -qq && apt-get install -qq -y --no-install-recommends $packages; } > /dev/null ||
    echo "installing $packages failed; the tests that need it will be skipped" >&2
