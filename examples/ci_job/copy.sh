#!/bin/sh
# The same job for a machine that may only copy files to where the registry is: manifest first, then rsync.
#
#   TARGET    the registry's folder as rsync names it: /srv/models, or host:/srv/models
#   MODEL     the model's name (default: digits)
#   VERSION   the version's name (default: the commit's hash)
#
# In whatever order the files arrive, and however often the connection breaks, the version is not served before all of
# it is there. A daemon then adopts it; whether it also becomes active is the model's policy:
#   clipperfs policy digits activation=on-publish
set -eu
: "${TARGET:?say where the registry is, such as host:/srv/models}"
cd "$(dirname "$0")"
model=${MODEL:-digits}
version=${VERSION:-$(git rev-parse --short=12 HEAD)}

# Kept between runs: a second run of the same commit must copy the same files, and a manifest tells them apart.
out=build/$version
if [ ! -e "$out/manifest.json" ]; then
    rm -rf "$out"
    python train.py "$out"
    clipperfs manifest "$out"
fi
# --mkpath makes models/MODEL/versions for the first version (rsync 3.2.3 and newer).
rsync --archive --mkpath "$out/" "$TARGET/models/$model/versions/$version/"
echo "copied $model/$version to $TARGET"
