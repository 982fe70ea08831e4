#!/bin/sh
# Install the storage servers that `make test-integration` starts on loopback: Ceph, from Debian's packages.
# Says what is missing, and succeeds, where it cannot: the tests are then skipped with their reason.
set -eu
packages="ceph-mon ceph-mgr ceph-osd radosgw ceph-common"

missing=no
for program in ceph-mon ceph-mgr ceph-osd radosgw radosgw-admin ceph; do
    command -v "$program" > /dev/null || missing=yes
done
[ $missing = yes ] || exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get > /dev/null; then
    echo "Ceph is not installed; its tests will be skipped. As root on Debian: apt-get install $packages" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
# The packages start no daemon by themselves: a cluster needs a configuration first.
{ apt-get update -qq && apt-get install -qq -y --no-install-recommends $packages; } > /dev/null ||
    echo "installing Ceph failed; its tests will be skipped" >&2
